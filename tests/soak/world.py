"""Where the soak happens: a Ray of two nodes and an S3 server behind a proxy, with processes that may be killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.jobs.faultproxy import FaultProxy
from tests.jobs.processes import below, read
from tests.jobs.s3_server import s3_behind_proxy

REPOSITORY = Path(__file__).parents[2]
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A lost node is noticed in some seconds and not in a quarter of a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
_NODE: dict[str, Any] = {"object_store_memory": 80 << 20}


@dataclass
class World:
    """One for all runs, since starting a Ray takes seconds. Its drivers are processes that join it."""

    cluster: Any
    proxy: FaultProxy
    _extra: list[Any] = field(default_factory=list)

    def begin(self, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        """A driver: `python -m jobs.label` with these arguments; what it says goes to the log."""
        command = [sys.executable, "-m", "jobs.label", *arguments]
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address}
        with log.open("wb") as file:
            return subprocess.Popen(
                command, env=environment, cwd=REPOSITORY, stdout=file, stderr=file, start_new_session=True
            )

    def processes(self) -> list[int]:
        """All that the nodes have started: workers, busy or idle."""
        raylets = [each.process.pid for node in self.cluster.list_all_nodes() for each in node.all_processes["raylet"]]
        return [process for raylet in raylets for process in below(raylet)]

    def workers(self) -> list[int]:
        """Those that work items, the one that counts how often each was begun, and the one that offers them."""
        names = (b"MapWorker", b"_Register", b"_offer")
        return [pid for pid in self.processes() if any(name in read(pid, "cmdline") for name in names)]

    def lose_node(self) -> bool:
        """Kills the second node with everything on it, if it is there."""
        if not self._extra:
            return False
        self.cluster.remove_node(self._extra.pop(), allow_graceful=False)
        return True

    def heal(self) -> None:
        """Two nodes again."""
        if not self._extra:
            self._extra.append(self.cluster.add_node(num_cpus=2, **_NODE))


@contextmanager
def world(*, seed: int) -> Iterator[World]:
    """All of it on this machine; nothing of it is left when the work inside ends."""
    from ray.cluster_utils import Cluster

    with s3_behind_proxy(seed=seed) as proxy:
        os.environ.update(_ENVIRONMENT)
        os.environ.pop("RAY_ADDRESS", None)
        head = {"num_cpus": 4, "include_dashboard": False} | _NODE
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            found = World(cluster, proxy)
            found.heal()
            yield found
        finally:
            cluster.shutdown()


def kill(process: int) -> bool:
    """SIGKILL; whether it was still there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
