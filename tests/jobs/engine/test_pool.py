"""Stages on Ray: nothing lost, nothing twice, whatever is killed."""

import dataclasses
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from jobs.engine import pool as pool_module
from jobs.engine import workers as workers_module
from jobs.engine.items import Outcome
from jobs.engine.work import (
    Item,
    Output,
    PoolConfig,
    part_name,
    require_complete,
    run_stage,
    run_stages,
)
from jobs.engine.workers import MAX_BEGINNINGS
from jobs.storage import Storage
from mami_core.errors import (
    ConfigError,
    IncompleteRunError,
)
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.processes import below, read
from tests.jobs.tables import QUICK, Tables, items, on_ray, snapshot, table, wait_for_objects

POOL = PoolConfig(num_workers=2)


class LostGpu:
    """Fails at item 0 as torch does when the GPU's context is gone, and from then on at every item."""

    def __init__(self) -> None:
        self.lost = False

    def process(self, item: Item, storage: Storage) -> Output:
        self.lost |= item.index == 0
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return Output(table(item))


@on_ray
def test_ray_gives_what_one_process_gives(disk: Storage, tmp_path: Path) -> None:
    alone = Storage(str(tmp_path / "alone"))
    run_stage(alone, items(8), Tables, pool=None)
    report = run_stage(disk, items(8), Tables, pool=POOL)
    assert snapshot(disk) == snapshot(alone)
    assert report.complete
    assert report.counters == {"rows": 80}


