"""Training over real Ray Train workers: a captioner comes out, and interruptions change nothing."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from jobs import train
from jobs.engine.plan import MANIFEST, open_plan, read_manifest
from jobs.label import LabelJob
from jobs.labelling.run import work
from jobs.storage import Storage, storage_for
from jobs.train import TrainJob
from jobs.training.annotated import Source
from jobs.training.loop import TrainSpec, train_on_ray
from mami_core.captions.evidence import Phrase
from mami_core.errors import ConfigError, DescriptionsError, IncompleteRunError, RunMismatchError
from mami_core.features import load_encoder
from mami_core.learning import checkpoint
from mami_core.learning.annotated_features import examples_of
from mami_core.learning.annotated_writing import write_annotated
from mami_core.learning.descriptions import Shown
from mami_core.learning.generated import GeneratedConfig, generate
from tests import tiny
from tests.jobs.faultproxy import FAULTS, FaultProxy
from tests.jobs.processes import below, read

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("ray too"), pytest.mark.timeout(400)]


PHRASES = (Phrase("objects", "noun"), Phrase("yellow", "colour"), Phrase("stripes", "noun"), Phrase("zebras", "noun"))


@pytest.fixture(scope="module")
def neurons(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small folder in MILANNOTATIONS' layout."""
    folder = tmp_path_factory.mktemp("annotated")
    made = generate(GeneratedConfig(num_neurons=40, num_scenes=80, k=4, size=64))
    said = [[255 * any(phrase.text in text for text in texts) for phrase in PHRASES] for texts in made.descriptions]
    truth = np.array(said, np.uint8)[:, None] * (made.images >= 0)[..., None].astype(np.uint8)
    write_annotated(dataclasses.replace(made, read_shown=lambda: Shown(PHRASES, truth)), folder)
    return str(folder)


def small(output: str, neurons: str) -> TrainJob:
    return TrainJob(
        output=output,
        neurons=neurons,
        encoder="torchvision:resnet18",
        encoder_weights="random:0",
        encoder_input_size=64,
        hidden=16,
        embedding=8,
        attention_size=8,
        language_layers=1,
        max_epochs=2,
        validation=0.2,
        test=0.2,
        num_cpus=1,
    )


def weights_of(output: str) -> dict[str, bytes]:
    storage = storage_for(output)
    return {name: storage.read(name) for name in checkpoint.FILES}


def without_dropout(output: str, neurons: str) -> TrainJob:
    """Of which any number of workers makes the same: dropout each draws for itself. Regions are as MILAN draws them."""
    job = small(output, neurons)
    return dataclasses.replace(job, dropout=0.0, exemplar_dropout=0.0, max_epochs=1, regions="milan")


