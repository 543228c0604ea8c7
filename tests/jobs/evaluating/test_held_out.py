"""A judged run's held-out images judge any captions of its neurons."""

import dataclasses
import math
from pathlib import Path

import pytest

from jobs.engine.plan import read_manifest
from jobs.evaluate import EvaluateJob, run
from jobs.label import LabelJob
from jobs.labelling.judges import foretell
from jobs.storage import Storage
from tests import tiny
from tests.jobs.test_evaluate import measures_of
from tests.jobs.tiny_label import labels_of, tiny_job, work_here, write_inputs


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelJob, Storage]:
    """Layers in several shards; most images judge."""
    folder = tmp_path_factory.mktemp("judged")
    job = dataclasses.replace(tiny_job(write_inputs(folder), folder / "run"), scorer=tiny.SCORER, held_out=0.7)
    storage = work_here(job)
    return job, storage


def test_the_runs_own_captions_have_the_trust_that_its_labels_say(judged: tuple[LabelJob, Storage]) -> None:
    _, storage = judged
    rows = labels_of(storage).to_pylist()
    captions = {(row["layer"], row["unit"]): row["caption"] for row in rows if row["caption"] is not None}
    config = read_manifest(storage).config
    found = foretell(storage, config, tiny.SUBJECT, {"own": captions}, tiny.scorer())["own"]
    trust = [None if math.isnan(number) else number for one in found for number in one.trust]
    assert trust == [row["trust"] for row in rows if row["caption"] is not None]
    assert sum(math.isfinite(number) for one in found for number in one.beyond) > len(trust) / 2


def test_an_evaluation_has_constant_captions_and_what_is_beyond_the_layer(
    judged: tuple[LabelJob, Storage], tmp_path: Path
) -> None:
    job, _ = judged
    output = str(tmp_path / "measures")
    run(EvaluateJob(labels=str(job.output), scorer=tiny.SCORER, output=output))
    sources = {(measure, source) for _, measure, source in measures_of(output)}
    assert sources >= {
        (measure, source)
        for measure in ("trust", "trust auprc", "trust beyond the layer")
        for source in ("captions", "shuffled", "constant")
    }
    run(EvaluateJob(labels=str(job.output), scorer="none", output=str(tmp_path / "alone")))
    assert ("trust", "constant") not in {
        (measure, source) for _, measure, source in measures_of(str(tmp_path / "alone"))
    }
