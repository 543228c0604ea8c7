"""A finished tiny run and its report, made once for all tests that only look; their group keeps them in one worker."""

import dataclasses

import pytest

from jobs import report
from jobs.engine import runtime
from jobs.report import ReportJob
from jobs.storage import Storage, storage_for
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