@on_ray
@pytest.mark.parametrize("where", ["s3", pytest.param("disk", marks=pytest.mark.slow)])
def test_killed_workers_change_nothing(where: str, bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    storage = Storage(bucket if where == "s3" else str(tmp_path / "run"), retry=QUICK)
    alone = Storage(str(tmp_path / "alone"))
    run_stage(alone, items(10), Tables, pool=None)
    proxy.reset()
    work = items(
        10,
        _1={"kill": 1, "when": "before"},
        _4={"kill": MAX_BEGINNINGS - 1, "when": "before"},
        _6={"kill": 1, "when": "after"},
    )
    report = run_stage(storage, work, Tables, {"scratch": str(tmp_path)}, pool=POOL)
    assert report.complete
    assert report.failures == []
    assert snapshot(storage) == snapshot(alone)
    if where == "s3":
        assert proxy.requests["PUT"] == 10, "also the item whose worker died after the write is written once"


@on_ray
def test_an_item_that_kills_every_worker_is_given_up_and_blamed_alone(disk: Storage, tmp_path: Path) -> None:
    work = items(8, _3={"kill": 10**6, "when": "before"})
    report = run_stage(disk, work, Tables, {"scratch": str(tmp_path)}, pool=POOL)
    assert report.num_done == 7
    (failure,) = report.failures
    assert failure.item == part_name(3, 8)
    assert f"{MAX_BEGINNINGS} processes died" in failure.reason
    assert json.loads(disk.read(work[3].error_key))["reason"] == failure.reason
    assert (tmp_path / "killed-3").stat().st_size == MAX_BEGINNINGS


class Refilled:
    """Counts the pages that the system cleared for 64 MB which were asked for and freed before."""

    def process(self, item: Item, storage: Storage) -> Output:
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(2**23)
            cleared = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return Output(str(cleared).encode())


@on_ray
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_workers_keep_the_memory_that_they_free(disk: Storage) -> None:
    (item,) = items(1)
    run_stage(disk, [item], Refilled, pool=POOL)
    assert int(disk.read(item.key)) * resource.getpagesize() < 2**20


class Staged:
    """Notes its process. What the driver writes between the stages is there before an item of the next one begins."""

    def process(self, item: Item, storage: Storage) -> Output:
        if item.payload["reads"]:
            storage.read(item.payload["reads"])
        if item.payload["kills"] and storage.create(f"killed/{item.payload['kills']}", b"once"):
            kill_beside(item.payload["kills"])
        return Output(str(os.getpid()).encode(), {"items": 1})


def kill_beside(name: str) -> None:
    """Kills the processes of that name that this one's parent has started too, this one last."""
    for each in sorted(below(os.getppid()), key=os.getpid().__eq__):
        if name.encode() in read(each, "cmdline"):
            os.kill(each, signal.SIGKILL)


@on_ray
def test_workers_live_through_the_stages_and_no_item_begins_before_its_stage(disk: Storage) -> None:
    """Whatever is killed: what knows which stage is open, what offers its items, or all workers at once."""
    stages = [
        [Item(name, n, 4, f"{name}/{n}", {"reads": reads, "kills": kills if n == 3 else ""}) for n in range(4)]
        for name, reads, kills in (
            ("first", "", ""),
            ("second", "between/first", "_Register"),
            ("third", "between/second", "_offer"),
            ("fourth", "between/third", "MapWorker"),
            ("fifth", "between/fourth", ""),
        )
    ]
    with closing(run_stages(disk, stages, Staged, pool=POOL)) as reports:
        for report in reports:
            require_complete(report)
            disk.write(f"between/{report.stage}", b"all are there")
    workers = [{disk.read(item.key) for item in items} for items in stages]
    assert len(workers[0] | workers[1] | workers[2]) <= 2, "two workers"
    assert len(set.union(*workers)) <= 4, "and those that took the place of two that were killed"
    assert len(disk.find("killed")) == 3


@pytest.mark.slow
@on_ray
def test_a_worker_that_loses_its_place_to_another_holds_up_no_stage(
    disk: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are wanted and two have a place: the third may take that of one that dies with an item."""
    monkeypatch.setattr(workers_module, "_PATIENCE_S", 1.0)
    pool = PoolConfig(num_workers=3, memory_gb=0.4 * ray.cluster_resources()["memory"] / 2**30)
    stages = [
        [dataclasses.replace(item, stage=name, key=f"{name}/{item.index}") for item in items(4, _3=payload)]
        for name, payload in (("first", {"kill": 1, "when": "before"}), ("second", {}))
    ]
    reports = list(run_stages(disk, stages, Tables, {"scratch": str(tmp_path)}, pool=pool))
    assert [report.num_done for report in reports] == [4, 4]


@on_ray
def test_a_source_that_begins_anew_offers_an_open_stage_although_machines_came_or_went() -> None:
    register = workers_module._register_actor()
    ray.get(register.open.remote(1))
    others = {"a machine that went"}
    assert workers_module._opens(1, register, others, 60.0)
    assert not workers_module._opens(2, register, others, 60.0)
    assert not workers_module._opens(2, register, workers_module.alive(), 0.1), "nothing begins, and it waits no longer"
    ray.kill(register)


STAGES = {n: [Item(f"stage {n}", index, 2, f"{n}/{index}") for index in range(2)] for n in range(3)}


@given(
    keys=st.permutations([item.key for item in STAGES[0]] * 2),
    more=st.sampled_from([[], ["1/0", "1/1"], ["1/1", "0/0"]]),
)
def test_an_outcome_counts_once_and_for_its_own_item(keys: list[str], more: list[str]) -> None:
    """A stage that nothing was offered of is left for other workers, one of which items are lost is not passed over."""
    todo, given = dict(STAGES), [Outcome(key=key, state="done") for key in keys + more]
    counted = []
    lost = len(more) == 2 and "0/0" in more
    with pytest.raises(IncompleteRunError, match="lost 1 items") if lost else nullcontext():
        counted += [outcome.key for outcome in workers_module._in_order(todo, iter(given), Register())]
    if lost:
        return
    assert sorted(counted) == sorted({*keys, *more})
    assert list(todo) == ([2] if more else [1, 2])


class Register:
    """Told which stage is open."""

    def __init__(self) -> None:
        self.open = self

    def remote(self, stage: int) -> None: ...


@pytest.mark.slow
@on_ray
@pytest.mark.parametrize("rate", [0.05, 0.15])
def test_faults_of_the_storage_change_nothing(rate: float, bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    alone, storage = Storage(str(tmp_path / "alone")), Storage(bucket, retry=QUICK)
    run_stage(alone, items(60), Tables, pool=None)
    proxy.rates = {"503": rate, "lost": rate, "reset": rate, "500": rate}
    killed = {f"_{n}": {"kill": 1, "when": ("before", "after")[n % 2]} for n in range(0, 60, 15)}
    report = run_stage(storage, items(60, **killed), Tables, {"scratch": str(tmp_path)}, pool=POOL)
    proxy.reset()
    assert report.complete
    assert snapshot(storage) == snapshot(alone)


@on_ray
def test_a_refusal_ends_a_stage_on_ray_and_leaves_nothing_running(disk: Storage, tmp_path: Path) -> None:
    later = [dataclasses.replace(item, stage="later", key=f"later/{item.index}") for item in items(2)]
    stages = run_stages(
        disk, [items(30, _1={"error": "refused"}), later], Tables, {"scratch": str(tmp_path)}, pool=POOL
    )
    with closing(stages), pytest.raises(IncompleteRunError, match="could not go on: made by the test"):
        next(stages)
    deadline = time.monotonic() + 30
    while running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running()
    assert ray.available_resources().get("CPU") == 4


def running() -> list[bytes]:
    """What Ray runs for a stage, of all that it has started here."""
    names = (b"MapWorker", b"_offer", b"_Register")
    return [line for pid in below(os.getpid()) if any(name in (line := read(pid, "cmdline")) for name in names)]


@on_ray
@pytest.mark.parametrize("num_workers", [5, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 4, 9))])
def test_a_pool_of_any_size_ends(num_workers: int, disk: Storage) -> None:
    report = run_stage(disk, items(9), Tables, pool=PoolConfig(num_workers=num_workers))
    assert report.complete


@pytest.mark.slow
@on_ray
def test_a_stage_in_which_nothing_happens_is_given_up(disk: Storage) -> None:
    work = items(3, _1={"sleep": 100})
    with pytest.raises(IncompleteRunError, match="Ray gave up: ExecutionTimeoutError"):
        run_stage(disk, work, Tables, pool=PoolConfig(num_workers=2, silence_minutes=0.5))
    assert work[1].key not in snapshot(disk)


DRIVER = """
import sys
from jobs.engine import runtime
from jobs.storage import Storage
from jobs.engine.work import PoolConfig, run_stage
from tests.jobs.tables import Tables, items
with runtime.connect(num_cpus=3, object_store_bytes=100 << 20):
    print("ready", flush=True)
    slow = {f"_{n}": {"sleep": 0.4} for n in range(16)}
    report = run_stage(Storage(sys.argv[1]), items(16, **slow), Tables, pool=PoolConfig(num_workers=2))
    print(report.num_done_before, report.num_done, flush=True)
"""


def driver(place: str, *, code: str = DRIVER) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, place],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )


@on_ray
def test_a_killed_driver_is_followed_by_one_that_finishes(disk: Storage, tmp_path: Path) -> None:
    alone = Storage(str(tmp_path / "alone"))
    run_stage(alone, items(16), Tables, pool=None)
    first = driver(disk.url)
    wait_for_objects(disk, 3)
    first.kill()
    first.wait(30)
    done = len(disk.find())
    assert 3 <= done < 16
    report = run_stage(disk, items(16), Tables, pool=POOL)
    assert report.complete
    assert report.num_done_before >= done
    assert snapshot(disk) == snapshot(alone)


@pytest.mark.slow
@on_ray
def test_two_drivers_at_once_do_no_harm(disk: Storage, tmp_path: Path) -> None:
    alone = Storage(str(tmp_path / "alone"))
    run_stage(alone, items(16), Tables, pool=None)
    both = [driver(disk.url), driver(disk.url)]
    assert [one.wait(200) for one in both] == [0, 0]
    assert snapshot(disk) == snapshot(alone)


@pytest.mark.slow
@on_ray
@pytest.mark.timeout(600)
def test_the_driver_stays_small_and_quick_with_many_items(disk: Storage) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    report = run_stage(disk, items(5000), Tables, pool=PoolConfig(num_workers=3))
    seconds = time.monotonic() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert report.complete
    assert grown < 300, "MB more"
    assert 5000 / seconds > 25, "items a second"


@given(
    cpus=st.floats(0, 256),
    gpus=st.integers(0, 64),
    workers=st.integers(0, 64),
    num_cpus=st.floats(0.1, 16),
    num_gpus=st.sampled_from([0, 0.25, 1]),
    num_items=st.integers(1, 1000),
)
def test_a_pool_on_one_machine_never_holds_all_cpus(
    cpus: float, gpus: int, workers: int, num_cpus: float, num_gpus: float, num_items: int
) -> None:
    pool = PoolConfig(num_workers=workers, num_cpus=num_cpus, num_gpus=num_gpus)
    resources = {"CPU": cpus, "GPU": gpus}
    if num_gpus and not gpus and not workers:
        with pytest.raises(ConfigError, match="need a GPU"):
            pool_module.size(pool, resources, num_nodes=1, num_items=num_items)
        return
    number, each = pool_module.size(pool, resources, num_nodes=1, num_items=num_items)
    assert 1 <= number <= num_items
    assert each <= num_cpus
    if workers:
        assert number == min(workers, num_items)
    if cpus > 0.1:
        assert 0 < number * each < cpus


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 2), (3, 3), (4, 3), (16, 15)])
def test_by_default_there_is_a_worker_for_each_cpu_but_one(cpus: int, workers: int) -> None:
    assert pool_module.size(PoolConfig(), {"CPU": cpus}, num_nodes=1, num_items=99)[0] == workers


@pytest.mark.parametrize(
    ("machines", "num_gpus", "cpus"),
    [
        ([{"CPU": 16, "GPU": 1}], 1, 15),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 96}], 1, 7),
        ([{"CPU": 16, "GPU": 1}, {"CPU": 9, "GPU": 1}], 1, 8),
        ([{"CPU": 16, "GPU": 1}], 0.5, 7),
        ([{"CPU": 1, "GPU": 4}], 1, 1),
        ([{"GPU": 4}], 1, 1),
        ([{"CPU": 16, "GPU": 1}], 0, 1),
        ([], 1, 1),
    ],
)
def test_by_default_a_worker_with_a_gpu_has_its_share_of_the_machines_cpus(
    machines: list[dict[str, float]], num_gpus: float, cpus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"Alive": False, "Resources": {"CPU": 2, "GPU": 1}}
    nodes = [*({"Alive": True, "Resources": each} for each in machines), gone]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert pool_module.cpus_a_worker(None, num_gpus=num_gpus) == cpus
    assert pool_module.cpus_a_worker(3.5, num_gpus=num_gpus) == 3.5


def test_on_a_cluster_a_claim_stands_so_that_an_autoscaler_adds_machines() -> None:
    pool = PoolConfig(num_workers=64, num_cpus=4, num_gpus=1)
    assert pool_module.size(pool, {"CPU": 8}, num_nodes=2, num_items=99) == (64, 4)
    assert pool_module.size(pool, {}, num_nodes=1, num_items=99) == (64, 4)


def test_workers_that_do_not_fit_into_memory_are_refused_before_the_work_starts() -> None:
    resources = {"CPU": 16, "memory": 10 * 2**30}
    with pytest.raises(ConfigError, match=r"reserves 12 GB of memory and Ray has 10\.0 GB"):
        pool_module.size(PoolConfig(memory_gb=12), resources, num_nodes=1, num_items=99)
    assert pool_module.size(PoolConfig(memory_gb=3), resources, num_nodes=1, num_items=99) == (3, 1)


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"num_cpus": 0}, {"num_gpus": -1}, {"memory_gb": -1}])
def test_impossible_pools_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PoolConfig(**settings)


@pytest.mark.slow
@on_ray
def test_a_lost_gpu_costs_one_item_and_its_process(disk: Storage) -> None:
    report = run_stage(disk, items(6), LostGpu, pool=PoolConfig(num_workers=1))
    assert report.num_done == 5
    assert [failure.item for failure in report.failures] == [part_name(0, 6)]
