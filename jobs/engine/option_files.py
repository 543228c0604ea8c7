"""What the command line calls a job's fields, and files that hold what the options hold: --config."""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jobs.storage import absolute, storage_for
from jobs.storage.places import settled
from mami_core.errors import ConfigError


def with_file(config_class: type, path: str, given: Sequence[str]) -> list[str]:
    """The words that are given, and those of the file's options that are not given there already."""
    hints = get_type_hints(config_class, include_extras=True)
    known = {option_name(field.name, hints[field.name]): field.name for field in dataclasses.fields(config_class)}
    settings = {name.replace("_", "-"): value for name, value in _mapping(path).items() if value is not None}
    for unknown in sorted(settings.keys() - known):
        raise ConfigError(f"{path}: {nothing_like(unknown, known)}")
    there = {word.partition("=")[0].lstrip("-").replace("_", "-") for word in given if word.startswith("--")}
    there |= {option.removeprefix("no-") for option in there}
    if given and not given[0].startswith("-"):
        there |= {option for option in settings if is_positional(hints[known[option]])}
    first, last = [], []  # an option that takes several words would take what is given by its place, too
    for option, value in settings.items():
        if option not in there:
            name = known[option]
            if not _fits(value, hints[name]):
                raise ConfigError(f"{path}: {option} wants {wanted(hints[name])}, got {value!r}.")
            words = _words(option, _from(path, config_class, name, value), hints[name])
            (first if is_positional(hints[name]) else last).extend(words)
    return [*first, *given, *last]


def _from(path: str, config_class: type, name: str, value: Any) -> Any:
    """An address as it is meant where the file lies; anything else as it is."""
    folder, or_name = absolute(path).rpartition("/")[0] or "/", name in getattr(config_class, "ADDRESSES_OR_NAMES", ())
    if not or_name and name not in getattr(config_class, "ADDRESSES", ()):
        return value
    if isinstance(value, list):
        return [settled(str(each), folder, or_name=or_name) for each in value]
    return settled(str(value), folder, or_name=or_name)


def _mapping(path: str) -> Mapping[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(storage_for(absolute(path).rpartition("/")[0] or "/").read(absolute(path)).decode())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: expected a YAML file with options: {error}") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(f"--config {path}: expected a mapping of options to values, such as 'beam_size: 10'.")
    return settings


def option_name(name: str, hint: Any) -> str:
    """What the command line calls a field, without the dashes before it."""
    given = (getattr(each, "name", None) for each in getattr(hint, "__metadata__", ()))
    return next((each for each in given if isinstance(each, str)), name.replace("_", "-"))


def _words(name: str, value: Any, hint: Any) -> list[str]:
    option = f"--{name}"
    if isinstance(value, bool):
        return [option if value else f"--no-{name}"]
    values = [str(each) for each in (value if isinstance(value, list) else [value])]
    if is_positional(hint):
        return values
    if is_repeated(hint):
        return [word for each in values for word in (option, each)]
    return [option, *values]


def is_positional(hint: Any) -> bool:
    """Whether an option is given by its place alone."""
    import tyro

    return tyro.conf.Positional[str].__metadata__[0] in getattr(hint, "__metadata__", ())


def is_repeated(hint: Any) -> bool:
    """Whether an option is meant to be given several times."""
    import tyro

    return tyro.conf.UseAppendAction in getattr(hint, "__metadata__", ())


def nothing_like(option: str, known: Iterable[str]) -> str:
    """That there is no such option, and which is meant."""
    like = "".join(f" Did you mean {each}?" for each in difflib.get_close_matches(option, sorted(known), 1))
    return f"there is no option {option}.{like} --help lists what there is."


# --- kinds of values ----------------------------------------------------------------------------------------------


def bare(hint: Any) -> tuple[Any, ...]:
    """The kinds that an option takes, without what is said beside them, and without None."""
    if hasattr(hint, "__metadata__"):
        return bare(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(kind for each in get_args(hint) if each is not type(None) for kind in bare(each))
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_is_a(value, kind) for kind in bare(hint))


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (tuple, list):
        each = get_args(kind)[0]
        return all(_fits(one, each) for one in value) if isinstance(value, list) else _fits(value, each)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    numbers = {int: int, float: int | float}
    return isinstance(value, numbers[kind]) if kind in numbers else not isinstance(value, list | dict)


def text_fits(text: str, hint: Any) -> bool:
    """Whether this word can stand behind an option; of lists and of what tyro alone knows, it says yes."""
    return any(_reads_as(text, kind) for kind in bare(hint))


def _reads_as(text: str, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return text in map(str, get_args(kind))
    if kind not in (int, float):
        return True
    try:
        kind(text)
    except ValueError:
        return False
    return True


def wanted(hint: Any) -> str:
    """What may stand behind an option, in words."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    said = []
    for kind in bare(hint):
        if get_origin(kind) is Literal:
            said.append(f"one of {', '.join(map(str, get_args(kind)))}")
        elif get_origin(kind) in (tuple, list):
            said.append(f"a list, each {wanted(get_args(kind)[0])}")
        else:
            said.append(names.get(kind, "another value"))
    return " or ".join(said)
