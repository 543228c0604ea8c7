"""Captions of one half of the exemplars beside those of the other."""

from pathlib import Path

import pytest

from jobs import evaluate
from jobs.engine import runtime
from jobs.evaluate import EvaluateJob
from jobs.evaluating.halves import Halves, half_of
from jobs.label import LabelJob
from jobs.labelling.layout import Layout
from jobs.labelling.stages import features_of
from jobs.storage import Storage
from mami_core import contracts
from mami_core.captioners import SHIPPED
from mami_core.errors import ConfigError
from mami_core.regroup import assemble
from tests import tiny
from tests.jobs.test_evaluate import measures_of
from tests.jobs.tiny_label import tiny_job, work_here, write_inputs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelJob, Storage]:
    folder = tmp_path_factory.mktemp("halves")
    job = tiny_job(write_inputs(folder), folder / "run")
    return job, work_here(job)


def test_both_halves_together_are_all_exemplars_and_each_keeps_its_order(
    finished: tuple[LabelJob, Storage],
) -> None:
    job, storage = finished
    config = job.prepare().config
    layout = Layout.of(config)
    shard = layout.shards(tiny.SUBJECT)[0]
    data = storage.read(layout.exemplars_key(tiny.SUBJECT, shard))
    exemplars = contracts.from_parquet(data, contracts.EXEMPLARS, where="exemplars")
    captioner = job.prepare().spec.captioner.load().captioner
    features = features_of(layout, tiny.SUBJECT, 0, captioner.config.num_features, storage)
    some = exemplars.take([0, 2])
    whole, _ = assemble(exemplars, features, job.k)
    for half in (0, 1):
        of_half, its_features = half_of(some, features, half)
        assert of_half["images"].to_pylist() == [images[half::2] for images in some["images"].to_pylist()]
        vectors, present = assemble(of_half, its_features, job.k)  # which refuses what does not match
        for row, unit in enumerate((0, 2)):
            count = int(present[row].sum())
            assert vectors[row, :count].equal(whole[unit, half::2][:count])


def test_a_run_says_how_far_the_halves_of_its_exemplars_agree(
    finished: tuple[LabelJob, Storage], tmp_path: Path
) -> None:
    job, _ = finished
    run, captioner, output = str(job.output), str(job.captioner), str(tmp_path / "measures")
    words = ["--labels", run, "--halves", "10", "--captioner", captioner, "--output", output]
    assert runtime.main(EvaluateJob, evaluate.run, words) == runtime.COMPLETE
    found = measures_of(output)
    own = found[tiny.SUBJECT, "agreement: cosine", "captions"]
    assert 5 <= own["num_neurons"] <= 10
    assert {source for _, measure, source in found if measure == "agreement: cosine"} == {
        "captions",
        "shuffled",
        "constant",
    }


def test_another_captioner_is_refused(finished: tuple[LabelJob, Storage]) -> None:
    job, _ = finished
    with pytest.raises(ConfigError, match="give the run's captioner as --captioner"):
        Halves.of(str(job.output), SHIPPED, most=5)
