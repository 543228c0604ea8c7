"""Annotated neurons → a trained captioner."""
