"""Work items on a pool of Ray actors, scheduled by Ray Data. Bytes go from actor to storage; Ray carries only names.

Ray replaces an actor whose process dies and gives its item to another, for ever. So that an item which kills every
process that touches it (out of memory, a crash in a native library) cannot stop a stage, each item's beginnings are
counted in one small actor, and after `MAX_BEGINNINGS` the item counts as failed.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.engine.items import Bench, Item, Outcome, Worker, record_failure
from jobs.engine.runtime import set_up_logging
from jobs.engine.within import Heard, Within
from jobs.storage import Storage
from jobs.storage.redaction import redact
from jobs.storage.retries import one_line
from mami_core.errors import ConfigError, IncompleteRunError

logger = logging.getLogger(__name__)

MAX_BEGINNINGS = 3
"""How many processes may die over one item."""
_ANSWER_S = 5.0


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

    On one machine the workers together always leave a part of a CPU free, however many they are: Ray Data waits for
    ever where actors hold them all. On a cluster a claim stands as it is, since an autoscaler adds machines for it.

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


class _Beginnings:
    """Counts how often each item was begun, and keeps how far each is."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._within: dict[int, Heard] = {}

    def begin(self, index: int) -> int:
        self._counts[index] = self._counts.get(index, 0) + 1
        self._within.pop(index, None)
        return self._counts[index]

    def hear(self, index: int, heard: Heard) -> None:
        self._within[index] = heard

    def within(self) -> dict[int, Heard]:
        return self._within

    def end(self, index: int) -> None:
        self._within.pop(index, None)


class _PoolWorker:
    """What Ray Data runs in each actor: a bench, behind the count of beginnings."""

    def __init__(
        self, worker_class: Callable[..., Worker], worker_args: Mapping[str, Any], storage: Storage, beginnings: Any
    ) -> None:
        set_up_logging()
        self._bench = Bench(worker_class, worker_args, storage)
        self._storage, self._beginnings = storage, beginnings

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outcomes = [self._work(Item.from_json(text)) for text in batch["item"]]
        return {"outcome": np.array([outcome.to_json() for outcome in outcomes])}

    def _work(self, item: Item) -> Outcome:
        import ray

        if self._bench.broken:
            os._exit(1)  # Ray starts a new process and gives it this item.
        begun = ray.get(self._beginnings.begin.remote(item.index))
        if begun > 1 and self._storage.exists(item.key):  # its worker died after the write, or its outcome was lost
            return Outcome(index=item.index, state="done")
        if begun > MAX_BEGINNINGS:
            reason = f"{MAX_BEGINNINGS} processes died while working on it: out of memory, or a crash in a library"
            record_failure(self._storage, item, reason)
            return Outcome(index=item.index, state="failed", reason=reason)
        # Told and not waited for: how far an item is must not cost it time.
        outcome = self._bench.work(item, lambda heard: self._beginnings.hear.remote(item.index, heard))
        self._beginnings.end.remote(item.index)
        return outcome


def outcomes(
    items: Sequence[Item],
    worker_class: Callable[..., Worker],
    worker_args: Mapping[str, Any],
    storage: Storage,
    pool: PoolConfig,
    within: Within,
) -> Generator[Outcome]:
    """Works the items on Ray; what became of each, as they end. `within` learns where to ask how far they are.

    Raises:
        IncompleteRunError: Ray gave up: the pool could not be started, or nothing happened for too long.
    """
    import ray
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError, SystemException

    nodes = sum(node["Alive"] for node in ray.nodes())
    workers, num_cpus = size(pool, ray.cluster_resources(), num_nodes=nodes, num_items=len(items))
    if nodes > 1 and not storage.url.startswith("s3://"):
        logger.warning("%s must be the same folder on all %d machines; s3:// always is.", storage.url, nodes)
    _quiet(pool)
    beginnings = _beginnings_actor()
    within.ask = lambda: ray.get(beginnings.within.remote(), timeout=_ANSWER_S)
    # One block an item: a block is what Ray Data hands to an actor.
    dataset = ray.data.from_items([{"item": item.to_json()} for item in items], override_num_blocks=len(items))
    mapped = dataset.map_batches(
        _PoolWorker,
        fn_constructor_args=(worker_class, dict(worker_args), storage, beginnings),
        batch_size=1,
        # No item waits behind another in an actor: one that dies takes no innocent item's beginning with it.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=num_cpus,
        num_gpus=pool.num_gpus or None,
        memory=pool.memory_gb * 2**30 or None,
    )
    try:
        for row in mapped.iter_rows():
            yield Outcome.from_json(row["outcome"])
    except (ray.exceptions.RayError, ExecutionTimeoutError, SystemException) as error:
        raise IncompleteRunError(
            f"Ray gave up: {redact(one_line(error))}. What was finished is kept; run the same command again to go on."
        ) from error
    finally:
        within.ask = dict
        ray.kill(beginnings)


def _beginnings_actor() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(_Beginnings).remote()


def _quiet(pool: PoolConfig) -> None:
    """Ray Data talks about blocks and operators; we talk about items."""
    from ray.data import DataContext

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context = DataContext.get_current()  # Ray's own defaults set what Ray deprecates.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = pool.silence_minutes * 60
    logging.getLogger("ray.data").setLevel(logging.ERROR)
