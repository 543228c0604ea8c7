"""What the documentation says to do works: code blocks run, commands parse, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from jobs import __main__ as mami
from jobs.storage import Storage
from tests.jobs.reporting.conftest import finished  # noqa: F401

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every `mami NAME …` and `python -m jobs.NAME …` of the page's shell blocks: the name, and its words."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^\s*|-- )(?:mami |python -m jobs\.)([a-z][a-z_-]*) ([^…]*)$", line):
                yield found[1].replace("_", "-"), shlex.split(found[2], comments=True)


EVERY = [(page, *command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "name", "words"), EVERY, ids=lambda value: getattr(value, "stem", str(value)[:40]))
def test_commands_are_understood(page: Path, name: str, words: list[str]) -> None:
    assert name in mami.there(), f"{page.name}: there is no command {name}"
    if "--help" in words or any(word.startswith(("--config", "$")) for word in words):
        return
    tyro.cli(mami.config_of(name), args=[word for word in words if word != "--dry-run"])


def python(page: Path) -> list[str]:
    """The page's code, of a layer that the run has, without what reads from a bucket that stands for the reader's."""
    return [block.replace("_blocks.10._bn1", "stage.deep") for block in blocks(page, "python") if '"s3://' not in block]


WITH_CODE = [page for page in PAGES if python(page)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_python_runs(
    page: Path,
    finished: Storage,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One block after the other, where `make demo` was run."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/labels").symlink_to(finished.url)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in python(page):
        if "polars" in block:
            pytest.importorskip("polars")
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"
