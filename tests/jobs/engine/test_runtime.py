"""What surrounds a job: exit codes, logs without credentials, progress, an orderly end, and the Ray it connects to."""

import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engine import connection, runtime
from jobs.engine.progress import Progress
from jobs.engine.work import run_stage
from jobs.storage import Storage
from mami_core import errors
from mami_core.errors import IncompleteRunError
from tests.jobs.tables import Tables, items, on_ray, snapshot, wait_for_objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A job for the tests."""

    output: str
    """Where to."""
    k: int = 15

    def __post_init__(self) -> None:
        if self.k < 1:
            raise errors.ConfigError(f"k must be at least 1, not {self.k}.")


@pytest.fixture(autouse=True)
def _logging_as_before():  # noqa: ANN202
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


# Exit codes


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_job_that_ends_gives_its_exit_code(returned: int | None, code: int) -> None:
    seen = []

    def run(settings: Settings) -> int | None:
        seen.append(settings)
        return returned

    assert runtime.main(Settings, run, ["--output", "x", "--k", "3"]) == code
    assert seen == [Settings(output="x", k=3)]


CODES: dict[type[Exception], int] = {
    errors.ConfigError: 2,
    errors.ContractError: 2,
    errors.SubjectError: 2,
    errors.ImageSourceError: 2,
    errors.DescriptionsError: 2,
    errors.CheckpointError: 2,
    errors.RunMismatchError: 2,
    errors.IncompleteRunError: 1,
    errors.StorageError: 1,
    errors.StorageRefusedError: 1,
    errors.MissingObjectError: 1,
}


@pytest.mark.parametrize("kind", CODES)
def test_errors_of_ours_are_one_clear_message_and_a_code(kind: type[Exception], capsys: pytest.CaptureFixture) -> None:
    def run(_: Settings) -> None:
        raise kind("https://user:sesame@host/x: it cannot be done.")

    assert runtime.main(Settings, run, ["--output", "x"]) == CODES[kind]
    assert capsys.readouterr().err == "Error: https://***@host/x: it cannot be done.\n"


def test_errors_of_others_show_where_they_come_from_without_credentials(capsys: pytest.CaptureFixture) -> None:
    def run(_: Settings) -> None:
        raise KeyError("https://user:sesame@host/x")

    assert runtime.main(Settings, run, ["--output", "x"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "sesame" not in shown


@pytest.mark.parametrize("arguments", [[], ["--output", "x", "--k", "0"], ["--output", "x", "--k", "many"], ["--no"]])
def test_settings_that_cannot_work_are_bad_input(arguments: list[str]) -> None:
    def run(_: Settings) -> None:
        raise AssertionError("the work must not start")

    assert runtime.main(Settings, run, arguments) == 2


def test_a_stopped_job_says_that_it_can_go_on(capsys: pytest.CaptureFixture) -> None:
    def run(_: Settings) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        raise AssertionError("the signal must end the work")

    assert runtime.main(Settings, run, ["--output", "x"]) == 1
    assert capsys.readouterr().err == "Stopped by SIGTERM. Run the same command again: it goes on from here.\n"


def test_signals_mean_what_they_meant_when_the_work_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stopped = False
    try:
        with runtime.stop_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    except KeyboardInterrupt as stop:
        stopped = str(stop) == "SIGINT"
    assert stopped
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Logs


def test_logs_carry_no_credentials(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "open-sesame-123")
    logging.getLogger().handlers.clear()
    runtime.set_up_logging()
    runtime.set_up_logging()
    log = logging.getLogger("jobs.test")
    try:
        raise ValueError("key open-sesame-123")
    except ValueError:
        log.exception("at %s", "https://me:sesame@host")
    log.info("once")
    shown = capsys.readouterr().err
    assert "sesame" not in shown
    assert "ValueError: key ***" in shown
    assert shown.count("once") == 1


# Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_tells_how_far_how_fast_and_how_long() -> None:
    clock = Clock()
    progress = Progress("exemplars", total=64, done=4, clock=clock)
    assert progress.line() == "exemplars: 4/64 items (4 before), time left unknown"
    clock.now = 20.0
    for _ in range(9):
        progress.advance(counters={"images": 512})
    progress.advance(failed=True)
    assert progress.line() == ("exemplars: 13/64 items (4 before), 4,608 images (230.4/s), 1 failed, 0:01:40 left")


@given(total=st.integers(1, 50), before=st.integers(0, 50), failed=st.integers(0, 50))
def test_progress_ends_when_every_item_has(total: int, before: int, failed: int) -> None:
    before = min(total, before)
    progress = Progress("x", total=total, done=before, clock=Clock())
    for n in range(total - before):
        assert "left" in progress.line()
        progress.advance(failed=n < failed)
    assert "took" in progress.line()


def test_a_log_gets_a_line_now_and_then_even_if_no_item_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobs")
    with Progress("exemplars", total=2, interval_s=0.01, terminal=False):
        deadline = time.monotonic() + 10
        while len(caplog.messages) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert set(caplog.messages) == {"exemplars: 0/2 items, time left unknown"}


def test_a_terminal_gets_one_line_that_moves(capsys: pytest.CaptureFixture) -> None:
    with Progress("exemplars", total=1, terminal=True) as progress:
        progress.advance()
    shown = capsys.readouterr().err
    assert shown.startswith("\r")
    assert shown.count("\n") == 1
    assert "1/1 items" in shown


def test_silent_progress_says_nothing(capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("exemplars", total=1, silent=True) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""
    assert caplog.messages == []


# run.json


def test_run_json_says_what_was_run_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/jobs/label.py", "--output", "https://me:sesame@host/x"])
    storage = Storage(str(tmp_path))
    runtime.write_run_json(storage, Settings(output="s3://bucket/é"), seed=7)
    written = json.loads(storage.read("run.json"))
    assert b"sesame" not in storage.read("run.json")
    assert written["config"] == {"output": "s3://bucket/é", "k": 15}
    assert written["seed"] == 7
    assert written["command"][0] == "label.py"
    assert written["packages"].keys() >= {"torch", "ray", "pyarrow"}
    assert written["contracts"]["labels"] >= 1
    assert written["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", written["git_commit"])


# Ray


def test_the_address_for_submitting_is_not_one_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://user:sesame@127.0.0.1:8265")
    with pytest.raises(errors.ConfigError, match="ray job submit") as caught, runtime.connect():
        pass
    assert "sesame" not in str(caught.value)


@on_ray
def test_a_ray_of_our_own_listens_on_this_machine_only() -> None:
    import ray

    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]


@on_ray
def test_a_ray_that_is_there_is_used_and_left_alone() -> None:
    import ray

    with runtime.connect(num_cpus=1):
        assert ray.cluster_resources()["CPU"] == 4
    assert ray.is_initialized()


JOB = """
import sys
from dataclasses import dataclass
from jobs.engine import runtime
from jobs.storage import Storage
from jobs.engine.work import PoolConfig, run_stage
from tests.jobs.tables import Tables, items

