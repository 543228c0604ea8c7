"""torchvision's classifiers, and the backbones of its detectors and segmenters, as subjects."""

from mami_core.subjects.sources.backbones import BACKBONE_SIZE, build_backbone, list_backbones
from mami_core.subjects.sources.torchvision_networks import (
    build_torchvision,
    check_torchvision,
    layers_by_family,
    preprocessing,
)
from mami_core.subjects.sources.wanted import Wanted, no_preprocessing_by_name
from mami_core.subjects.subject import Subject, subject_of


def load_torchvision(name: str, wanted: Wanted) -> Subject:
    """The network of this name.

    Raises:
        SubjectError: there is none, or its weights cannot be had.
    """
    if name in list_backbones():
        no_preprocessing_by_name(name, wanted)
        size = wanted.input_size or BACKBONE_SIZE
        return subject_of(build_backbone(name, wanted.weights), name=f"torchvision:{name}", input_size=size, crop=1.0)
    check_torchvision(name)
    expected = preprocessing(name, wanted.weights, wanted.preprocessing)
    network = build_torchvision(name, wanted.weights)
    return subject_of(
        network,
        name=f"torchvision:{name}",
        input_size=wanted.input_size or expected.input_size,
        crop=expected.crop,
        mean=expected.mean,
        std=expected.std,
        interpolation=expected.interpolation,
        default_layers=layers_by_family(name, network),
    )
