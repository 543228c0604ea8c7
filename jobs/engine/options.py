"""What every command has beside its own options: --config, --dry-run, --debug, and help that fits on a screen."""

import ast
import dataclasses
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jobs.engine.option_files import (
    bare,
    is_positional,
    is_repeated,
    nothing_like,
    option_name,
    text_fits,
    wanted,
    with_file,
)
from mami_core.errors import ConfigError

Config = TypeVar("Config")

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
        words = with_file(config_class, file, words)
    return Asked(words, dry_run=flags["--dry-run"], debug=flags["--debug"], help=flags["--help"])


def parsed(config_class: type[Config], words: Sequence[str], command: str) -> Config:
    """The job of these words. What they get wrong is one line, as every error of ours, and no box of tyro's.

    Raises:
        ConfigError: words that the command does not understand.
    """
    import tyro

    _check(config_class, words)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            values = tyro.cli(fields_alone(config_class), prog=command, args=words)
    except SystemExit as error:
        text = said.getvalue().partition("For full helptext")[0]
        text = " ".join(re.sub(r"[─-╿]+|-{3,}", " ", text).split())  # without the box around it
        raise ConfigError(f"{text}. `{command} --help` lists the options.") from error
    return config_class(**{field.name: getattr(values, field.name) for field in dataclasses.fields(values)})


def _check(config_class: type, words: Sequence[str]) -> None:
    """Refuses what can be said more plainly here than where the words are parsed."""
    hints = get_type_hints(config_class, include_extras=True)
    known = {f"--{option_name(name, hint)}": hint for name, hint in hints.items() if name in _fields(config_class)}
    for word, after in pairwise([*words, "--"]):
        given, equals, value = word.partition("=")
        option, below, _ = given.replace("_", "-").partition(".")
        if not word.startswith("--"):
            continue
        if not {option, option.replace("--no-", "--", 1)} & known.keys():
            raise ConfigError(nothing_like(option, known))
        value = value if equals else after
        if option in known and not below and not value.startswith("--") and not text_fits(value, known[option]):
            raise ConfigError(f"{option} wants {wanted(known[option])}, got {value!r}.")


def _fields(config_class: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(config_class)}


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


# --- help ---------------------------------------------------------------------------------------------------------


def help_text(config_class: type, command: str) -> str:
    """What the command does, an example, and its options in the groups that the class names in `GROUPS`."""
    fields = _fields(config_class)
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
    return f"{dashes}{option_name(field.name, hint)}{below} {kind}".rstrip()


def _kind(hint: Any, text: str) -> str:
    """What may stand behind an option."""
    return "|".join(_one_kind(each, text) for each in bare(hint))


def _one_kind(kind: Any, text: str) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) in (tuple, list):
        kinds = [_kind(each, text) for each in get_args(kind) if each is not Ellipsis]
        return f"{kinds[0]} …" if len(kinds) == 1 else " ".join(kinds)
    return {bool: "", int: "N", float: "X", str: text}.get(kind, "X")


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
