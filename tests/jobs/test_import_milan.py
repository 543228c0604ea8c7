"""A decoder of MILAN, imported, labels a real network through jobs.label, and MILAN's exemplars through jobs.caption.

Stopped or killed in the middle, it goes on.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import caption
from jobs.__main__ import main as mami
from jobs.caption import CaptionJob
from jobs.engine.items import Item, Output
from jobs.engine.plan import open_plan
from jobs.import_milan import ImportMilanJob
from jobs.import_milan import run as import_it
from jobs.label import LabelJob
from jobs.labelling import stages
from jobs.labelling.layout import IMAGES
from jobs.labelling.run import WORKERS
from jobs.storage import Storage, storage_for
from jobs.storage.networks import load_captioner
from mami_core import contracts
from mami_core.images import LocalFiles, batches
from mami_core.labels import labels_at
from mami_core.subjects import Trace, load_subject
from mami_core.tokenizers import write
from tests import tiny
from tests.jobs.tiny_label import arguments, labels_of, main_here, run_folder, wait, work_here
from tests.milan import Milan, mask, milan

pytest.importorskip("spacy", reason="MILAN's files hold spaCy's configuration")
pytest.importorskip("efficientnet_lite_pytorch")

# A real network and ResNet-18 at 224 pixels.
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("milan")]

LAYER, K, BEAMS, LENGTH = "_blocks.0", 4, 5, 6


@pytest.fixture(scope="module")
def theirs() -> Milan:
    return milan(3)


@pytest.fixture(scope="module")
def inputs(theirs: Milan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("milan")
    file = theirs.save(folder / "milan.pth", beam_size=BEAMS, length=LENGTH, temperature=0.4)
    import_it(ImportMilanJob(file=str(file), output=str(folder / "captioner")))
    tiny.write_photographs(folder / "photographs", 8)
    return folder


def label_job(inputs: Path, output: Path) -> LabelJob:
    return LabelJob(
        subject=("efficientnet_lite0",),
        layers=(LAYER,),
        images=str(inputs / "photographs"),
        captioner=str(inputs / "captioner"),
        output=str(output),
        k=K,
        batch_size=4,
        images_per_item=4,
        neurons_per_item=8,
        scorer="none",
    )


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return work_here(label_job(inputs, tmp_path_factory.mktemp("undisturbed")))


def test_the_captioner_is_decoded_as_milan_decodes(undisturbed: Storage) -> None:
    decode = json.loads(undisturbed.read("_PLAN.json"))["config"]["decode"]
    assert {name: decode[name] for name in ("strategy", "beam_size", "lm_weight", "max_length", "rules")} == {
        "strategy": "rerank",
        "beam_size": BEAMS,
        "lm_weight": 0.4,
        "max_length": LENGTH,
        "rules": "milan",
    }
    assert decode["length_penalty"] == 0


def test_labels_are_what_milan_says(theirs: Milan, inputs: Path, undisturbed: Storage) -> None:
    labels = labels_of(undisturbed).to_pylist()
    assert len({row["caption"] for row in labels}) > 1
    paths = [info.path for info in undisturbed.find("exemplars")]
    exemplars = {
        row["unit"]: row
        for path in paths
        for row in contracts.from_parquet(undisturbed.read(path), contracts.EXEMPLARS, where=path).to_pylist()
    }
    images = contracts.from_parquet(undisturbed.read(IMAGES), contracts.IMAGES, where="images")
    subject = load_subject("efficientnet_lite0")
    stream = batches(images, LocalFiles(), sizes=(224,), crop=subject.crop, batch_size=8, on_error=print)
    pixels = next(iter(stream)).pixels[0]
    with torch.no_grad(), Trace(subject.network, [LAYER]) as seen:
        subject.network(subject.normalise(pixels))
        maps = seen[LAYER]
    compared = 0
    for label in [row for row in labels if not row["dead"]][:6]:
        neuron = exemplars[label["unit"]]
        masks = torch.stack([mask(maps[image, label["unit"]], neuron["threshold"]) for image in neuron["images"]])
        features = theirs.encode(pixels[neuron["images"]].float() / 255, masks[:, None].float())
        # A run keeps features in half precision.
        _, said = theirs.rerank(features.half().float()[None], size=BEAMS, length=LENGTH, lm_weight=0.4)
        assert label["caption"] == write(theirs.ordinary(said), "spacy")
        compared += 1
    assert compared == 6


class Stopped(stages.EncodeImages):
    """Is stopped before its second item."""

    def process(self, item: Item, storage: Storage) -> Output:
        if item.index == 1:
            raise KeyboardInterrupt
        return super().process(item, storage)


def test_stopped_in_the_middle_it_goes_on(
    inputs: Path, undisturbed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = label_job(inputs, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setitem(WORKERS, "features", Stopped)
        with pytest.raises(KeyboardInterrupt):
            work_here(job)
    assert len(list(storage_for(str(job.output)).find("_work/features"))) == 1
    assert run_folder(work_here(job)) == run_folder(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(300)  # two processes that import everything, on machines that do other things as well
def test_killed_in_the_middle_it_goes_on(inputs: Path, undisturbed: Storage, tmp_path: Path) -> None:
    job = label_job(inputs, tmp_path / "run")
    storage = storage_for(str(job.output))
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments(job)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    wait(lambda: bool(list(storage.find("_work/features"))), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not storage.exists("_MANIFEST.json")
    assert main_here(job) == 0
    assert run_folder(storage) == run_folder(undisturbed)


_PROGRAM = """
from jobs.engine import runtime
from jobs.label import LabelJob
from jobs.labelling.layout import IMAGES
from tests.jobs.tiny_label import work_here

