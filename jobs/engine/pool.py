"""How many workers Ray starts for a run, and what each claims."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mami_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How many workers work at once, and what each needs."""

    num_workers: int = 0
    """0: one for each free GPU where workers need one, otherwise one for each CPU but one."""
    num_gpus: float = 0.0
    """GPUs a worker; a fraction lets several share one."""
    num_cpus: float = 1.0
    """CPUs a worker."""
    memory_gb: float = 0.0
    """Memory a worker reserves, so that Ray does not put too many on one machine; 0 reserves none."""
    helper_cpus: int = 0
    """CPUs that each worker's own tasks claim, on any machine; workers that are as many as fit leave them free."""
    silence_minutes: float = 60.0
    """A stage in which no item ends for so long is given up: something hangs, or no machine comes."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "num_gpus", "memory_gb", "helper_cpus"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}.")
        if self.num_cpus <= 0:
            raise ConfigError(f"num_cpus: expected more than 0, got {self.num_cpus}.")


def gpus_a_worker(wanted: float | None) -> float:
    """As wanted; by default 1 where the cluster that this process is connected to has GPUs, otherwise 0."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0) > 0) if wanted is None else wanted


def cpus_a_worker(wanted: float | None, *, num_gpus: float) -> float:
    """As wanted; by default 1, and with GPUs what each machine has of CPUs for a worker, one of them left free."""
    import ray

    if wanted is not None or not num_gpus:
        return 1.0 if wanted is None else wanted
    machines = [
        node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0.0) >= num_gpus
    ]
    shares = [(each.get("CPU", 0.0) - 1) * num_gpus // each["GPU"] for each in machines]
    return max(1.0, min(shares, default=1.0))


def size(pool: PoolConfig, resources: Mapping[str, float], *, num_nodes: int, num_items: int) -> tuple[int, float]:
    """How many workers to start, and the CPUs each may claim.

    On one machine the workers together always leave a part of a CPU free, however many they are: the run needs none,
    but what else Ray is asked there (another job's dataset) would wait for one until the run has ended. On a cluster a
    claim stands as it is, since an autoscaler adds machines for it.

    Raises:
        ConfigError: workers need a GPU, their number is not given, and the cluster has none; or one worker alone
            needs more memory than this machine has.
    """
    cpus = resources.get("CPU", 0.0)
    spare = min(1.0, cpus / 4)
    alone = is_one_machine(resources, num_nodes)
    if alone and _fitting_by_memory(pool, resources) < 1:
        there = resources.get("memory", 0.0) / 2**30
        raise ConfigError(
            f"A worker reserves {pool.memory_gb:g} GB of memory and Ray has {there:.1f} GB. "
            "Lower memory_gb, or use a larger machine."
        )
    workers = pool.num_workers or _as_many_as_fit(pool, resources, cpus, spare)
    workers = max(1, min(workers, num_items))
    if not alone or workers * pool.num_cpus <= cpus - spare:
        return workers, pool.num_cpus
    return workers, math.floor(1000 * (cpus - spare) / workers) / 1000


def is_one_machine(resources: Mapping[str, float], num_nodes: int) -> bool:
    """Whether what is there is all there will be. A head without CPUs waits for machines that an autoscaler adds."""
    return num_nodes == 1 and resources.get("CPU", 0.0) > 0


def _as_many_as_fit(pool: PoolConfig, resources: Mapping[str, float], cpus: float, spare: float) -> int:
    by_memory = _fitting_by_memory(pool, resources)
    if pool.num_gpus:
        gpus = resources.get("GPU", 0.0)
        if not gpus:
            raise ConfigError("Workers need a GPU and Ray has none. Give their number if machines are still to come.")
        return int(min(gpus / pool.num_gpus, by_memory))
    return int(min(round((cpus if cpus < 4 else cpus - spare) / (pool.num_cpus + pool.helper_cpus)), by_memory))


def _fitting_by_memory(pool: PoolConfig, resources: Mapping[str, float]) -> float:
    return resources.get("memory", 0.0) / (pool.memory_gb * 2**30) if pool.memory_gb else math.inf
