"""Stages of a run: nothing lost, nothing twice, whatever is killed; and what a run folder says of itself."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import pool as pool_module
from jobs.items import MAX_TRIES
from jobs.pool import MAX_BEGINNINGS
from jobs.storage import RetryConfig, Storage
from jobs.work import (
    Item,
    Output,
    PoolConfig,
    StageReport,
    find_plan,
    open_plan,
    part_name,
    read_manifest,
    require_complete,
    run_stage,
    write_manifest,
)
from mami_core.errors import (
    ConfigError,
    ContractError,
    ImageError,
    IncompleteRunError,
    RunMismatchError,
    StorageRefusedError,
)
from tests.jobs.faultproxy import FaultProxy

QUICK = RetryConfig(patience_s=20, first_pause_s=0.001, longest_pause_s=0.01)
POOL = PoolConfig(num_workers=2)
ERRORS = {"image": ImageError, "refused": StorageRefusedError, "memory": MemoryError}

cluster = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("ray"),
    pytest.mark.cluster,
    pytest.mark.usefixtures("local_ray"),
]


def on_ray(test):  # noqa: ANN001, ANN201
    for mark in cluster:
        test = mark(test)
    return test


@pytest.fixture
def storage(place: str) -> Storage:
    return Storage(place, retry=QUICK)


@pytest.fixture
def disk(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"), retry=QUICK)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.items._PAUSE_S", 0.001)


def items(count: int, **payloads: Any) -> list[Item]:
    """A stage of `count` items; payloads["_3"] is that of item 3."""
    return [
        Item("tables", n, count, f"tables/{part_name(n, count)}.parquet", payloads.get(f"_{n}", {}))
        for n in range(count)
    ]


def table(item: Item) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"unit": list(range(10 * item.index, 10 * item.index + 10))}), buffer)
    return buffer.getvalue()


def snapshot(storage: Storage) -> dict[str, str]:
    return {info.path: hashlib.sha256(storage.read(info.path)).hexdigest() for info in storage.find()}


class Tables:
    """Makes a table of ten rows an item; what goes wrong on the way is in the item's payload.

    {"kill": n, "when": "before" or "after" the write}: the process dies the first n times. {"raise": n}: the first n
    times. {"error": kind}: raises it each time.
    """

    def __init__(self, scratch: str = "") -> None:
        self.scratch = Path(scratch)

    def times(self, what: str, item: Item) -> int:
        """How often this was asked before, in all processes."""
        file = self.scratch / f"{what}-{item.index}"
        with file.open("a") as log:
            log.write("x")
        return file.stat().st_size - 1

    def process(self, item: Item, storage: Storage) -> Output:
        data = table(item)
        if item.payload.get("kill", 0) > 0 and self.times("killed", item) < item.payload["kill"]:
            if item.payload["when"] == "after":
                storage.write(item.key, data)
            os.kill(os.getpid(), signal.SIGKILL)
        if item.payload.get("raise", 0) > 0 and self.times("raised", item) < item.payload["raise"]:
            raise RuntimeError("made by the test")
        if error := item.payload.get("error"):
            self.times("raised", item)
            raise {"image": ImageError, "refused": StorageRefusedError, "memory": MemoryError}[error](
                "made by the test"
            )
        time.sleep(item.payload.get("sleep", 0))
        return Output(data, {"rows": 10})


class Unmakeable:
    def __init__(self) -> None:
        raise ValueError("no such captioner")

    def process(self, item: Item, storage: Storage) -> Output:
        raise AssertionError


class LostGpu:
    """Fails at item 0 as torch does when the GPU's context is gone, and from then on at every item."""

    def __init__(self) -> None:
        self.lost = False

    def process(self, item: Item, storage: Storage) -> Output:
        self.lost |= item.index == 0
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return Output(table(item))


class Twins:
    """Makes two objects an item; dies between them where the payload says so."""

    def process(self, item: Item, storage: Storage) -> Output:
        return Output({f"features/{item.name}": b"large", item.key: table(item)})