@dataclass
class Settings:
    output: str

def run(settings):
    with runtime.connect(num_cpus=3, object_store_bytes=100 << 20):
        work = items(40, **{f"_{n}": {"sleep": 0.3} for n in range(40)})
        run_stage(Storage(settings.output), work, Tables, pool=PoolConfig(num_workers=2))

sys.exit(runtime.main(Settings, run))
"""


@pytest.mark.slow
@on_ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_stopped_by_a_signal_ends_orderly_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    storage, alone = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "alone"))
    run_stage(alone, items(40), Tables, pool=None)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", JOB, "--output", storage.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root) as job:
        wait_for_objects(storage, 3)
        job.send_signal(number)
        _, shown = job.communicate(timeout=30)
    assert job.returncode == 1
    assert f"Stopped by {number.name}. Run the same command again" in shown
    assert "Traceback" not in shown
    assert 3 <= len(storage.find()) < 40
    assert subprocess.run(command, cwd=root, timeout=200, check=False).returncode == 0
    assert snapshot(storage) == snapshot(alone)


def test_logs_go_to_what_is_the_standard_error_now() -> None:
    runtime.set_up_logging()
    with contextlib.redirect_stderr(io.StringIO()) as now:
        logging.getLogger("jobs.anything").info("hello")
    assert "hello" in now.getvalue()


def test_one_line_of_another_language_is_left_out_and_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    with connection._without_lines(b"nobody asked"):
        os.write(2, b"first\nnobody asked for this\nlast\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "first\nlast\nafter\n"


def test_a_ray_that_does_not_come_up_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ray:
        def init(self, **_: object) -> None:
            raise Exception("The current node timed out during startup.")

    with pytest.raises(IncompleteRunError, match=r"timed out during startup.*run the same command again"):
        connection._start(Ray(), "", None, None)
