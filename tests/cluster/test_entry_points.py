"""Every command that a file of cluster/ or its documentation runs: the module exists, and takes these options."""

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

from jobs.engine import runtime

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *sorted(path for path in (REPOSITORY / "cluster").iterdir() if path.is_file()),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
COMMAND = re.compile(r"python -m (jobs\.\w+)((?:[^\S\n]*(?:\\\n|\n[ #]*(?=--))?[^\n`'&>|\\]*)*)")


def commands(text: str) -> list[tuple[str, str]]:
    """(module, options) of every command in a text; lines that end in a backslash, or begin with --, go together."""
    return [(module, re.sub(r"\\?\n[ #]*", " ", rest).strip()) for module, rest in COMMAND.findall(text)]


FOUND = [(page.name, module, rest) for page in PAGES for module, rest in commands(page.read_text())]
COMPLETE = [found for found in FOUND if found[2] and "…" not in found[2] and found[2] != "--help"]


def test_a_command_is_read_over_several_lines() -> None:
    text = (
        "a: >-\n  python -m jobs.label\n  --subject x\n  --output y/$(date -u +%F)\nb: 1\n`python -m jobs.status OUT`\n"
    )
    assert commands(text) == [("jobs.label", "--subject x --output y/$(date -u +%F)"), ("jobs.status", "OUT")]
    assert commands("ray job submit -- python -m jobs.label \\\n  --subject x > log\n") == [
        ("jobs.label", "--subject x")
    ]


def test_the_commands_are_found() -> None:
    modules = {module for _, module, _ in FOUND}
    assert {"jobs.label", "jobs.train", "jobs.evaluate"} <= modules
    assert {"rayjob.yaml", "raycronjob.yaml"} <= {page for page, _, _ in COMPLETE}


@pytest.mark.parametrize("module", sorted({module for _, module, _ in FOUND}))
def test_entry_point_exists(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize(("page", "module", "rest"), COMPLETE, ids=lambda part: part.split()[0])
def test_options_are_options_of_the_job(page: str, module: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the module as `python -m` does, with the job's work taken out: only its command line is made and read."""
    arguments = shlex.split(rest.replace("$(date -u +%F)", "2026-01-31"), comments=True)
    read: list[Any] = []

    def main(config_class: type, *_: object, **__: object) -> int:
        read.append(tyro.cli(config_class, args=arguments))
        return runtime.COMPLETE

    monkeypatch.setattr(runtime, "main", main)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert (end.value.code, len(read)) == (runtime.COMPLETE, 1)
