"""Training and scoring as submitted jobs, on a head that asks for no token."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from jobs import train
from jobs.engine.plan import MANIFEST
from jobs.storage import storage_for
from mami_core.learning import checkpoint
from mami_core.learning.annotated_writing import write_annotated
from mami_core.learning.generated import GeneratedConfig, generate
from tests.jobs.submitting import NO_TOKEN, Cluster, head, wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.xdist_group("ray too"),
    pytest.mark.timeout(900),
]
ENCODER = ("--encoder", "torchvision:resnet18", "--encoder-weights", "random:0", "--encoder-input-size", "64")
SIZES = {"hidden": 16, "embedding": 8, "attention-size": 8, "language-layers": 1, "validation": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with head(NO_TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def neurons(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small folder in MILANNOTATIONS' layout."""
    folder = tmp_path_factory.mktemp("annotated")
    write_annotated(generate(GeneratedConfig(num_neurons=40, num_scenes=80, k=4, size=64)), folder)
    return str(folder)


def training(output: Path, neurons: str) -> list[str]:
    """Two workers; enough epochs to be stopped in the middle."""
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    epochs = ["--max-epochs", "8", "--patience", "8"]
    workers = ["--num-workers", "2", "--num-cpus", "1"]
    return ["--output", str(output), "--neurons", neurons, *ENCODER, *sizes, *epochs, *workers]


def result(output: Path) -> dict[str, bytes]:
    names = (MANIFEST, train.SCORES, train.SUMMARY, *checkpoint.FILES)
    return {name: (output / name).read_bytes() for name in names}


def test_training_is_submitted_stopped_submitted_again_and_scored(
    cluster: Cluster, neurons: str, tmp_path: Path
) -> None:
    undisturbed, disturbed, scores = (tmp_path / name for name in ("undisturbed", "disturbed", "scores"))
    ended = cluster.submit("train", training(undisturbed, neurons), "--submission-id", "undisturbed")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for logged in (ended.stdout, cluster.ray("logs", "undisturbed").stdout):
        assert re.search(r"captioner, epoch \d+: loss ", logged)
        assert f"The captioner is in {undisturbed}" in logged
        assert "shuffled" in logged, "the scores"

    options = ("--submission-id", "stopped", "--no-wait")
    assert cluster.submit("train", training(disturbed, neurons), *options).returncode == 0
    wait(lambda: len(list(disturbed.glob("_work/train-*/checkpoint_*"))) >= 2)
    # Ray Train passes our interruption on without the signal's name.
    assert re.search(r"Stopped( by SIGTERM)?\. Run the same command again", cluster.stop("stopped"))
    assert not storage_for(str(disturbed)).exists(MANIFEST)
    again = cluster.submit("train", training(disturbed, neurons), "--submission-id", "again")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "language model, epoch 1:" not in again.stdout, "it goes on, and does not begin again"
    assert result(disturbed) == result(undisturbed)

    words = ["--captioner", str(disturbed), "--neurons", neurons, "--output", str(scores), "--no-bertscore"]
    scored = cluster.submit("evaluate", words, "--submission-id", "scored")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert f"pandas.read_parquet('{scores}/scores.parquet')" in scored.stdout
    assert {"captions", "shuffled"} <= set(pd.read_parquet(scores / "scores.parquet")["source"])


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("train", ["--neurons", "nothing", "--output", "trained"], "Error: nothing: expected"),
        ("evaluate", ["--captioner", "/nothing", "--output", "scored"], "Error: "),
        ("evaluate", ["--output", "scored"], "expected either --labels or --captioner"),
    ],
)
def test_what_cannot_work_fails_with_its_reason(module: str, words: list[str], said: str, cluster: Cluster) -> None:
    ended = cluster.submit(module, words)
    assert ended.returncode == 1, "what Ray gives for every job that fails"
    assert said in ended.stdout
    assert "exit code 2" in ended.stdout + ended.stderr
