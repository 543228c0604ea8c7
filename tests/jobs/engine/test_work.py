"""Stages of a run, in one process: every object once, and what is wrong is said."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engine.items import MAX_TRIES
from jobs.engine.work import (
    Item,
    Output,
    StageReport,
    part_name,
    require_complete,
    run_stage,
)
from jobs.storage import Storage
from mami_core.errors import (
    CheckpointError,
    ConfigError,
    ImageError,
    IncompleteRunError,
    StorageRefusedError,
)
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.tables import QUICK, Tables, items, snapshot, table

ERRORS = {"image": ImageError, "refused": StorageRefusedError, "memory": MemoryError}


class Unmakeable:
    def __init__(self) -> None:
        raise ValueError("no such captioner")

    def process(self, item: Item, storage: Storage) -> Output:
        raise AssertionError


class Misled(Unmakeable):
    def __init__(self) -> None:
        raise CheckpointError("no such captioner")


class Twins:
    """Makes two objects an item; dies between them where the payload says so."""

    def process(self, item: Item, storage: Storage) -> Output:
        return Output({f"features/{item.name}": b"large", item.key: table(item)})


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


def test_what_is_wrong_for_all_items_ends_the_stage_as_bad_input(disk: Storage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tables part-00001-of-00005: made by the test"):
        run_stage(disk, items(5, _1={"error": "config"}), Tables, {"scratch": str(tmp_path)}, pool=None)
    with pytest.raises(ConfigError, match="tables part-00001-of-00005: no such captioner"):  # the first is done
        run_stage(disk, items(5), Misled, pool=None)
    assert (tmp_path / "raised-1").stat().st_size == 1, "it is not tried again"


def test_people_are_told_to_try_again_only_where_that_helps(tmp_path: Path) -> None:
    def said(*kinds: str) -> str:
        disk = Storage(str(tmp_path / "-".join(kinds)), retry=QUICK)
        work = items(4, **{f"_{number}": {"error": kind} for number, kind in enumerate(kinds)})
        report = run_stage(disk, work, Tables, {"scratch": str(tmp_path)}, pool=None)
        with pytest.raises(IncompleteRunError) as caught:
            require_complete(report)
        return str(caught.value).splitlines()[-1]

    assert said("memory") == "Run the same command again to try only those again."
    assert said("image").startswith("No second try heals these: mend what is said above")
    assert said("image", "memory").startswith("No second try heals 1 of them: mend")


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


def test_a_report_sums_itself_up() -> None:
    report = StageReport("tables", 10, 4, num_done=6, counters=Counter({"images": 5120}), bytes=2_000_000, seconds=12.3)
    assert report.summary() == "tables: 10 of 10 items done (4 before), 5,120 images, 2.0 MB, 12.3 s"
