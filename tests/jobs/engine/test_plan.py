"""Plans and manifests: what a run folder says of itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engine.plan import begin
from jobs.engine.work import (
    find_plan,
    open_plan,
    read_manifest,
    run_stage,
    write_manifest,
)
from jobs.storage import Storage
from mami_core.errors import (
    ConfigError,
    ContractError,
    IncompleteRunError,
    MamiError,
    RunMismatchError,
)
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.tables import QUICK, Tables, items, snapshot, table

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


def test_a_setting_that_says_nothing_to_people_is_explained(disk: Storage) -> None:
    def explain(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
        return {"subject.weights": f"from {there['k']} to {here['k']}", "k": ""}

    open_plan(disk, CONFIG)
    with pytest.raises(RunMismatchError) as caught:
        open_plan(disk, CONFIG | {"subject": {"name": "resnet18", "weights": "4567"}, "k": 16}, explain=explain)
    assert str(caught.value).splitlines()[1:-1] == ["  subject.weights: from 15 to 16"]


def ended(storage: Storage, error: MamiError, **files: bytes) -> None:
    """A run that writes files and ends with an error."""
    with begin(storage, CONFIG) as plan:
        assert find_plan(storage) == plan
        for name, data in files.items():
            storage.write(f"images/{name}", data)
        raise error


def test_a_run_that_is_refused_before_its_work_leaves_no_file(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="no such GPU"):
        ended(storage, ConfigError("no such GPU"), part=b"1")
    assert storage.find() == []
    assert storage.url.startswith("s3://") or not Path(storage.url).exists()


def test_what_is_not_of_the_refused_run_stays(storage: Storage) -> None:
    storage.write("images/holiday.jpg", b"mine")
    with pytest.raises(ConfigError):
        ended(storage, ConfigError("no such GPU"), part=b"1")
    assert set(snapshot(storage)) == {"images/holiday.jpg"}
    with pytest.raises(IncompleteRunError):
        ended(storage, IncompleteRunError("a node was lost"))
    with pytest.raises(ConfigError):
        ended(storage, ConfigError("a run that goes on"), part=b"1")
    assert set(snapshot(storage)) == {"images/holiday.jpg", "images/part", "_PLAN.json"}


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
