"""A subject with a dictionary over one of its layers."""

import dataclasses
import hashlib
from pathlib import Path

from mami_core.errors import SubjectError
from mami_core.subjects.layers import list_layers
from mami_core.subjects.names import nearest
from mami_core.subjects.reading.dictionary_files import read_dictionary
from mami_core.subjects.reading.trace import canonical_names
from mami_core.subjects.subject import Subject


def with_dictionary(subject: Subject, given: str) -> Subject:
    """The subject with the latents of a dictionary as one more layer, "layer:NAME" after the file's or folder's name.

    Args:
        subject: The subject.
        given: "layer=FILE", as `reading.dictionary_files` reads it.

    Raises:
        SubjectError: no such layer or file, or one that does not fit the layer.
    """
    layer, separator, path = given.partition("=")
    if not separator or not path:
        raise SubjectError(f"'{given}': expected layer=FILE, such as 'blocks.11=sae.safetensors'.")
    layer = canonical_names(subject.network).get(layer, layer)
    infos = {info.name: info for info in list_layers(subject)}
    if layer not in infos:
        raise SubjectError(f"{subject.name} has no layer '{layer}' that can be read.{nearest(layer, infos)}")
    dictionary = read_dictionary(path, layer)
    expected = infos[layer].num_units
    if dictionary.encoder.shape[1] != expected:
        raise SubjectError(
            f"The dictionary '{path}' takes {dictionary.encoder.shape[1]} inputs, but layer '{layer}' of "
            f"{subject.name} has {expected} units. It was made for another layer or network."
        )
    name = f"{layer}:{Path(path).stem}"
    both = hashlib.sha256(f"{subject.weights_id} {name} {dictionary.id}".encode()).hexdigest()[:16]
    return dataclasses.replace(subject, dictionaries={**subject.dictionaries, name: dictionary}, weights_id=both)
