"""What the tests of the jobs share: an S3 server behind a proxy that breaks things on purpose, and one local Ray."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.label import LabelJob
from jobs.storage import Storage
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.s3_server import s3_behind_proxy
from tests.jobs.tables import QUICK
from tests.jobs.tiny_label import tiny_job, write_inputs


@pytest.fixture(scope="session")
def s3_server() -> Iterator[FaultProxy]:
    """A real S3 server, reached through the proxy; every AWS client of this process and its children finds it."""
    with s3_behind_proxy() as proxy:
        yield proxy


@pytest.fixture
def proxy(s3_server: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy before the S3 server, without faults and with all counts at zero."""
    s3_server.reset()
    yield s3_server
    s3_server.reset()


@pytest.fixture
def bucket(proxy: FaultProxy) -> str:
    """The URL of an empty bucket."""
    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    proxy.reset()
    return f"s3://{name}"


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a run may be kept: each test runs in a folder and in a bucket."""
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/run"


@pytest.fixture
def storage(place: str) -> Storage:
    """An empty run folder, on the disk and in a bucket in turn, where failing requests cost no time."""
    return Storage(place, retry=QUICK)


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    """An empty run folder on the disk."""
    return Storage(str(tmp_path / "run"), retry=QUICK)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs and a captioner."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def job(inputs: Path, tmp_path: Path) -> LabelJob:
    """A tiny labelling job, into a folder of its own."""
    return tiny_job(inputs, tmp_path / "run")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.engine.items._PAUSE_S", 0.001)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test can pull the plug: what waits until bytes are on the platter only costs time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def local_ray(s3_server: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this test process alone: 4 CPUs in name, loopback only.

    Mark its tests `xdist_group("ray")`, or `xdist_group("ray too")` where one group would keep one process busy while
    the other has nothing left to do.
    """
    from jobs.engine import runtime

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: other tests would let its workers starve
    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # ten seconds otherwise: a test waits for them
    with runtime.connect(num_cpus=4, object_store_bytes=150 << 20):
        yield
