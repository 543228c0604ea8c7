"""A judged run's held-out images judge any captions of its neurons."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest

from jobs.engine.plan import read_manifest
from jobs.evaluate import EvaluateJob, run
from jobs.label import LabelJob
from jobs.labelling.judges import foretell
from jobs.storage import Storage
from mami_core.judging import captions_of
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


def test_an_evaluation_says_what_reranking_was_worth(judged: tuple[LabelJob, Storage], tmp_path: Path) -> None:
    """Captions reranked, and those of the same neurons before it, on the same images that chose neither."""
    job = dataclasses.replace(judged[0], output=str(tmp_path / "run"), rerank="trust")
    storage = work_here(job)
    first = {
        (row["layer"], row["unit"]): max(row["beams"], key=lambda beam: beam["score"])["caption"]
        for row in labels_of(storage).to_pylist()
        if row["beams"]
    }
    assert first == captions_of(labels_of(judged[1])), (
        "one half of the held-out images judges, all of them chose nothing"
    )
    run(EvaluateJob(labels=storage.url, scorer=tiny.SCORER, output=str(tmp_path / "measures")))
    table = pd.read_parquet(tmp_path / "measures" / "measures.parquet")
    row = table[(table["source"] == "not reranked") & (table["grouping"] == "all")].set_index("measure")["value"]
    trust = foretell(storage, read_manifest(storage).config, tiny.SUBJECT, {"": first}, tiny.scorer())[""]
    numbers = [number for one in trust for number in one.trust if math.isfinite(number)]
    assert row["trust"] == pytest.approx(sum(numbers) / len(numbers))
    assert set(row.index) == {"trust", "trust auprc", "trust beyond the layer"}


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
