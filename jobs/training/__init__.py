"""What a training run adds to the engine: where annotated neurons come from, their features, the loop."""
