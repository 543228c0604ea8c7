"""What a run is: the configuration that determines its bytes, written down once, and the list of what it made.

`_PLAN.json` is the first object of a run folder and `_MANIFEST.json` the last. Both are created once and never changed;
both hold nothing that differs between two runs of the same configuration, so they too come out byte for byte the same.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from jobs.storage import Storage
from jobs.storage.redaction import redact
from mami_core.errors import (
    ConfigError,
    ContractError,
    IncompleteRunError,
    MamiError,
    MissingObjectError,
    ObjectExistsError,
    RunMismatchError,
    StorageError,
    StorageRefusedError,
    is_bad_input,
)

logger = logging.getLogger(__name__)

PLAN, MANIFEST = "_PLAN.json", "_MANIFEST.json"
_VERSION = 1
_ABSENT = "absent"
_READERS = 8


@dataclass(frozen=True)
class Plan:
    """Everything that changes a byte of a run's result, and nothing that does not."""

    config: dict[str, Any]
    """JSON values: strings, numbers, booleans, null, lists and dictionaries with string keys."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration in canonical JSON: what identifies the run."""
        return hashlib.sha256(_canonical(self.config)).hexdigest()

    def to_json(self) -> bytes:
        """The bytes of `_PLAN.json`."""
        return _document({"version": _VERSION, "fingerprint": self.fingerprint, "config": self.config})


Explain = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, str]]
"""Both configurations, there and now → what to say of a setting that differs instead of its values, by its dotted
name; nothing for one that another explains."""


def open_plan(storage: Storage, config: Mapping[str, Any], *, explain: Explain = lambda _there, _here: {}) -> Plan:
    """The run of this configuration in this folder: begun now, or going on.

    Raises:
        RunMismatchError: the folder holds a run of another configuration; names each setting that differs.
        ContractError: what stands there is no plan, or one of another version of this project.
        ConfigError: the configuration holds something that JSON cannot say.
    """
    plan = Plan(json.loads(_canonical(config)))
    found = find_plan(storage)
    if found is None:
        try:
            storage.create(PLAN, plan.to_json())
            return plan
        except ObjectExistsError:  # another driver was faster; whether it wants the same is seen below
            found = find_plan(storage)
    assert found is not None
    _require_same(storage, found, plan, explain)
    return plan


def is_finished(storage: Storage, config: Mapping[str, Any], *, explain: Explain = lambda _there, _here: {}) -> bool:
    """Whether the run of this configuration is finished in this folder; nothing is written.

    Raises:
        RunMismatchError: as `open_plan`.
    """
    found = find_plan(storage)
    if found is not None:
        _require_same(storage, found, Plan(json.loads(_canonical(config))), explain)
    return found is not None and storage.exists(MANIFEST)


def _require_same(storage: Storage, found: Plan, plan: Plan, explain: Explain) -> None:
    if found.fingerprint != plan.fingerprint:
        raise RunMismatchError(_mismatch(storage, found, plan, explain(found.config, plan.config)))


@contextmanager
def begin(
    storage: Storage, config: Mapping[str, Any], *, explain: Explain = lambda _there, _here: {}
) -> Iterator[Plan]:
    """`open_plan` for the work inside. If that is refused, a run that began here is taken back: no file is left.

    Raises:
        ConfigError: the storage refuses; it would refuse the same command again.
        MamiError: as `open_plan`, and whatever the work raises.
    """
    try:
        before = None if storage.exists(PLAN) else {info.path for info in storage.find()}
        plan = open_plan(storage, config, explain=explain)
    except StorageRefusedError as error:
        raise ConfigError(str(error)) from error
    try:
        yield plan
    except MamiError as error:
        if before is not None and is_bad_input(error):
            _take_back(storage, before)
        raise


def _take_back(storage: Storage, before: set[str]) -> None:
    try:
        for info in storage.find():
            if info.path not in before:
                storage.delete(info.path)
        storage.tidy()
    except StorageError as error:  # what was refused is what people must hear
        logger.warning("Some files of the refused run are left: %s", error)


def find_plan(storage: Storage) -> Plan | None:
    """The plan of the run in this folder; None where no run was ever begun."""
    try:
        document = _parsed(storage, PLAN)
    except MissingObjectError:
        return None
    return Plan(document["config"])


def _mismatch(storage: Storage, found: Plan, wanted: Plan, explained: Mapping[str, str]) -> str:
    said = {
        name: explained.get(name, f"{there} there, {here} now")
        for name, there, here in differences(found.config, wanted.config)
    }
    lines = [f"  {name}: {text}" for name, text in said.items() if text]
    return "\n".join(
        [
            f"{redact(storage.url)} holds a run with another configuration:",
            *lines,
            "Choose another output folder, or give the settings of that run.",
        ]
    )


