"""The method: images → activations → exemplars → features → captions → labels. Pure PyTorch, no cluster."""