@pytest.fixture(scope="module")
def finished(local_ray: None, neurons: str, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A run of one worker."""
    job = without_dropout(str(tmp_path_factory.mktemp("trained") / "run"), neurons)
    train.run(job)
    return job


def test_a_captioner_comes_out_and_a_finished_run_is_left_alone(
    finished: TrainJob, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = checkpoint.load(weights_of(finished.output))
    assert (trained.captioner.config.hidden, trained.encoder.regions) == (16, "milan")
    assert trained.notes["split"]["test"] == 0.2
    assert trained.captioner.evidence is not None
    assert {phrase.text for phrase in trained.captioner.evidence.config.phrases} <= {"objects", "yellow", "stripes"}
    assert trained.decode is not None
    assert trained.decode.evidence_weight > 0
    assert trained.captioner.taught is not None
    assert trained.captioner.taught.sequences.shape[1] == finished.in_a_row
    manifest = read_manifest(storage_for(finished.output), verify=True)
    assert {file.path for file in manifest.files} == {*checkpoint.FILES, train.SCORES, train.SUMMARY}
    before = storage_for(finished.output).find()
    train.run(finished)
    assert "shuffled" in capsys.readouterr().out
    assert storage_for(finished.output).find() == before
    with pytest.raises(RunMismatchError, match=r"hidden: 16 there, 24 now"):
        train.run(dataclasses.replace(finished, hidden=24))


def test_two_workers_share_the_work(finished: TrainJob, bucket: str, neurons: str) -> None:
    """And keep what they make in an object store. The features, which are the same, are there already."""
    here, there = storage_for(finished.output), storage_for(f"{bucket}/run")
    for info in here.find("_work/features"):
        there.write(info.path, here.read(info.path))
    train.run(dataclasses.replace(without_dropout(there.url, neurons), num_workers=2))
    one, two = (checkpoint.load(weights_of(url)) for url in (here.url, there.url))
    for name, tensor in one.captioner.state_dict().items():
        torch.testing.assert_close(tensor, two.captioner.state_dict()[name], rtol=1e-3, atol=1e-5)
    scores = pd.read_parquet(io.BytesIO(there.read(train.SCORES)))
    assert {"captions", "shuffled"} <= set(scores["source"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own defaults, in the first use of a process
def test_wrong_input_that_a_worker_finds_is_said_at_once(local_ray: None, tmp_path: Path, neurons: str) -> None:
    """And not after as many tries as a lost worker is worth."""
    job = small(str(tmp_path / "run"), neurons)
    spec = TrainSpec(
        name="train-wrong",
        url=job.output,
        source=Source(name=str(tmp_path / "gone")),
        features=(),
        num_features=4,
        encoder=job.encoder_config(),
        encoder_id="e",
        captioner=job.captioner_config(4),
        language_model=job.language_config(),
        learning=job.learning_config(),
        seed=0,
    )
    with pytest.raises(ConfigError, match=r"A training worker: .*gone: expected 'generated', or a folder"):
        train_on_ray(spec, num_workers=2, num_gpus=0, num_cpus=1, max_failures=3)
    assert storage_for(job.output).find("_errors") == []


def test_a_run_with_other_regions_or_begun_before_they_counted_is_refused(neurons: str, tmp_path: Path) -> None:
    job = small(str(tmp_path / "run"), str(shutil.copytree(neurons, tmp_path / "neurons")))
    encoder, annotated = load_encoder(job.encoder_config()), job.source().open()
    config = train._config(job, annotated, encoder.id, encoder.num_features)
    open_plan(storage_for(job.output), config)
    masks = next(Path(job.neurons).glob("*/masks.npy"))
    np.save(masks, 1 - np.load(masks))
    with pytest.raises(RunMismatchError, match=r"neurons\.contents: other pictures or regions than there"):
        train.run(job)
    del config["neurons"]["contents"]
    before = dataclasses.replace(job, output=str(tmp_path / "before"))
    open_plan(storage_for(before.output), config)
    with pytest.raises(RunMismatchError, match=r"neurons\.contents: an earlier version of this project began it"):
        train.run(before)


def test_more_workers_than_a_machine_has_room_for_are_refused(local_ray: None, tmp_path: Path, neurons: str) -> None:
    with pytest.raises(ConfigError, match="9 training workers need 9 CPUs at the same time, and this machine has 4"):
        train.run(dataclasses.replace(small(str(tmp_path / "run"), neurons), num_workers=9))
    assert not (tmp_path / "run").exists()


def labelled(folder: Path) -> Storage:
    """A finished labelling run of the tiny network."""
    tiny.write_photographs(folder / "photographs", 20)
    tiny.write_captioner(folder / "captioner")
    job = LabelJob(
        subject=(tiny.SUBJECT,),
        images=str(folder / "photographs"),
        captioner=str(folder / "captioner"),
        output=str(folder / "run"),
        k=4,
        scorer="none",
        beam_size=2,
        images_per_item=8,
    )
    storage = storage_for(str(folder / "run"))
    prepared = job.prepare()
    work(storage, open_plan(storage, prepared.config), prepared, None)
    return storage


def test_a_labelled_network_and_its_descriptions_train_a_captioner(local_ray: None, tmp_path: Path) -> None:
    run = labelled(tmp_path)
    rows = [("stage.deep", unit, f"something {unit % 3}") for unit in range(tiny.LAYERS["stage.deep"])]
    csv = tmp_path / "people.csv"
    pd.DataFrame(rows, columns=["layer", "unit", "summary"]).to_csv(csv, index=False)
    job = dataclasses.replace(
        small(str(tmp_path / "trained"), run.url),
        descriptions=str(csv),
        encoder=tiny.ENCODER,
        encoder_weights=None,
        encoder_input_size=None,
        max_epochs=1,
    )
    with pytest.raises(ConfigError, match="its features come from encoder"):
        train.run(dataclasses.replace(job, pooling="bilinear"))
    train.run(job)
    trained = checkpoint.load(weights_of(job.output))
    assert set(trained.captioner.vocabulary.words) >= {"something"}
    # The features are the run's, to the byte, and the dead neuron is left out.
    described = job.source().open()
    assert tiny.DEAD not in described.neurons
    keys = [info.path for info in storage_for(job.output).find("_work/features")]
    taken = train.read_features(storage_for(job.output), tuple(keys), trained.captioner.config.num_features)
    assert examples_of(described, taken).present.sum() == (described.images >= 0).sum()


def test_no_annotated_neurons_is_an_error_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(DescriptionsError, match="expected 'generated'"):
        train.run(small(str(tmp_path / "run"), str(tmp_path / "nothing")))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_weights(tmp_path: Path, neurons: str) -> None:
    """First a training worker is killed, then the whole driver; the same command then finishes."""
    undisturbed, disturbed = str(tmp_path / "undisturbed"), str(tmp_path / "disturbed")
    assert run_until(command(undisturbed, neurons), None, disturbed) == 0
    assert run_until(command(disturbed, neurons), kill_worker, disturbed) == 0
    assert weights_of(disturbed) == weights_of(undisturbed)

    again = str(tmp_path / "again")
    assert run_until(command(again, neurons), kill_driver, again) != 0
    assert not storage_for(again).exists(MANIFEST)
    with pytest.raises(RunMismatchError, match=r"learning\.fit\.max_epochs: 6 there, 2 now"):
        train.run(small(again, neurons))
    assert run_until(command(again, neurons), None, again) == 0
    assert weights_of(again) == weights_of(undisturbed)


@pytest.mark.slow
def test_faults_of_the_storage_change_nothing(
    local_ray: None, bucket: str, proxy: FaultProxy, neurons: str, tmp_path: Path
) -> None:
    """Three requests of twenty fail. Ray Train keeps its checkpoints with a client of its own, which may give up."""
    undisturbed, disturbed = str(tmp_path / "undisturbed"), f"{bucket}/run"
    train.run(small(undisturbed, neurons))
    proxy.rates = dict.fromkeys(FAULTS, 0.15 / len(FAULTS))
    for _ in range(3):
        with suppress(IncompleteRunError):
            train.run(small(disturbed, neurons))
    assert proxy.faults.total() > 3
    proxy.reset()
    read_manifest(storage_for(disturbed), verify=True)
    assert weights_of(disturbed) == weights_of(undisturbed)


def command(output: str, neurons: str) -> list[str]:
    options = dataclasses.asdict(dataclasses.replace(small(output, neurons), max_epochs=6, patience=6))
    names = ("neurons", "encoder", "encoder_weights", "encoder_input_size", "hidden", "embedding", "attention_size")
    names += ("language_layers", "max_epochs", "patience", "validation", "test", "num_cpus", "output")
    flags = [text for name in names for text in (f"--{name.replace('_', '-')}", str(options[name]))]
    return [sys.executable, "-m", "jobs.train", *flags]


def run_until(arguments: list[str], disturb, output: str) -> int:  # noqa: ANN001
    """Runs a command; once it has kept a few epochs, disturbs it."""
    process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while disturb is not None and process.poll() is None and time.monotonic() < deadline:
        if len(list(Path(output).glob("_work/train-*/checkpoint_*"))) >= 2:
            disturb(process)
            break
        time.sleep(0.1)
    return process.wait(timeout=300)


def kill_worker(driver: subprocess.Popen) -> None:
    found = [process for process in below(driver.pid) if b"RayTrainWorker" in read(process, "cmdline")]
    assert found, "a training worker is at work"
    os.kill(found[0], signal.SIGKILL)


def kill_driver(driver: subprocess.Popen) -> None:
    os.killpg(driver.pid, signal.SIGKILL)
