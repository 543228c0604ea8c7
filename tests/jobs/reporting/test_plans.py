"""--dry-run, for every command: what would be read and written and where, and not a byte of it."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import __main__ as mami
from jobs import reproduce
from jobs.storage import Storage
from tests import tiny
from tests.annotating import PLANTED, write_photographs, write_wordnet
from tests.jobs.tables import snapshot

pytestmark = pytest.mark.xdist_group("report")

Words = Callable[[Storage, Path], list[str]]


def people_csv(folder: Path) -> Path:
    """What somebody said of two layers' neurons."""
    lines = [f"{layer},{unit},some words" for layer, units in tiny.LAYERS.items() for unit in range(units)]
    (folder / "people.csv").write_text("\n".join(["layer,unit,summary", *lines]))
    return folder / "people.csv"


def annotated(folder: Path) -> list[str]:
    write_photographs(folder / "apples")
    words = ["--photographs", str(folder / "apples"), "--wordnet", str(write_wordnet(folder / "wordnet"))]
    return [*words, "--subject", PLANTED, "--layers", "colours", "--locator", "none"]


PLANS: dict[str, Words] = {
    "report": lambda run, there: [run.url, "--output", f"{there}/made"],
    "show": lambda run, there: [run.url, "clamped", "2", "--output", f"{there}/made.png"],
    "similar": lambda run, there: [run.url, "clamped", "2"],
    "compare": lambda run, there: [run.url, run.url, "--output", f"{there}/made"],
    "export": lambda run, there: [run.url, "--format", "csv", "--output", f"{there}/made.csv"],
    "evaluate": lambda run, there: [
        *("--labels", run.url, "--descriptions", str(people_csv(there)), "--output", f"{there}/made")
    ],
    "train": lambda run, there: ["--num-generated", "40", "--encoder", tiny.SUBJECT, "--output", f"{there}/made"],
    "annotate": lambda run, there: [*annotated(there), "--output", f"{there}/made"],
    "demo": lambda run, there: ["--folder", f"{there}/made"],
}
ONLY_LOOK = ("status", "subjects", "simulate")
NEED_MORE = ("label", "caption", "import-milan", "fit-scorer", "reproduce")
"""Plans that are tested where their inputs are made."""


@pytest.mark.parametrize("command", PLANS)
def test_a_plan_says_what_and_where_and_starts_nothing(
    command: str, finished: Storage, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words, before = PLANS[command](finished, tmp_path), snapshot(finished)
    assert mami.main([command, *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Nothing was started." in said
    assert "a rough guess" in said
    assert "one CPU core" in said
    assert ("made" if command != "similar" else finished.url) in said
    assert snapshot(finished) == before
    assert not list(tmp_path.glob("made*"))


def test_every_command_has_a_plan_or_only_looks() -> None:
    planned = {name for name in mami.there() if hasattr(importlib.import_module(mami._module(name)), "plan")}
    assert planned == {*PLANS, *NEED_MORE}
    assert {*mami.there()} - planned == {*ONLY_LOOK}


def test_the_recipe_foretells_the_time_that_its_training_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce.annotate, "plan", lambda _job: "")
    for folder in ("annotated/coco", "text"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "text" / "wordnet.zip").touch()
    said = reproduce.plan(reproduce.Reproduction(data=str(tmp_path), output=str(tmp_path / "out")))
    time = re.search(r"\d+ minutes on two CPU cores", said)
    assert time is not None
    assert time[0] in (reproduce.captioner.__doc__ or "")