# Without Ray


def test_a_stage_makes_every_object_once(storage: Storage) -> None:
    report = run_stage(storage, items(5), Tables, pool=None)
    assert [info.path for info in storage.find()] == [item.key for item in items(5)]
    assert report.complete
    assert (report.num_items, report.num_done_before, report.num_done) == (5, 0, 5)
    assert report.counters == {"rows": 50}
    assert report.bytes == sum(info.size for info in storage.find())


def test_a_second_run_does_nothing(storage: Storage) -> None:
    run_stage(storage, items(3), Tables, pool=None)
    before = [(info.path, info.version) for info in storage.find()]
    report = run_stage(storage, items(3), Unmakeable, pool=None)
    assert report.complete
    assert (report.num_done_before, report.num_done) == (3, 0)
    assert [(info.path, info.version) for info in storage.find()] == before


@given(done=st.sets(st.integers(0, 5)))
def test_whatever_is_done_already_the_result_is_the_same(
    done: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("run")))
    for item in items(6):
        if item.index in done:
            storage.write(item.key, table(item))
    report = run_stage(storage, items(6), Tables, pool=None, show_progress=False)
    assert (report.num_done_before, report.num_done) == (len(done), 6 - len(done))
    assert {path: storage.read(path) for path in snapshot(storage)} == {item.key: table(item) for item in items(6)}


def test_an_item_that_fails_leaves_the_others_alone(storage: Storage, tmp_path: Path) -> None:
    work = items(4, _1={"error": "image"}, _2={"raise": MAX_TRIES})
    report = run_stage(storage, work, Tables, {"scratch": str(tmp_path)}, pool=None)
    assert not report.complete
    assert report.num_done == 2
    assert {failure.item: failure.reason for failure in report.failures} == {
        part_name(1, 4): "made by the test",
        part_name(2, 4): "RuntimeError: made by the test",
    }
    assert {info.path for info in storage.find("_errors")} == {work[1].error_key, work[2].error_key}
    record = json.loads(storage.read(work[1].error_key))
    assert record["reason"] == "made by the test"
    assert record["key"] == work[1].key
    assert "ImageError" in record["details"]
    with pytest.raises(IncompleteRunError, match=r"2 work items failed:\n  tables part-00001-of-00004: made by"):
        require_complete(report)


def test_an_accident_is_tried_again_and_an_error_of_ours_is_not(disk: Storage, tmp_path: Path) -> None:
    work = items(3, _0={"raise": MAX_TRIES - 1}, _1={"error": "image"}, _2={"error": "memory"})
    report = run_stage(disk, work, Tables, {"scratch": str(tmp_path)}, pool=None)
    assert report.num_done == 1
    tries = {path.name: path.stat().st_size for path in tmp_path.glob("raised-*")}
    assert tries == {"raised-0": MAX_TRIES, "raised-1": 1, "raised-2": MAX_TRIES}


def test_the_next_run_tries_failed_items_again_and_forgets_what_healed(storage: Storage, tmp_path: Path) -> None:
    broken, healed = items(3, _1={"error": "image"}), items(3)
    assert not run_stage(storage, broken, Tables, {"scratch": str(tmp_path)}, pool=None).complete
    report = run_stage(storage, healed, Tables, pool=None)
    assert report.complete
    assert (report.num_done_before, report.num_done) == (2, 1)
    assert storage.find("_errors") == []
    assert set(snapshot(storage)) == {item.key for item in healed}


def test_storage_that_refuses_ends_the_stage_at_once(disk: Storage, tmp_path: Path) -> None:
    work = items(5, _1={"error": "refused"})
    with pytest.raises(IncompleteRunError, match="part-00001-of-00005 could not go on: made by the test"):
        run_stage(disk, work, Tables, {"scratch": str(tmp_path)}, pool=None)
    assert set(snapshot(disk)) == {work[0].key}


