"""The labelling job as `ray job submit --working-dir .` runs it: on the head of a cluster, in a process of its own.

The cluster is started with `ray start --head` on loopback, with ports, a token and a folder of its own, and ends with
the module: no other Ray on the machine is touched.
"""

import dataclasses
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from jobs.label import LabelJob
from jobs.storage import storage_for
from mami_core.features import EncoderConfig
from tests import tiny
from tests.jobs.labelling import arguments, run_folder, work_here

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NETWORK = {"name": "torchvision:resnet18", "weights": "random:0", "input_size": 64}
"""Subject and encoder: a job that is submitted has the project's code, and not its tests."""

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.cluster, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Cluster:
    """A head, and how to speak to it."""

    environment: dict[str, str]

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A `ray job` command, from the project's folder."""
        command = [str(BIN / "ray"), "job", *words]
        return subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )

    def submit(self, job: LabelJob, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """The command of the manual."""
        words = ["python", "-m", "jobs.label", *arguments(job, **changes)]
        return self.ray("submit", "--working-dir", ".", *options, "--", *words)


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="mami-ray-", dir="/tmp"))  # short: sockets lie in it
    gcs, dashboard, agent, metrics = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    words = [
        *("--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--metrics-export-port={metrics}", "--object-store-memory=150000000"),
    ]
    with (folder / "head.log").open("w") as log:
        command = [str(BIN / "ray"), "start", *words]
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    found = Cluster(environment | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"})
    try:
        wait(lambda: head.poll() is not None or found.ray("list").returncode == 0)
        assert head.poll() is None, (folder / "head.log").read_text()
        yield found
    finally:
        end(head)
        shutil.rmtree(folder, ignore_errors=True)


def end(head: subprocess.Popen) -> None:
    """Ends the head with all that it started: they are a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in session(head.pid):
            os.kill(pid, number)
        for _ in range(30):
            if head.poll() is not None and not session(head.pid):
                return
            time.sleep(0.1)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [number for number in numbers if _session_of(number) == leader]


def _session_of(number: int) -> int | None:
    try:
        return os.getsid(number)
    except ProcessLookupError:
        return None


def wait(reached: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 200
    while not reached():
        assert time.monotonic() < end_s, "it takes too long"
        time.sleep(0.1)


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    tiny.write_photographs(tmp_path / "photographs", 12, broken=(5,))
    tiny.write_captioner(tmp_path / "captioner", tiny.captioner(EncoderConfig(**NETWORK)))
    return LabelJob(
        subject=(NETWORK["name"],),
        weights=NETWORK["weights"],
        input_size=NETWORK["input_size"],
        layers=("conv1", "layer1"),
        images=str(tmp_path / "photographs"),
        captioner=str(tmp_path / "captioner"),
        output=str(tmp_path / "run"),
        k=4,
        batch_size=4,
        beam_size=4,
        max_length=6,
        images_per_item=4,
        neurons_per_item=32,
        num_workers=2,
    )


def test_a_submitted_job_says_what_is_wrong_and_fails(cluster: Cluster, job: LabelJob) -> None:
    ended = cluster.submit(job, "--submission-id", "wrong", layers="layer7")
    assert ended.returncode == 1, "what Ray gives for every job that fails"
    assert "Error: torchvision:resnet18 has no layer 'layer7'. Nearest: " in ended.stdout
    logs = cluster.ray("logs", "wrong").stdout
    assert "has no layer 'layer7'" in logs
    assert "exit code 2" in cluster.ray("status", "wrong").stdout + ended.stdout + ended.stderr
    assert not Path(str(job.output)).exists()


@pytest.mark.slow
def test_a_submitted_job_labels_and_its_log_says_so(cluster: Cluster, job: LabelJob, tmp_path: Path) -> None:
    ended = cluster.submit(job, "--submission-id", "right")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for logged in (ended.stdout, cluster.ray("logs", "right").stdout):
        assert "exemplars: 3/3 items" in logged
        assert re.search(r"\d+ neurons labelled, \d+ dead \(active on no image\), 1 rows dropped", logged)
        assert "1 × image: cannot be decoded" in logged
        assert f'pandas.read_parquet("{job.output}/labels")' in logged
    assert len(pd.read_parquet(f"{job.output}/labels")) == 128
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    assert run_folder(storage_for(str(job.output))) == run_folder(alone)


@pytest.mark.slow
def test_a_stopped_job_goes_on_when_it_is_submitted_again(cluster: Cluster, job: LabelJob, tmp_path: Path) -> None:
    storage = storage_for(str(job.output))
    assert cluster.submit(job, "--submission-id", "first", "--no-wait").returncode == 0
    wait(lambda: bool(storage.find("_work/exemplars")))
    assert cluster.ray("stop", "first").returncode == 0
    assert "was stopped" in cluster.ray("status", "first").stdout
    assert not storage.exists("_MANIFEST.json")
    again = cluster.submit(job, "--submission-id", "second")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "items done before" in again.stdout
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    assert run_folder(storage) == run_folder(alone)
