"""Activations → exemplars: the strongest images of every unit, its threshold, and where in the image it looks."""