def test_a_worker_that_cannot_be_made_ends_the_stage_at_once(disk: Storage) -> None:
    with pytest.raises(IncompleteRunError, match="the worker could not be made: ValueError: no such captioner"):
        run_stage(disk, items(5), Unmakeable, pool=None)


def test_an_items_own_object_is_written_last(disk: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(disk, "write", lambda path, data: written.append(path))
    (item,) = items(1)
    run_stage(disk, [item], Twins, pool=None)
    assert written == [f"features/{item.name}", item.key]


def test_each_item_costs_one_write_and_a_stage_two_listings(bucket: str, proxy: FaultProxy) -> None:
    run_stage(Storage(bucket), items(7), Tables, pool=None)
    assert proxy.requests == {"PUT": 7, "GET": 2, "HEAD": 2}, "the first run finds both folders missing"
    proxy.reset()
    run_stage(Storage(bucket), items(7), Tables, pool=None)
    assert proxy.requests == {"GET": 2, "HEAD": 1}


def test_items_that_cannot_be_told_apart_are_refused(disk: Storage) -> None:
    for work in ([], [*items(2), *items(2)], [items(2)[0], Item("other", 1, 2, "other")]):
        with pytest.raises(ConfigError):
            run_stage(disk, work, Tables, pool=None)


@given(stage=st.text(), index=st.integers(0, 10**6), payload=st.dictionaries(st.text(), st.integers() | st.text()))
def test_an_item_survives_the_way_to_its_worker(stage: str, index: int, payload: dict[str, Any]) -> None:
    item = Item(stage, index, 10**6, "key", payload)
    assert Item.from_json(item.to_json()) == item


# On Ray


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
    import ray

    with pytest.raises(IncompleteRunError, match="could not go on: made by the test"):
        run_stage(disk, items(30, _1={"error": "refused"}), Tables, {"scratch": str(tmp_path)}, pool=POOL)
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == 4


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
from jobs import runtime
from jobs.storage import Storage
from jobs.work import PoolConfig, run_stage
from tests.jobs.test_work import Tables, items
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


def wait_for_objects(storage: Storage, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(storage.find()) < count:
        assert time.monotonic() < deadline, f"{len(storage.find())} objects"
        time.sleep(0.05)


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


# Plans and manifests

CONFIG = {"subject": {"name": "resnet18", "weights": "0123"}, "layers": ["layer1", "layer4"], "k": 15, "quantile": 0.99}


def test_a_plan_is_made_once_and_found_again(storage: Storage) -> None:
    assert find_plan(storage) is None
    plan = open_plan(storage, CONFIG)
    (before,) = storage.find()
    assert open_plan(storage, dict(reversed(CONFIG.items()))) == plan
    assert find_plan(storage) == plan
    assert storage.find() == [before]


def test_a_plan_with_other_settings_is_refused_naming_each(storage: Storage) -> None:
    open_plan(storage, CONFIG)
    changed = {"subject": {"name": "resnet18", "weights": "4567"}, "layers": ["layer1"], "k": 15, "crop": 0.875}
    with pytest.raises(RunMismatchError) as caught:
        open_plan(storage, changed)
    message = str(caught.value)
    assert 'subject.weights: "0123" there, "4567" now' in message
    assert 'layers: ["layer1", "layer4"] there, ["layer1"] now' in message
    assert "crop: absent there, 0.875 now" in message
    assert "quantile: 0.99 there, absent now" in message
    assert "k:" not in message
    assert "subject.name" not in message
    assert storage.url in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.text(min_size=1), json_values, max_size=4)


@given(first=configs, second=configs)
def test_runs_are_told_apart_exactly_where_their_settings_differ(
    first: dict[str, Any], second: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("run")))
    plan = open_plan(storage, first)
    assert json.loads(json.dumps(first)) == plan.config
    assert open_plan(storage, first).fingerprint == plan.fingerprint
    if json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True):
        open_plan(storage, second)
    else:
        with pytest.raises(RunMismatchError):
            open_plan(storage, second)


