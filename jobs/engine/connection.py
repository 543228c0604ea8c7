"""A Ray to run on: a cluster's, or one of our own."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.engine.signals import stop_on_signals
from jobs.storage.redaction import redact
from jobs.storage.retries import one_line
from mami_core.errors import ConfigError, IncompleteRunError

logger = logging.getLogger(__name__)


@contextmanager
def connect(*, num_cpus: int | None = None, object_store_bytes: int | None = None) -> Iterator[None]:
    """A Ray for the work inside: the cluster that RAY_ADDRESS names, as inside a `ray job`, or one of our own.

    Our own runs on this machine, listens on loopback only, reports to nobody and ends with the work. A Ray that this
    process is connected to already is used as it is.

    Args:
        num_cpus: how many CPUs our own Ray counts; by default those of the machine.
        object_store_bytes: memory for blocks in our own Ray; little is needed, since images and features go from
            workers to storage and not through Ray. By default a tenth of the memory, 1 GB at most.
    """
    require_ray()
    address = os.environ.get("RAY_ADDRESS", "")
    # Ray otherwise warns that a later version will read this as we do already: no GPU asked for, none hidden.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Lines of Ray's own processes that would be shown every second and that nobody can act on: Ray Train asks for a
    # dashboard that our own Ray does not have, and every pool of actors is told of what Ray Data does inside.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Failed to query Ray Train Controller|Set ray log level from")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Training workers log as all our processes do; Ray Train would repeat each of their lines.
    os.environ.setdefault("RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if not address:
        _keep_to_this_machine()
    _start(ray, address, num_cpus, object_store_bytes)
    try:
        with stop_on_signals():  # again: Ray replaces the handlers when it starts
            yield
    finally:
        ray.shutdown()


def require_ray(*, num_gpus: float | None = None) -> None:
    """Refuse now what `connect` and the work after it would refuse.

    Raises:
        ConfigError: RAY_ADDRESS is where jobs are submitted, or workers need a GPU that this machine has not.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS is {redact(address)}, where jobs are submitted. Submit this one: "
            "ray job submit --working-dir . -- python -m jobs.NAME …, or unset RAY_ADDRESS to run on this machine."
        )
    ray = sys.modules.get("ray")
    if not num_gpus or address or (ray is not None and ray.is_initialized()):
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"num_gpus is {num_gpus:g}, and torch finds no GPU on this machine. Leave it out to work on CPUs, or set "
            "RAY_ADDRESS to a cluster with GPUs."
        )


def _keep_to_this_machine() -> None:
    """Makes a Ray of our own listen on loopback only, and report to nobody."""
    from ray._private import ray_constants

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray does on macOS and Windows, and can do here. Its processes read the variable; this one has read it
    # already, when somebody imported Ray.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray_constants.ENABLE_RAY_CLUSTER = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] != "0"


def _start(ray: Any, address: str, num_cpus: int | None, object_store_bytes: int | None) -> None:
    try:
        with _without_lines(b"Set ray log level from"):
            if address:
                ray.init(address="auto", logging_level=logging.ERROR)
            else:
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=object_store_bytes or _object_store_bytes(),
                    logging_level=logging.ERROR,
                )
    except (ConnectionError, RuntimeError) as error:
        where = f"the Ray cluster at {redact(address)}" if address else "a Ray on this machine"
        raise ConfigError(f"Could not connect to {where}: {redact(str(error))}") from error
    except Exception as error:  # so it says that its processes did not come up in time
        raise IncompleteRunError(
            f"Ray did not start: {redact(one_line(error))} This machine may be too busy; run the same command again."
        ) from error
    logger.info("Ray: %s", _resources(ray))


@contextmanager
def _without_lines(having: bytes) -> Iterator[None]:
    """Leaves out lines of the standard error output, also of C++: Ray's says what it read in our environment."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if having not in line:
                    os.write(2, line)


def _resources(ray: Any) -> str:
    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{nodes} node(s), {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def _object_store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(100 << 20, min(1 << 30, memory // 10))
