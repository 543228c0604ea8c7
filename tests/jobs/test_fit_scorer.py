"""From annotated photographs to a scorer that judges, by the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from jobs import fit_scorer
from jobs.engine import runtime
from jobs.fit_scorer import FitScorerJob
from mami_core.metrics.scorers.packaged import COLOURS, FILE, INPUT_SIZE, Joint, look, look_of
from mami_core.metrics.sentences import load_sentences
from mami_core.subjects import load_subject

KINDS = {"red": "a red wall", "blue": "the blue sea"}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One source of 16 plain pictures, one of them broken and one of which nobody says anything."""
    folder = tmp_path_factory.mktemp("annotated") / "plain"
    (folder / "images").mkdir(parents=True)
    random, lines = np.random.default_rng(0), []
    for number in range(16):
        colour = list(KINDS)[number % 2]
        pixels = np.array(COLOURS[colour]) + random.integers(-5, 6, (40, 40, 3))
        name = f"images/{number:02d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        if number:
            lines.append({"image": name, "names": [colour], "phrases": [KINDS[colour], f"{KINDS[colour]} again"]})
    (folder / "images/03.png").write_bytes(b"broken")
    (folder / "regions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder.parent


def test_the_command_makes_a_scorer_that_tells_what_it_was_shown(
    annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "a folder that is not there yet" / FILE
    words = ["--photographs", str(annotated), "--output", str(output), "--held-out", "0.2"]
    assert runtime.main(FitScorerJob, fit_scorer.run, words) == runtime.COMPLETE
    held_out = int(capsys.readouterr().out.split("photographs; ")[1].split()[0])
    assert [file.name for file in output.parent.iterdir()] == [FILE]
    assert 0 < held_out < 8
    assert "Left out plain/03.png" in caplog.text
    joint = Joint.of(load(output.read_bytes()))
    pixels = torch.tensor([COLOURS[colour] for colour in KINDS], dtype=torch.uint8)[:, :, None, None]
    pixels = pixels.expand(-1, 3, INPUT_SIZE, INPUT_SIZE)
    with torch.inference_mode():
        head, _ = look(load_subject("efficientnet_lite2", input_size=INPUT_SIZE), pixels)
        seen = joint.learned(torch.cat([head, look_of(pixels)], dim=1))
    fits = seen @ (load_sentences().embed(list(KINDS.values())) - joint.text_centre).T
    assert fits.argmax(0).tolist() == [0, 1], "of the two pictures, each text fits its own"


def test_a_source_has_one_name_wherever_it_is_given(annotated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs are held out by it."""
    monkeypatch.chdir(annotated / "plain")
    given = [(".",), (str(annotated),), (f"{annotated}/plain/",)]
    keys = [fit_scorer.chosen(FitScorerJob(photographs=each, output="learned"))[1]["key"].to_pylist() for each in given]
    assert keys[0] == keys[1] == keys[2]
    assert keys[0][0].startswith("plain/")


def test_photographs_of_which_nothing_is_said_are_refused(
    tmp_path: Path, annotated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = shutil.copytree(annotated / "plain", tmp_path / "silent")
    (silent / "regions.jsonl").write_text('{"image": "images/01.png"}\n{"image": "images/02.png"}')
    words = ["--photographs", str(silent), "--output", str(tmp_path / FILE)]
    assert runtime.main(FitScorerJob, fit_scorer.run, words) == runtime.BAD_INPUT
    assert "expected 2 photographs or more to fit to, of which something is said, found 0" in capsys.readouterr().err
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(("output", "message"), [("", "is a folder"), (f"file/{FILE}", "a file stands where")])
def test_a_place_where_nothing_can_be_written_is_refused_before_any_work(
    output: str,
    message: str,
    annotated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(fit_scorer, "look_at", lambda _images: pytest.fail("looked at photographs"))
    words = ["--photographs", str(annotated), "--output", str(tmp_path / output)]
    assert runtime.main(FitScorerJob, fit_scorer.run, words) == runtime.BAD_INPUT
    assert message in capsys.readouterr().err
