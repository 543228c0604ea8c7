"""What a labelling run adds to the engine: what it consists of, what its workers do, what it came to."""
