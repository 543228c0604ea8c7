"""A finished tiny run and its report, made once for all tests that only look; their group keeps them in one worker."""

import dataclasses

import pytest

from jobs import report
from jobs.engine import runtime
from jobs.report import ReportJob
from jobs.storage import Storage, storage_for
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
