"""The subjects of a run, as a job's settings name them; several from a YAML file: a list of names or mappings.

- efficientnet_lite0
- name: torchvision:resnet50
  weights: s3://models/resnet50.safetensors
  preprocessing: IMAGENET1K_V1
  layers: [layer3, layer4.*]
- name: torchvision:resnet50
  as: resnet50 after finetuning
  weights: s3://models/finetuned.safetensors
- name: python:mine.networks:make
  input_size: 160
  crop: 1.0
  mean: [127.5, 127.5, 127.5]
  std: [127.5, 127.5, 127.5]

A weights file is looked for from the folder of the list.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from jobs.labelling.specs import SubjectSpec
from jobs.storage import absolute, redact, storage_for
from jobs.storage.places import settled
from mami_core.errors import ConfigError
from mami_core.sizes import Filter

_SETTINGS = ("weights", "preprocessing", "input_size", "crop", "mean", "std", "interpolation")
"""Of the one subject, or all, that a job names without a file."""


def subjects_of(settings: Mapping[str, Any]) -> tuple[SubjectSpec, ...]:
    """The subjects that the settings of a labelling job name, each with what it takes to load it.

    The settings are the job's own, or what its run.json keeps of them.

    Raises:
        ConfigError: no subject, one given twice, settings for more than one, or a file that lists none.
    """
    file = settings["subjects_file"]
    specs = read_subjects(file) if file else _given(settings)
    names = [spec.id for spec in specs]
    if not names:
        raise ConfigError("Which network? Give --subject NAME, such as torchvision:resnet50, or a --subjects-file.")
    if len(set(names)) < len(names):
        raise ConfigError(
            f"Expected one or more different subjects, got {', '.join(names)}. Two checkpoints of one "
            "network need names of their own: --as NAME for each, or `as: NAME` in a --subjects-file."
        )
    if file and any(settings.get(name) for name in ("subject", "as_", *_SETTINGS)):
        raise ConfigError(
            "--subjects-file says it all: leave out --subject, --as, --weights, --preprocessing, --input-size, "
            "--crop, --mean, --std and --interpolation."
        )
    if settings["weights"] and len(names) > 1:
        raise ConfigError("--weights fits one subject; give several with their weights in a --subjects-file.")
    return tuple(
        dataclasses.replace(
            spec,
            layers=spec.layers or tuple(settings["layers"]),
            ends=spec.ends if spec.ends != "highest" else settings["ends"],
        )
        for spec in specs
    )


def _given(settings: Mapping[str, Any]) -> tuple[SubjectSpec, ...]:
    names, called = settings["subject"], settings["as_"]
    if called and len(called) != len(names):
        raise ConfigError(f"Expected an --as for each --subject, got {len(called)} for {len(names)}.")
    given: dict[str, Any] = {name: settings.get(name) for name in _SETTINGS}
    given |= {name: tuple(given[name]) for name in ("mean", "std") if given[name] is not None}
    return tuple(
        SubjectSpec(
            name=name,
            as_=called[number] if called else None,
            dictionaries=tuple(map(_anywhere, settings["dictionary"])),
            **given,
        )
        for number, name in enumerate(names)
    )


def _anywhere(dictionary: str) -> str:
    """layer=FILE with the file by its whole path."""
    layer, _, path = dictionary.partition("=")
    return f"{layer}={absolute(path)}" if Path(path).exists() else dictionary


def read_subjects(path: str) -> tuple[SubjectSpec, ...]:
    """The subjects that a file lists, local or s3://.

    Raises:
        ConfigError: the file is not such a list; says which entry, what was expected and what came.
        StorageError: it cannot be read.
    """
    folder, _, name = absolute(path).rpartition("/")
    try:
        entries = yaml.safe_load(storage_for(folder or "/").read(name))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{redact(path)} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{redact(path)}: expected a list of subjects, got {_shown(entries)}.")
    wheres = (f"{redact(path)}, subject {number}" for number in range(1, len(entries) + 1))
    return tuple(_spec(entry, where, folder or "/") for entry, where in zip(entries, wheres, strict=True))


def _spec(entry: Any, where: str, folder: str) -> SubjectSpec:
    values = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or "name" not in values:
        raise ConfigError(f"{where}: expected a name, or a mapping with a name, got {_shown(entry)}.")
    if unknown := values.keys() - _FIELDS.keys():
        raise ConfigError(
            f"{where}: expected only {', '.join(_FIELDS)}, got also {', '.join(sorted(map(str, unknown)))}."
        )
    fields = {key: _value(key, value, where) for key, value in values.items() if value is not None}
    if "weights" in fields:
        fields["weights"] = settled(fields["weights"], folder, or_name=True)
    return SubjectSpec(**{"as_" if key == "as" else key: value for key, value in fields.items()})


def _value(key: str, value: Any, where: str) -> Any:
    expected, fits, convert = _FIELDS[key]
    if not fits(value):
        raise ConfigError(f"{where}: {key} must be {expected}, not {_shown(value)}.")
    return convert(value)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _are_three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _floats(value: list[float]) -> tuple[float, ...]:
    return tuple(map(float, value))


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    "name": ("a text", _is_text, str),
    "as": ("a text", _is_text, str),
    "weights": ("a text", _is_text, str),
    "preprocessing": ("a text", _is_text, str),
    "layers": ("a list of texts", _are_texts, lambda value: (value,) if isinstance(value, str) else tuple(value)),
    "ends": ("highest, lowest or both", ("highest", "lowest", "both").__contains__, str),
    "dictionaries": (
        "a list of layer=FILE",
        _are_texts,
        lambda value: (value,) if isinstance(value, str) else tuple(value),
    ),
    "input_size": (
        "a whole number, or height and width",
        lambda value: _is_whole(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value))),
        lambda value: value if isinstance(value, int) else tuple(value),
    ),
    "crop": ("a number", _is_number, float),
    "mean": ("three numbers", _are_three, _floats),
    "std": ("three numbers", _are_three, _floats),
    "interpolation": (f"one of {', '.join(get_args(Filter))}", get_args(Filter).__contains__, str),
}
