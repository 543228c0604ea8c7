"""A finished tiny run and its report, made once for all tests that only look; their group keeps them in one worker."""

import dataclasses
from collections.abc import Callable

import pyarrow as pa
import pytest

from jobs import report
from jobs.engine import runtime
from jobs.report import ReportJob
from jobs.storage import Storage, storage_for
from mami_core import contracts
from tests import tiny
from tests.jobs.tiny_label import tiny_job, work_here, write_inputs


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A labelling run that is finished, with its run.json."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    job = dataclasses.replace(tiny_job(inputs, tmp_path_factory.mktemp("finished") / "run"), neurons_per_item=10)
    storage = work_here(job)
    runtime.write_run_json(storage, job)
    return storage


@pytest.fixture(scope="session")
def drawn(finished: Storage) -> Storage:
    """Its report."""
    assert report.run(ReportJob(runs=(finished.url,))) == 0
    return storage_for(f"{finished.url}/report")


def relabelled(
    run: Storage, place: str, change: Callable[[dict], None], schema: pa.Schema = contracts.LABELS
) -> Storage:
    """A copy of a run whose labels are changed one by one, and written as this version of the table."""
    storage = storage_for(place)
    for info in run.find():
        if not info.path.startswith(("labels/", "report/")):
            storage.write(info.path, run.read(info.path))
    for info in run.find("labels"):
        rows = contracts.read_labels(run.read(info.path), where=info.path).to_pylist()
        for row in rows:
            change(row)
        storage.write(info.path, contracts.to_parquet(contracts.from_rows(rows, schema), schema))
    return storage


def support_of(row: dict) -> float | None:
    """Made up: tenths by unit, and of unit 0 nothing."""
    return None if row["dead"] or row["unit"] == 0 else row["unit"] % 10 / 10


@pytest.fixture(scope="session")
def supported(finished: Storage, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The run as a captioner with evidence would have made it, with its report; each caption's beams have less."""

    def change(row: dict) -> None:
        row["support"] = support_of(row)
        for rank, beam in enumerate(row["beams"]):
            beam["support"] = None if row["support"] is None else row["support"] / (rank + 1)

    storage = relabelled(finished, str(tmp_path_factory.mktemp("supported") / "run"), change)
    assert report.run(ReportJob(runs=(storage.url,))) == 0
    return storage


@pytest.fixture(scope="session")
def another(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Another run, of two networks, which says other things."""
    folder = tmp_path_factory.mktemp("another")
    job = dataclasses.replace(
        tiny_job(write_inputs(folder), folder / "other"),
        subject=(tiny.SUBJECT, tiny.OTHER_SUBJECT),
        lm_weight=0.9,
        max_length=3,
    )
    storage = work_here(job)
    runtime.write_run_json(storage, job)
    return storage


@pytest.fixture(scope="session")
def beside(finished: Storage, another: Storage, tmp_path_factory: pytest.TempPathFactory) -> ReportJob:
    """Both, drawn side by side."""
    job = ReportJob(runs=(finished.url, another.url), output=str(tmp_path_factory.mktemp("beside") / "site"))
    assert report.run(job) == 0
    return job
