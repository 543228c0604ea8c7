"""Three hosts with a network between them, a Ray started by hand on each, a job submitted to the first."""

import dataclasses
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.storage import storage_for
from tests.jobs.hosts import Host, hosts, missing
from tests.jobs.submitting import BIN, small_job, wait
from tests.jobs.tiny_label import arguments, run_folder, work_here

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Network:
    """A Ray over three hosts: a head without CPUs, and two that have two each."""

    hosts: list[Host]
    environment: dict[str, str]

    def ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A Ray command, on the first host and in the project's folder."""
        command = self.hosts[0].command(str(BIN / "ray"), *words)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=400, check=False)

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What Ray's dashboard lists."""
        words = ("list", what, "--format=json", "--detail", "--limit=1000", f"--address={self.dashboard}")
        done = self.ray(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        if "[" not in done.stdout:  # in words: there are none
            return []
        return json.loads(done.stdout[done.stdout.index("[") :])

    @property
    def dashboard(self) -> str:
        return self.environment["RAY_ADDRESS"]


@pytest.fixture
def network() -> Iterator[Network]:
    if reason := missing():
        pytest.skip(f"this machine lends no hosts: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="mami-ray-", dir="/tmp"))  # short: sockets lie in it
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        entered: list[subprocess.Popen] = []
        stack.callback(lambda: [each.wait(10) for each in entered])  # they end with their hosts
        found = stack.enter_context(hosts(3, folder))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        made = Network(found, environment | {"RAY_ADDRESS": f"http://{found[0].address}:8265"})
        log = stack.enter_context((folder.parent / f"{folder.name}.log").open("w+"))
        stack.callback(Path(log.name).unlink)
        head = ["--head", "--num-cpus=0", f"--dashboard-host={found[0].address}", f"--temp-dir={folder}"]
        worker = [f"--address={found[0].address}:6379", "--num-cpus=2"]
        for host in found:
            words = ["start", "--block", f"--node-ip-address={host.address}", "--object-store-memory=100000000"]
            command = host.command(str(BIN / "ray"), *words, *(head if host is found[0] else worker))
            entered.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if host is found[0]:
                wait(lambda: made.ray("job", "list").returncode == 0)
        wait(lambda: len(made.listed("nodes")) == 3)
        yield made


def test_three_hosts_label_what_one_process_labels(network: Network, tmp_path: Path) -> None:
    job = dataclasses.replace(small_job(tmp_path), decode_cpus=1)
    words = ["--working-dir", ".", "--submission-id", "far", "--", "python", "-m", "jobs.label", *arguments(job)]
    ended = network.ray("job", "submit", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    addresses = {node["node_id"]: node["node_ip"] for node in network.listed("nodes")}
    assert set(addresses.values()) == {host.address for host in network.hosts}
    others = {host.address for host in network.hosts[1:]}
    workers = [actor for actor in network.listed("actors") if "_PoolWorker" in actor["class_name"]]
    assert {addresses[actor["node_id"]] for actor in workers if actor["node_id"]} == others
    decoding = [task for task in network.listed("tasks") if task["name"] == "decode images"]
    assert decoding
    assert {addresses[task["node_id"]] for task in decoding if task["node_id"]} <= others
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    assert run_folder(storage_for(str(job.output))) == run_folder(alone)
