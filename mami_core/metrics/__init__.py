"""Captions × descriptions → scores."""
