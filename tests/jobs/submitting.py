"""A head of its own, started with `ray start`, and how to submit jobs to it as the manual does.

It listens on loopback, with ports and a folder of its own, and ends with the block: no other Ray on the machine is
touched.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.label import LabelJob
from mami_core.features import EncoderConfig
from tests import tiny

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token"}
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
NETWORK = {"name": "torchvision:resnet18", "weights": "random:0", "input_size": 64}
"""Subject and encoder."""


@dataclass(frozen=True)
class Cluster:
    """A head, and how to speak to it."""

    environment: dict[str, str]

    def ray(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A `ray job` command, from the project's folder."""
        return subprocess.run(
            [str(BIN / "ray"), "job", *words],
            env=self.environment | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def submit(self, module: str, words: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        """The command of the manual."""
        command = ["python", "-m", f"jobs.{module}", *words]
        return self.ray(
            "submit", "--runtime-env", "cluster/runtime-env.yaml", "--working-dir", ".", *options, "--", *command
        )

    def stop(self, submission: str) -> str:
        """Stops a job that runs; its log."""
        stopped = self.ray("stop", submission)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert "was stopped" in self.ray("status", submission).stdout
        return self.ray("logs", submission).stdout


@contextmanager
def head(authentication: dict[str, str]) -> Iterator[Cluster]:
    """A head with three CPUs, that asks for a token or does not."""
    folder = Path(tempfile.mkdtemp(prefix="mami-ray-", dir="/tmp"))  # short: sockets lie in it
    gcs, dashboard, agent, metrics = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(folder),  # without a token of somebody's in it
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    environment |= authentication | ({"RAY_AUTH_TOKEN": secrets.token_hex(32)} if authentication == TOKEN else {})
    words = [
        *("--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--metrics-export-port={metrics}", "--object-store-memory=150000000"),
    ]
    with (folder / "head.log").open("w") as log:
        command = [str(BIN / "ray"), "start", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    found = Cluster(environment | {"RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"})
    try:
        wait(lambda: process.poll() is not None or found.ray("list").returncode == 0)
        assert process.poll() is None, (folder / "head.log").read_text()
        yield found
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def end(leader: subprocess.Popen) -> None:
    """Ends a process with all that it started: they are a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in session(leader.pid):
            with suppress(ProcessLookupError):  # it may just have ended by itself
                os.kill(pid, number)
        for _ in range(30):
            if leader.poll() is not None and not session(leader.pid):
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


def small_job(folder: Path) -> LabelJob:
    """Twelve photographs, one of them broken, in three items; nothing of the tests, whose code is not submitted."""
    tiny.write_photographs(folder / "photographs", 12, broken=(5,))
    tiny.write_captioner(folder / "captioner", tiny.captioner(EncoderConfig(**NETWORK)))
    return LabelJob(
        subject=(NETWORK["name"],),
        weights=NETWORK["weights"],
        input_size=NETWORK["input_size"],
        layers=("conv1", "layer1"),
        images=str(folder / "photographs"),
        captioner=str(folder / "captioner"),
        output=str(folder / "run"),
        k=4,
        batch_size=4,
        scorer="none",
        beam_size=4,
        max_length=6,
        images_per_item=4,
        neurons_per_item=32,
        num_workers=2,
    )
