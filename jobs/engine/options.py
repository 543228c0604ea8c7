"""What every command has beside its own options: --config, --dry-run, --debug, and help that fits on a screen."""

import ast
import dataclasses
import inspect
import os
import shutil
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jobs.storage import absolute, storage_for
from jobs.storage.places import settled
from mami_core.errors import ConfigError

_COMMON = {
    "--config FILE": "A YAML file, local or s3://, with options as this command has them, `beam_size: 10` for "
    "--beam-size 10. What the command line says goes before it; paths in it count from where it lies.",
    "--dry-run": "Show what would be done, and start nothing.",
    "--debug": "Show where in the code an error came from.",
    "-h, --help": "Show this and end.",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A command line, read as far as every command has it in common."""

    words: list[str]
    """What is left: the command's own options, those of the file among them."""
    dry_run: bool
    debug: bool
    help: bool


def read(config_class: type, arguments: Sequence[str]) -> Asked:
    """Takes out of a command line what every command understands.

    Raises:
        ConfigError: a file of options that cannot be read, or holds what the command does not have.
    """
    words, flags = [], {"--dry-run": False, "--debug": False, "--help": False}
    file: str | None = None
    given = iter(arguments)
    for word in given:
        word = {"-h": "--help", "--dry_run": "--dry-run"}.get(word, word)
        if word in flags:
            flags[word] = True
        elif word == "--config" or word.startswith("--config="):
            if file is not None:
                raise ConfigError("--config is given twice. Give it once.")
            file = word.partition("=")[2] or next(given, "")
        else:
            words.append(word)
    if file is not None:
        words = _with_file(config_class, file, words)
    return Asked(words, dry_run=flags["--dry-run"], debug=flags["--debug"], help=flags["--help"])


def fields_alone(config_class: type) -> type:
    """A dataclass with the same fields that accepts everything: without the class's own `__post_init__`."""
    hints = get_type_hints(config_class, include_extras=True)
    made = [
        (
            field.name,
            hints[field.name],
            dataclasses.field(default=field.default)
            if field.default_factory is dataclasses.MISSING
            else dataclasses.field(default_factory=field.default_factory),
        )
        for field in dataclasses.fields(config_class)
    ]
    return dataclasses.make_dataclass(config_class.__name__, made, kw_only=True)


# --- files of options ---------------------------------------------------------------------------------------------


def _with_file(config_class: type, path: str, given: Sequence[str]) -> list[str]:
    """The words that are given, and those of the file's options that are not given there already."""
    hints = get_type_hints(config_class, include_extras=True)
    known = {_option_name(field.name, hints[field.name]): field.name for field in dataclasses.fields(config_class)}
    settings = {name.replace("_", "-"): value for name, value in _mapping(path).items() if value is not None}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"{path}: there are no options {', '.join(unknown)}. Known are {', '.join(sorted(known))}.")
    there = {word.partition("=")[0].lstrip("-").replace("_", "-") for word in given if word.startswith("--")}
    there |= {option.removeprefix("no-") for option in there}
    if given and not given[0].startswith("-"):
        there |= {option for option in settings if is_positional(hints[known[option]])}
    first, last = [], []  # an option that takes several words would take what is given by its place, too
    for option, value in settings.items():
        if option not in there:
            name = known[option]
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


def _option_name(name: str, hint: Any) -> str:
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


# --- help ---------------------------------------------------------------------------------------------------------


def help_text(config_class: type, command: str) -> str:
    """What the command does, an example, and its options in the groups that the class names in `GROUPS`."""
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    hints = get_type_hints(config_class, include_extras=True)
    explained = field_docs(config_class)
    groups = {title: [name for name in names if name in fields] for title, names in _groups(config_class).items()}
    named = {name for names in groups.values() for name in names}
    groups["Options" if not groups else "More"] = [name for name in fields if name not in named]
    addresses = {*getattr(config_class, "ADDRESSES", ()), *getattr(config_class, "ADDRESSES_OR_NAMES", ())}
    entries = {name: _entry_name(field, hints[name], name in addresses) for name, field in fields.items()}
    needed = sorted(
        (name for name in fields if _is_needed(fields[name])), key=lambda name: not is_positional(hints[name])
    )
    parts = [
        " ".join(["usage:", command, *(entries[name] for name in needed), "[options]"]),
        "",
        inspect.getdoc(config_class) or "",
    ]
    if examples := _examples(config_class, command):
        parts += ["", _bold("Example"), *(f"  {line}" for line in examples)]
    for title, names in groups.items():
        if names:
            parts += ["", _bold(title)]
            parts += [_entry(entries[name], explained.get(name, "") + _default(fields[name])) for name in names]
    parts += ["", _bold("Every command"), *(_entry(option, text) for option, text in _COMMON.items())]
    return "\n".join(parts)


def _groups(config_class: type) -> Mapping[str, Sequence[str]]:
    return getattr(config_class, "GROUPS", {})


def _examples(config_class: type, command: str) -> list[str]:
    """The commands that the module's docstring shows."""
    module = sys.modules[config_class.__module__]
    lines = (module.__doc__ or "").splitlines()
    starts = [line.split(maxsplit=3)[3:] for line in lines if line.startswith("python -m jobs.")]
    return [" ".join([command, *words]) for words in starts]


def field_docs(config_class: type) -> dict[str, str]:
    """The docstring below each field, in one line."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for before, after in zip(made.body, made.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(before.target, ast.Name):
            text = ast.literal_eval(after.value) if isinstance(after.value, ast.Constant) else ""
            found[before.target.id] = " ".join(str(text).split())
    return found


def _entry_name(field: dataclasses.Field, hint: Any, is_address: bool) -> str:
    """The option and what stands behind it: `--beam-size N`, `--no-bertscore`, `RUN`."""
    kind = _kind(hint, "PATH" if is_address else "TEXT")
    if is_positional(hint):
        return field.name.upper().removesuffix("S") + " …" if kind.endswith("…") else field.name.upper()
    if is_repeated(hint):
        kind = kind.removesuffix(" …")
    dashes = "--no-" if kind == "" and field.default is True else "--"
    below = ".NAME" if dataclasses.is_dataclass(hint) else ""
    return f"{dashes}{_option_name(field.name, hint)}{below} {kind}".rstrip()


def _kind(hint: Any, text: str) -> str:
    """What may stand behind an option."""
    hint = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if get_origin(hint) in (Union, types.UnionType):
        return "|".join(_kind(each, text) for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) in (tuple, list):
        kinds = [_kind(each, text) for each in get_args(hint) if each is not Ellipsis]
        return f"{kinds[0]} …" if len(kinds) == 1 else " ".join(kinds)
    return {bool: "", int: "N", float: "X", str: text}.get(hint, "X")


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> str:
    if _is_needed(field):
        return ""
    value = field.default
    if value in (None, (), "", dataclasses.MISSING) or isinstance(value, bool):
        return ""
    return f" ({' '.join(map(str, value)) if isinstance(value, tuple) else value})"


def _entry(option: str, text: str) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    column = 24
    wrapped = textwrap.wrap(text, max(20, width - column)) or [""]
    lines = wrapped if len(option) < column - 3 else ["", *wrapped]
    first = f"  {option:<{column - 2}}{lines[0]}".rstrip()
    return "\n".join([first, *(" " * column + line for line in lines[1:])])


def _bold(text: str) -> str:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\033[1m{text}\033[0m" if coloured else text
