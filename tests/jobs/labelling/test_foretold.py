"""What a run says before it begins: all layers, all stages, and nothing is started."""

import dataclasses
import re
from pathlib import Path

import pytest

from jobs import label
from jobs.engine import runtime
from jobs.label import LabelJob
from jobs.labelling import foretold
from jobs.labelling.layout import Layout
from tests import tiny
from tests.jobs.tiny_label import arguments, work_here


def test_a_dry_run_names_layers_and_stages_and_leaves_no_trace(job: LabelJob, capsys: pytest.CaptureFixture) -> None:
    words = [*arguments(dataclasses.replace(job, scorer=tiny.SCORER, held_out=0.5)), "--dry-run"]
    assert runtime.main(LabelJob, label.run, words, plan=label.plan) == 0
    said = capsys.readouterr().out
    assert f"Labelling 40 neurons (3 layers) of {tiny.SUBJECT}, from 23 images, into {job.output}" in said
    for name, units in tiny.LAYERS.items():
        (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{name} ")]
        assert line.split()[1] == str(units)
    stages = {line.split()[0] for line in said.splitlines() if line.endswith((" s", " min", " h"))}
    assert stages == {"exemplars", "merge", "features", "held_out", "captions", "trust"}
    assert not Path(str(job.output)).exists()


def test_a_dry_run_sees_what_the_folder_holds_already(job: LabelJob, capsys: pytest.CaptureFixture) -> None:
    work_here(job)
    assert runtime.main(LabelJob, label.run, [*arguments(job), "--dry-run"], plan=label.plan) == 0
    assert "holds this run, finished: nothing would be done" in capsys.readouterr().out
    words = [*arguments(job, k="3"), "--dry-run"]
    assert runtime.main(LabelJob, label.run, words, plan=label.plan) == runtime.BAD_INPUT
    assert "search.k: 4 there, 3 now" in capsys.readouterr().err


def test_an_output_inside_the_images_is_refused(job: LabelJob, capsys: pytest.CaptureFixture) -> None:
    words = arguments(job, output=f"{job.images}/run")
    for more in ([], ["--dry-run"]):
        assert runtime.main(LabelJob, label.run, [*words, *more], plan=label.plan) == runtime.BAD_INPUT
        assert "--output lies in --images" in capsys.readouterr().err


def test_what_an_image_takes_here_sets_the_time() -> None:
    layout = Layout(
        subjects={"a": {"l": 100}, "b": {"l": 100}},
        num_images=1000,
        images_per_item=500,
        neurons_per_item=64,
        held_out=0.2,
    )
    usual, slow = (foretold.about(layout, seconds, gpus=False) for seconds in ({}, {"a": 3.6, "b": 3.6}))
    assert re.search(r"About [34]\.\d h for one CPU core, by what an image takes here", slow), slow
    assert "h for one CPU core" not in usual
    assert "for one GPU" in foretold.about(layout, {"a": 3.6}, gpus=True)
