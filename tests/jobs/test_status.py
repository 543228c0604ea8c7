"""The status of a run is read from its storage alone, is true at every point of the run, and changes nothing."""

import functools
import tempfile
from pathlib import Path

import pytest

from jobs.engine import runtime
from jobs.engine.items import Item, record_failure
from jobs.engine.plan import MANIFEST, Plan, open_plan
from jobs.label import LabelJob
from jobs.labelling.layout import DROPPED, Layout
from jobs.labelling.run import work
from jobs.status import StatusJob, run
from jobs.storage import Storage
from tests import tiny

pytestmark = pytest.mark.xdist_group("status")

STAGES = ("exemplars", "merge", "features", "captions")


@functools.cache
def finished_run() -> tuple[Plan, dict[str, bytes]]:
    """The plan and every object of a run over 13 photographs, one of them broken."""
    folder = Path(tempfile.mkdtemp())
    images = tiny.write_photographs(folder / "images", 13, broken=(4,))
    job = LabelJob(
        subject=(tiny.SUBJECT,),
        images=str(images),
        captioner=str(tiny.write_captioner(folder / "captioner")),
        batch_size=4,
        images_per_item=4,
        neurons_per_item=2,
        scorer="none",
        beam_size=2,
        max_length=3,
    )
    prepared, storage = job.prepare(), Storage(str(folder / "run"))
    plan = open_plan(storage, prepared.config)
    work(storage, plan, prepared, None)
    return plan, {info.path: storage.read(info.path) for info in storage.find()}


@pytest.fixture
def begun(place: str) -> Storage:
    """A run that is planned and has made nothing yet."""
    storage = Storage(place)
    open_plan(storage, finished_run()[0].config)
    return storage


@pytest.fixture
def storage(begun: Storage) -> Storage:
    """A finished run, on a disk and in a bucket."""
    for path, data in finished_run()[1].items():
        begun.write(path, data)
    return begun


def items() -> dict[str, list[Item]]:
    return Layout.of(finished_run()[0].config).stages()


def done(text: str) -> dict[str, tuple[int, int]]:
    """By stage, how many items the status says are done, and of how many."""
    words = [line.split() for line in text.splitlines() if " items done" in line]
    return {each[0]: (int(each[1]), int(each[3])) for each in words}


def test_a_finished_run(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(StatusJob(run=storage.url)) == 0
    text = capsys.readouterr().out
    assert f"40 neurons of {tiny.SUBJECT}, 13 images, finished" in text
    assert done(text) == {stage: (len(items()[stage]),) * 2 for stage in STAGES}
    assert f"dropped: 1 rows, see {DROPPED}" in text
    assert "again" not in text


def test_a_run_that_has_only_begun(begun: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(StatusJob(run=begun.url)) == 1
    text = capsys.readouterr().out
    assert "not finished" in text
    assert done(text) == {stage: (0, len(items()[stage])) for stage in STAGES}
    assert "dropped: not known yet" in text
    assert "Run the same command again" in text
    assert ".parquet" not in text, "what has not begun is not listed piece by piece"


def test_what_is_missing_is_named(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    lost = items()["captions"][3].key
    for path in (lost, MANIFEST):
        storage.delete(path)
    assert run(StatusJob(run=storage.url)) == 1
    text = capsys.readouterr().out
    assert f"{lost}: not done yet" in text
    counts = done(text)
    assert counts["captions"] == (len(items()["captions"]) - 1, len(items()["captions"]))
    assert all(count == of for stage, (count, of) in counts.items() if stage != "captions")


@pytest.mark.parametrize("missing", [False, True])
def test_the_list_is_short_unless_asked_for(storage: Storage, missing: bool, capsys: pytest.CaptureFixture) -> None:
    lost = [item.key for item in items()["captions"][1:]]
    for path in (*lost, MANIFEST):
        storage.delete(path)
    run(StatusJob(run=storage.url, missing=missing))
    text = capsys.readouterr().out
    assert sum(key in text for key in lost) == (len(lost) if missing else 10)
    assert (f"and {len(lost) - 10} more" in text) == (not missing)


def test_failures_come_first_with_their_reason(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    failed, healed = items()["captions"][-1], items()["captions"][0]
    for item in items()["captions"][1:]:
        storage.delete(item.key)
    storage.delete(MANIFEST)
    record_failure(storage, failed, "the GPU was out of memory")
    record_failure(storage, healed, "a bad moment")
    run(StatusJob(run=storage.url))
    lines = capsys.readouterr().out.splitlines()
    stage = next(n for n, line in enumerate(lines) if line.lstrip().startswith("captions"))
    assert lines[stage].endswith(", 1 failed")
    assert lines[stage + 1].strip() == f"{failed.key}: failed: the GPU was out of memory"
    assert "a bad moment" not in "".join(lines), "a later run made it good"


def test_looking_changes_nothing(storage: Storage) -> None:
    before = {info.path: info.version for info in storage.find()}
    run(StatusJob(run=storage.url))
    assert {info.path: info.version for info in storage.find()} == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.main(StatusJob, run, [str(tmp_path)]) == runtime.BAD_INPUT
    assert "holds no labelling run" in capsys.readouterr().err


def test_another_kind_of_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_plan(Storage(str(tmp_path)), {"trains": "a captioner"})
    assert runtime.main(StatusJob, run, [str(tmp_path)]) == runtime.BAD_INPUT
    assert "holds no labelling run" in capsys.readouterr().err
