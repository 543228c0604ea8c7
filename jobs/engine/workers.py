"""A run's work items on a pool of Ray actors, scheduled by Ray Data. Bytes go from actor to storage; Ray carries names.

The items of all stages are one dataset. Its source, a task, offers those of the next stage when the driver opens it;
the actors live as long as the dataset, and so keep what they have loaded. Where machines came or went, or the last
items of a stage take long, the source offers no more: Ray Data then lets go of actors that have nothing to do, which
makes room for one that holds an item and has lost its place, and the next stage has a dataset and actors of its own.

Ray replaces an actor whose process dies and gives it its item again, for ever. So that an item which kills every
process that touches it (out of memory, a crash in a native library) cannot stop a stage, each item's beginnings are
counted in one small actor, and after `MAX_BEGINNINGS` the item counts as failed.
"""

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from jobs.engine.items import Bench, Item, Outcome, Worker, record_failure
from jobs.engine.pool import PoolConfig, size
from jobs.engine.runtime import set_up_logging
from jobs.engine.within import Heard, Within
from jobs.storage import Storage
from jobs.storage.redaction import redact
from jobs.storage.retries import one_line
from mami_core.errors import IncompleteRunError

logger = logging.getLogger(__name__)

MAX_BEGINNINGS = 3
"""How many processes may die over one item."""
_PATIENCE_S = 300.0
"""How long after the last beginning of an item idle workers are kept for the next stage."""
_TELL_S = 5.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
"""Between two looks whether the next stage is open."""
_ANSWER_S = 5.0
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
"""Tells glibc to keep what a worker frees for what it asks for next, whichever of its threads does (Ray's own threads
work the items). Otherwise each batch's hundreds of megabytes are given back, and cleared page by page when they are
asked for again: a sixth of a pass of ResNet-18, a third of EfficientNet-Lite0's (docs/performance.md)."""


class _Register:
    """Knows which stage is open, counts how often each item was begun, and keeps how far each is."""

    def __init__(self) -> None:
        self._stage = -1
        self._counts: dict[str, int] = {}
        self._within: dict[str, Heard] = {}

    def open(self, stage: int) -> None:
        self._stage = stage

    def opened(self) -> tuple[int, int]:
        """The stage that is open, and how many beginnings there were so far."""
        return self._stage, sum(self._counts.values())

    def begin(self, key: str) -> int:
        self._counts[key] = self._counts.get(key, 0) + 1
        self._within.pop(key, None)
        return self._counts[key]

    def hear(self, key: str, heard: Heard) -> None:
        self._within[key] = heard

    def within(self) -> dict[str, Heard]:
        return self._within

    def end(self, key: str) -> None:
        self._within.pop(key, None)


def _source(
    stages: Mapping[int, Sequence[str]], register: Any, nodes: set[str], patience_s: float
) -> Callable[[Any], Iterator[dict[str, np.ndarray]]]:
    """What gives each stage's items once it is open, until actors should be let go."""

    def _offer(_: Any) -> Iterator[dict[str, np.ndarray]]:
        for number, texts in stages.items():
            if number > min(stages) and not _opens(number, register, nodes, patience_s):
                return
            for text in texts:
                yield {"item": np.array([text])}

    return _offer


def _opens(stage: int, register: Any, nodes: set[str], patience_s: float) -> bool:
    """Waits until the stage is open; False if its items should have actors of their own.

    An open stage stays offered, whatever has changed: a source that begins anew, since its process died, must come by
    all that it has offered before.
    """
    import ray

    pause, begun, since = _SHORTEST_PAUSE_S, -1, time.monotonic()
    while True:
        opened, begun_now = ray.get(register.opened.remote())
        if opened >= stage:
            return True
        if begun_now != begun:
            begun, since = begun_now, time.monotonic()
        if nodes != alive() or time.monotonic() - since > patience_s:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


class _PoolWorker:
    """What Ray Data runs in each actor: a bench, behind the count of beginnings."""

    def __init__(
        self, worker_class: Callable[..., Worker], worker_args: Mapping[str, Any], storage: Storage, register: Any
    ) -> None:
        set_up_logging()
        self._bench = Bench(worker_class, worker_args, storage)
        self._storage, self._register = storage, register

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (text,) = batch["item"]
        return {"outcome": np.array([self._work(Item.from_json(text)).to_json()])}

    def _work(self, item: Item) -> Outcome:
        import ray

        if self._bench.broken:
            os._exit(1)  # Ray starts a new process and gives it this item.
        begun = ray.get(self._register.begin.remote(item.key))
        if begun > 1 and self._storage.exists(item.key):  # its worker died after the write, or its outcome was lost
            return Outcome(key=item.key, state="done")
        if begun > MAX_BEGINNINGS:
            reason = f"{MAX_BEGINNINGS} processes died while working on it: out of memory, or a crash in a library"
            record_failure(self._storage, item, reason)
            return Outcome(key=item.key, state="failed", reason=reason)
        # Told and not waited for: how far an item is must not cost it time.
        outcome = self._bench.work(item, lambda heard: self._register.hear.remote(item.key, heard))
        self._register.end.remote(item.key)
        return outcome