def test_a_plan_of_another_version_or_kind_is_refused(disk: Storage) -> None:
    disk.write("_PLAN.json", b'{"version": 2, "fingerprint": "", "config": {}}')
    with pytest.raises(ContractError, match="version 2, expected 1"):
        open_plan(disk, CONFIG)
    for strange in (b"", b"[]", b"{}", b'{"version": 1}', b"\xff", b"null"):
        disk.write("_PLAN.json", strange)
        with pytest.raises(ContractError, match="not written by this project"):
            open_plan(disk, CONFIG)


def test_a_plan_holds_json_only(disk: Storage) -> None:
    for strange in ({"a": float("nan")}, {"a": Path("x")}, {"a": {1, 2}}):
        with pytest.raises(ConfigError, match="JSON values only"):
            open_plan(disk, strange)


def test_a_plan_whose_creation_lost_its_reply_is_ours(bucket: str, proxy: FaultProxy) -> None:
    proxy.order("PUT", "lost", "lost")
    open_plan(Storage(bucket, retry=QUICK), CONFIG)
    assert find_plan(Storage(bucket)).config == CONFIG  # type: ignore[union-attr]


def test_a_manifest_says_what_a_finished_run_holds(storage: Storage) -> None:
    plan = open_plan(storage, CONFIG)
    work = items(3)
    run_stage(storage, work, Tables, pool=None)
    with pytest.raises(IncompleteRunError, match=r"no _MANIFEST.json"):
        read_manifest(storage)
    manifest = write_manifest(storage, plan, [item.key for item in reversed(work)])
    assert read_manifest(storage, verify=True) == manifest
    assert manifest.fingerprint == plan.fingerprint
    assert manifest.config == CONFIG
    assert manifest.num_rows("tables/") == 30
    assert {file.path: file.sha256 for file in manifest.files} == {
        item.key: hashlib.sha256(table(item)).hexdigest() for item in work
    }
    assert write_manifest(storage, plan, [item.key for item in work]) == manifest, "a second time changes nothing"


def test_no_manifest_is_written_while_a_file_is_missing(disk: Storage) -> None:
    plan = open_plan(disk, CONFIG)
    with pytest.raises(IncompleteRunError, match=r"none\.parquet"):
        write_manifest(disk, plan, ["none.parquet"])
    assert not disk.exists("_MANIFEST.json")


def test_a_changed_file_is_noticed(disk: Storage) -> None:
    plan = open_plan(disk, CONFIG)
    disk.write("a.bin", b"1")
    disk.write("b.bin", b"2")
    write_manifest(disk, plan, ["a.bin", "b.bin"])
    disk.write("b.bin", b"3")
    read_manifest(disk)
    with pytest.raises(ContractError, match=r"changed since the run was finished: b\.bin"):
        read_manifest(disk, verify=True)
    with pytest.raises(RunMismatchError, match=r"other contents of: b\.bin"):
        write_manifest(disk, plan, ["a.bin", "b.bin"])
    disk.delete("b.bin")
    with pytest.raises(IncompleteRunError, match=r"b\.bin"):
        read_manifest(disk, verify=True)


def test_plan_and_manifest_are_the_same_bytes_in_every_run(tmp_path: Path) -> None:
    runs = [Storage(str(tmp_path / name)) for name in ("a", "b")]
    for storage in runs:
        plan = open_plan(storage, CONFIG)
        run_stage(storage, items(2), Tables, pool=None)
        write_manifest(storage, plan, [item.key for item in items(2)])
    assert snapshot(runs[0]) == snapshot(runs[1])
    assert len(snapshot(runs[0])) == 4


def test_a_report_sums_itself_up() -> None:
    report = StageReport("tables", 10, 4, num_done=6, counters=Counter({"images": 5120}), bytes=2_000_000, seconds=12.3)
    assert report.summary() == "tables: 10 of 10 items done (4 before), 5,120 images, 2.0 MB, 12.3 s"