def run(job: LabelJob) -> None:
    work_here(job)

runtime.main(LabelJob, run)
"""


def test_what_is_asked_for_goes_before_what_milan_does(inputs: Path, tmp_path: Path) -> None:
    own = load_captioner(str(inputs / "captioner")).decode
    job = dataclasses.replace(label_job(inputs, tmp_path), length_penalty=0.7, strategy="likelihood", regions="mami")
    changed = job.label_config(own)
    assert (changed.decode.length_penalty, changed.decode.strategy, changed.decode.beam_size) == (
        *(0.7, "likelihood"),
        BEAMS,
    )
    assert changed.regions == "mami"


# --- a folder of exemplars


def test_a_folder_of_exemplars_is_captioned_as_milan_captions_it(theirs: Milan, inputs: Path, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (2, K, 3, 224, 224), dtype=torch.uint8, generator=random)
    masks = torch.rand(2, K, 1, 7, 7, generator=random).repeat_interleave(32, 3).repeat_interleave(32, 4) > 0.8
    masks[0, 1] = False
    pictures[1, 2], masks[1, 2] = 0, False  # black, and yet an image: a weaker one follows
    layer = tmp_path / "net/layer4.1.conv2"
    layer.mkdir(parents=True)
    np.save(layer / "images.npy", pictures)
    np.save(layer / "masks.npy", masks)
    job = CaptionJob(
        exemplars=str(tmp_path / "net"), captioner=str(inputs / "captioner"), output=str(tmp_path / "labels")
    )
    prepared, storage = caption.prepare(job), storage_for(job.output)
    caption.work(storage, open_plan(storage, prepared.config), job, prepared, None)
    for row, label in enumerate(labels_at(storage.url).to_pylist()):
        features = theirs.encode(pictures[row].float() / 255, masks[row].float())
        score, words = theirs.rerank(features.half().float()[None], size=BEAMS, length=LENGTH, lm_weight=0.4)
        assert label["caption"] == write(theirs.ordinary(words), "spacy")
        assert label["score"] == pytest.approx(score, abs=1e-2)


def test_what_is_no_decoder_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "other.pth"
    torch.save({"weights": torch.zeros(2)}, file)
    assert mami(["import-milan", str(file), "--output", str(tmp_path / "captioner")]) == 2
    assert "'properties'" in capsys.readouterr().err
    assert not (tmp_path / "captioner").exists()
