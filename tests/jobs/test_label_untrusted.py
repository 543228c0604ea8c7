"""Names and words from elsewhere: they stay in the folder, and off the terminal."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from jobs import demo, evaluate, label, status
from jobs.engine import runtime
from jobs.evaluate import EvaluateJob
from jobs.label import LabelJob
from jobs.status import StatusJob
from tests import tiny
from tests.jobs.tiny_label import arguments, main_here, work_here

ORDERS = "\x1b[2J\r\x9b"
"""Clears a terminal's screen, goes back to the line's beginning, begins another order."""


def check_harmless(text: str) -> None:
    assert not set("\x1b\r\x9b") & set(text)


def test_a_layer_with_an_awkward_name_stays_in_the_folder_and_off_the_terminal(
    job: LabelJob, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    job = dataclasses.replace(job, subject=("python:tests.tiny:awkward",))
    around = sorted(tmp_path.iterdir())
    storage = work_here(job)
    assert sorted(tmp_path.iterdir()) == [*around, tmp_path / "run"]
    parts = [info.path for info in storage.find("labels")]
    assert all(
        part.startswith("labels/python~3Atests.tiny~3Aawkward/scores.~2Fetc~2F~7E~1B~5B2J~0D~252F") for part in parts
    )
    assert set(pd.read_parquet(f"{job.output}/labels")["layer"]) == {tiny.AWKWARD}
    storage.delete(parts[0])
    storage.delete("_MANIFEST.json")
    assert status.run(StatusJob(run=str(job.output), missing=True)) == 1
    demo._show(Path(str(job.output)), 5)
    captured = capsys.readouterr()
    assert "\\u001b[2J" in captured.out
    check_harmless(captured.out + captured.err)


def test_the_name_of_a_broken_image_stays_off_the_terminal(
    job: LabelJob, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / f"a{ORDERS}.jpg").write_bytes(b"broken")
    job = dataclasses.replace(job, images=str(folder))
    assert main_here(job) == 2
    captured = capsys.readouterr()
    assert "the first is a\\u001b[2J\\u000d\\u009b.jpg: not one of JPEG" in captured.err
    check_harmless(captured.out + captured.err)


def test_a_captioner_whose_words_are_no_words_is_refused(
    job: LabelJob, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """So captions cannot hold anything but letters and digits."""
    folder = tiny.write_captioner(tmp_path / "captioner")
    config = (folder / "config.json").read_text()
    assert '"striped"' in config
    (folder / "config.json").write_text(config.replace('"striped"', json.dumps(f"striped{ORDERS}")))
    assert runtime.main(LabelJob, label.run, arguments(job, captioner=str(folder))) == 2
    captured = capsys.readouterr()
    assert "single lower-case words" in captured.err
    check_harmless(captured.out + captured.err)


def test_what_people_wrote_stays_off_the_terminal(job: LabelJob, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    work_here(job)
    rows = [("scores", unit, f"stripes\x1b[2J\x9b{unit}") for unit in range(8)]
    pd.DataFrame(rows, columns=["layer", "unit", "summary"]).to_csv(tmp_path / "people.csv", index=False)
    places = {"descriptions": str(tmp_path / "people.csv"), "output": str(tmp_path / "scores")}
    evaluate.run(EvaluateJob(labels=str(job.output), bertscore=False, **places))
    captured = capsys.readouterr()
    assert "stripes\\u001b[2J" in captured.out
    check_harmless(captured.out + captured.err + (tmp_path / "scores" / "summary.txt").read_text())