def differences(first: Any, second: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Each setting that differs: its dotted name and both values, shortened."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            inner = f"{name}.{key}" if name else key
            yield from differences(first.get(key, _ABSENT), second.get(key, _ABSENT), inner)
    elif first != second or type(first) is not type(second):
        yield name, _shown(first), _shown(second)


def _shown(value: Any) -> str:
    text = value if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """One finished file."""

    path: str
    """Its name below the run folder."""
    bytes: int
    rows: int | None
    """Rows of a Parquet file."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished run holds."""

    fingerprint: str
    config: dict[str, Any]
    files: tuple[ManifestFile, ...]

    def num_rows(self, folder: str = "") -> int:
        """Rows of all Parquet files below a folder of the run."""
        return sum(file.rows or 0 for file in self.files if file.path.startswith(folder))

    def to_json(self) -> bytes:
        """The bytes of `_MANIFEST.json`."""
        return _document({"version": _VERSION, **asdict(self)})


def write_manifest(storage: Storage, plan: Plan, paths: Sequence[str]) -> Manifest:
    """Declares the run finished. Every file is read once more, so that what is listed is what readers will find.

    Raises:
        IncompleteRunError: a file is missing.
        RunMismatchError: a manifest that lists other files stands there already.
    """
    files = tuple(_described(storage, sorted(paths)))
    manifest = Manifest(fingerprint=plan.fingerprint, config=plan.config, files=files)
    try:
        storage.create(MANIFEST, manifest.to_json())
    except ObjectExistsError as error:
        changed = _changed(read_manifest(storage).files, files)
        raise RunMismatchError(
            f"{redact(storage.url)} was finished before, with other contents of: {', '.join(changed) or MANIFEST}. "
            "Something outside this project changed it; start a new output folder."
        ) from error
    return manifest


def read_manifest(storage: Storage, *, verify: bool = False) -> Manifest:
    """The manifest of a finished run.

    Args:
        storage: the run folder.
        verify: read every file and compare its checksum.

    Raises:
        IncompleteRunError: the run is not finished, or a file is missing.
        ContractError: another version wrote it, or (`verify`) a file changed since.
    """
    try:
        document = _parsed(storage, MANIFEST)
    except MissingObjectError:
        raise IncompleteRunError(
            f"{redact(storage.url)} holds no finished run: there is no {MANIFEST}, which is written last. "
            "Run the same command again to finish it."
        ) from None
    files = tuple(ManifestFile(**file) for file in document["files"])
    if verify and (changed := _changed(files, tuple(_described(storage, [file.path for file in files])))):
        raise ContractError(f"{redact(storage.url)}: changed since the run was finished: {', '.join(changed)}.")
    return Manifest(fingerprint=document["fingerprint"], config=document["config"], files=files)


def _changed(before: Sequence[ManifestFile], now: Sequence[ManifestFile]) -> list[str]:
    return sorted({file.path for file in set(before) ^ set(now)})


def _described(storage: Storage, paths: Sequence[str]) -> Iterator[ManifestFile]:
    with ThreadPoolExecutor(_READERS) as threads:
        yield from threads.map(lambda path: _describe(storage, path), paths)


def _describe(storage: Storage, path: str) -> ManifestFile:
    try:
        data = storage.read(path)
    except MissingObjectError as error:
        raise IncompleteRunError(f"{error} Run the same command again to make it.") from error
    rows = pq.ParquetFile(io.BytesIO(data)).metadata.num_rows if path.endswith(".parquet") else None
    return ManifestFile(path=path, bytes=len(data), rows=rows, sha256=hashlib.sha256(data).hexdigest())


def _parsed(storage: Storage, name: str) -> dict[str, Any]:
    """The JSON document of this name, of our version."""
    try:
        document = json.loads(storage.read(name))
        version, _, _ = document["version"], document["fingerprint"], document["config"]
    except (ValueError, LookupError, TypeError) as error:
        raise ContractError(f"{redact(storage.locate(name))} was not written by this project.") from error
    if version != _VERSION:
        raise ContractError(
            f"{redact(storage.locate(name))} has version {version}, expected {_VERSION}: another version of this "
            "project began the run. Finish it with that version, or start a new output folder."
        )
    return document


def _canonical(config: Any) -> bytes:
    """The one way to write this configuration: keys sorted, no spaces, no NaN."""
    try:
        return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"A plan holds JSON values only: {error}.") from error


def _document(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