def outcomes(
    stages: Sequence[Sequence[Item]],
    worker_class: Callable[..., Worker],
    worker_args: Mapping[str, Any],
    storage: Storage,
    pool: PoolConfig,
    within: Within,
) -> Generator[Outcome]:
    """Works the items on Ray, stage after stage; one outcome for each, as they end.

    A stage begins when the first of its outcomes is asked for. `within` learns where to ask how far items are.

    Raises:
        IncompleteRunError: Ray gave up: the pool could not be started, nothing happened for too long, or items were
            lost.
    """
    import ray
    from ray.data.exceptions import ExecutionTimeoutError, SystemException

    if len(alive()) > 1 and not storage.url.startswith("s3://"):
        logger.warning("%s must be the same folder on all %d machines; s3:// always is.", storage.url, len(alive()))
    register = _register_actor()
    within.ask = lambda: ray.get(register.within.remote(), timeout=_ANSWER_S)
    made_with = worker_class, dict(worker_args), storage, register
    todo = {number: list(items) for number, items in enumerate(stages) if items}
    try:
        while todo:
            # The workers go before the register, which they ask.
            with closing(_ended(todo, pool, made_with)) as ended:
                yield from _in_order(todo, ended, register)
    except (ray.exceptions.RayError, ExecutionTimeoutError, SystemException) as error:
        raise IncompleteRunError(
            f"Ray gave up: {redact(one_line(error))}. What was finished is kept; run the same command again to go on."
        ) from error
    finally:
        within.ask = dict
        ray.kill(register)


def _in_order(todo: dict[int, list[Item]], ended: Iterator[Outcome], register: Any) -> Generator[Outcome]:
    """Opens one stage after the other, and takes those that are finished off the list; until no more items end."""
    first = min(todo)
    for number, items in list(todo.items()):
        missing = {item.key for item in items}
        with _kept_open(register, number):
            while missing and (outcome := next(ended, None)):
                if outcome.key in missing:  # else it was worked twice, whatever made Ray do so
                    missing.remove(outcome.key)
                    yield outcome
        if missing and (number == first or len(missing) < len(items)):
            raise IncompleteRunError(
                f"Ray Data lost {len(missing)} items on the way. Run the same command again to do them."
            )
        if missing:  # the source offered no more
            return
        del todo[number]


@contextmanager
def _kept_open(register: Any, stage: int) -> Iterator[None]:
    """The register knows that this stage is open; told again and again, for one that died begins anew."""
    ended = threading.Event()

    def tell() -> None:
        register.open.remote(stage)
        while not ended.wait(_TELL_S):
            register.open.remote(stage)

    thread = threading.Thread(target=tell, name="open", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def alive() -> set[str]:
    """The machines that Ray has, by their ids."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _ended(stages: Mapping[int, list[Item]], pool: PoolConfig, made_with: tuple[Any, ...]) -> Generator[Outcome]:
    """Works the items on one pool of actors; what became of each, as they end."""
    import ray
    import ray.data

    nodes, resources, most = alive(), ray.cluster_resources(), max(map(len, stages.values()))
    workers, num_cpus = size(pool, resources, num_nodes=len(nodes), num_items=most)
    _quiet(pool)
    texts = {number: [item.to_json() for item in items] for number, items in stages.items()}
    *_, register = made_with
    offered = ray.data.from_items([0]).map_batches(
        # Sooner than Ray Data gives up for want of progress.
        _source(texts, register, nodes, min(_PATIENCE_S, 30 * pool.silence_minutes)),
        batch_size=None,
        num_cpus=0,  # so that it has a place although actors hold all CPUs
        label_selector={"ray.io/node-id": _here()},
    )
    mapped = offered.map_batches(
        _PoolWorker,
        fn_constructor_args=made_with,
        batch_size=1,
        # No item waits behind another in an actor: one that dies takes no innocent item's beginning with it.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=num_cpus,
        num_gpus=pool.num_gpus or None,
        memory=pool.memory_gb * 2**30 or None,
        runtime_env=None if pool.num_gpus else {"env_vars": KEEPS_MEMORY},  # beside a GPU it was not tried
    )
    # One block an item, given on at once: a block is what Ray Data hands to an actor.
    mapped.context.target_max_block_size = 1
    # Nothing is fetched ahead: the last outcome of a stage would be held back until the next stage has one.
    for block in mapped.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield from map(Outcome.from_json, block["outcome"])


def _register_actor() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(_here(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(_Register).remote()


def _here() -> str:
    """The driver's machine, which is the last to be lost."""
    import ray

    return ray.get_runtime_context().get_node_id()


def _quiet(pool: PoolConfig) -> None:
    """Ray Data talks about blocks and operators; we talk about items."""
    from ray.data import DataContext

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context = DataContext.get_current()  # Ray's own defaults set what Ray deprecates.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = pool.silence_minutes * 60
    logging.getLogger("ray.data").setLevel(logging.ERROR)
