"""Captioners that come with the project: folders of a checkpoint and a model card each, ready to be loaded."""

from pathlib import Path

SHIPPED = "shipped"
"""The name that stands for the captioner that comes with the project, wherever a captioner's folder can be given."""


def shipped() -> Path:
    """The folder of the captioner that is taken when none is named; its README.md is the model card."""
    return Path(__file__).parent / "dissected"
