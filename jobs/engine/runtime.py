"""What every job needs around its work: a Ray to run on, logs, progress, `run.json`, and an orderly end.

A job is `sys.exit(runtime.main(Config, run))`: the command line is made from the dataclass `Config`, and `run(config)`
does the work. The exit code is 0 when everything that was asked for is there, 1 when something is missing or failed
(the same command goes on from there), 2 when what was asked for cannot work.
"""

import dataclasses
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar, get_type_hints

import pyarrow as pa

from jobs.engine import options
from jobs.engine.progress import Progress
from jobs.storage.redaction import redact
from jobs.storage.retries import one_line
from mami_core import contracts
from mami_core.errors import ConfigError, IncompleteRunError, MamiError, is_bad_input

__all__ = [
    "BAD_INPUT",
    "COMPLETE",
    "INCOMPLETE",
    "Progress",
    "connect",
    "main",
    "require_ray",
    "run_info",
    "set_up_logging",
    "show",
    "stop_on_signals",
    "write_run_json",
]

logger = logging.getLogger(__name__)

Config = TypeVar("Config")

COMPLETE, INCOMPLETE, BAD_INPUT = 0, 1, 2

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_NOISY = ("ray", "ray.data", "ray.train", "botocore", "aiobotocore", "s3fs", "fsspec", "urllib3", "asyncio")
_PACKAGES = ("mami", "torch", "torchvision", "ray", "pyarrow", "numpy", "pillow", "s3fs")


def main(
    config_class: type[Config],
    run: Callable[[Config], int | None],
    arguments: Sequence[str] | None = None,
    *,
    plan: Callable[[Config], str] | None = None,
    command: str | None = None,
) -> int:
    """Runs a job from its command line; the exit code.

    Args:
        config_class: the job's dataclass; its fields become options, their docstrings the help.
        run: does the work. It returns the exit code, or None for 0.
        arguments: instead of those on the command line.
        plan: says what `run` would do, for --dry-run.
        command: how people call it, such as "mami label"; by default from the module's name.
    """
    set_up_logging()
    words = sys.argv[1:] if arguments is None else arguments
    command = command or f"python -m jobs.{Path(sys.argv[0]).stem}"
    debug = "--debug" in words
    logging.getLogger("jobs").setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        with stop_on_signals():
            _refuse_repetitions(config_class, words)
            asked = options.read(config_class, words)
            if asked.help:
                print(options.help_text(config_class, command))
                return COMPLETE
            config = options.parsed(config_class, asked.words, command)
            if not asked.dry_run:
                return run(config) or COMPLETE
            show(plan(config) if plan else f"{command} only looks and tells: there is nothing to plan.")
            return COMPLETE
    except KeyboardInterrupt as stop:
        _say(f"Stopped{f' by {stop}' if str(stop) else ''}. Run the same command again: it goes on from here.")
        return INCOMPLETE
    except BrokenPipeError:  # whoever read what we say has seen enough: `mami label --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INCOMPLETE
    except MamiError as error:
        if debug:
            logger.exception("Where it came from:")
        _say(f"Error: {error}")
        return BAD_INPUT if is_bad_input(error) else INCOMPLETE
    except Exception as error:
        again = "Running the same command again goes on from here."
        if sys.stderr.isatty() and not debug:  # a log keeps the trace: nobody can ask for it afterwards
            _say(f"Error: failed in a way that this job does not know: {one_line(error)}. {again} --debug shows where.")
        else:
            logger.exception("The job failed in a way that it does not know. %s", again)
        return INCOMPLETE


def _refuse_repetitions(config_class: type, arguments: Sequence[str]) -> None:
    """Of an option that is given twice, the command line would take the last and say nothing.

    Raises:
        ConfigError: naming the option, unless it is one that is meant to be given several times.
    """
    from tyro.conf import UseAppendAction

    hints = get_type_hints(config_class, include_extras=True)
    several = {name for name, hint in hints.items() if UseAppendAction in getattr(hint, "__metadata__", ())}
    given = Counter(word.partition("=")[0][2:].replace("-", "_") for word in arguments if word.startswith("--"))
    for name, count in given.items():
        if count > 1 and name in hints.keys() - several:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is given {count} times. Give it once; a list goes behind it: {option} A B.")


def show(text: str) -> None:
    """Prints what a job has to say, as every job does it: text from elsewhere cannot take hold of the terminal."""
    print(redact(text), flush=True)


def _say(text: str) -> None:
    print(redact(text), file=sys.stderr, flush=True)


class _RedactingFormatter(logging.Formatter):
    """Takes credentials out of the finished line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _StderrHandler(logging.Handler):
    """Writes to what is the standard error output now, not to what it was when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:
            self.handleError(record)


def set_up_logging() -> None:
    """Our messages and everybody's warnings go to the standard error output, without credentials. Once a process."""
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, _RedactingFormatter) for handler in root.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_RedactingFormatter(_LOG_FORMAT, datefmt="%H:%M:%S"))
        # Ray sets the levels of its own loggers, and later than we can.
        handler.addFilter(lambda record: record.levelno >= logging.ERROR or not record.name.startswith("ray."))
        root.addHandler(handler)
    for name in ("jobs", "mami_core", "__main__"):  # the last is the job's own module, run with `python -m`
        logging.getLogger(name).setLevel(logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: by a KeyboardInterrupt, once; a second signal ends the process at once.

    Nothing has to be saved in that time. What is finished is in the storage, and the rest is done by the next run.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt(signal.Signals(number).name)

    signals = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def connect(*, num_cpus: int | None = None, object_store_bytes: int | None = None) -> Iterator[None]:
    """A Ray for the work inside: the cluster that RAY_ADDRESS names, as inside a `ray job`, or one of our own.

    Our own runs on this machine, listens on loopback only, reports to nobody and ends with the work. A Ray that this
    process is connected to already is used as it is.

    Args:
        num_cpus: how many CPUs our own Ray counts; by default those of the machine.
        object_store_bytes: memory for blocks in our own Ray; little is needed, since images and features go from
            workers to storage and not through Ray. By default a tenth of the memory, 1 GB at most.
    """
    require_ray()
    address = os.environ.get("RAY_ADDRESS", "")
    # Ray otherwise warns that a later version will read this as we do already: no GPU asked for, none hidden.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Lines of Ray's own processes that would be shown every second and that nobody can act on: Ray Train asks for a
    # dashboard that our own Ray does not have, and every pool of actors is told of what Ray Data does inside.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Failed to query Ray Train Controller|Set ray log level from")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Training workers log as all our processes do; Ray Train would repeat each of their lines.
    os.environ.setdefault("RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if not address:
        _keep_to_this_machine()
    _start(ray, address, num_cpus, object_store_bytes)
    try:
        with stop_on_signals():  # again: Ray replaces the handlers when it starts
            yield
    finally:
        ray.shutdown()


def require_ray(*, num_gpus: float | None = None) -> None:
    """Refuse now what `connect` and the work after it would refuse.

    Raises:
        ConfigError: RAY_ADDRESS is where jobs are submitted, or workers need a GPU that this machine has not.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS is {redact(address)}, where jobs are submitted. Submit this one: "
            "ray job submit --working-dir . -- python -m jobs.NAME …, or unset RAY_ADDRESS to run on this machine."
        )
    ray = sys.modules.get("ray")
    if not num_gpus or address or (ray is not None and ray.is_initialized()):
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"num_gpus is {num_gpus:g}, and torch finds no GPU on this machine. Leave it out to work on CPUs, or set "
            "RAY_ADDRESS to a cluster with GPUs."
        )


def _keep_to_this_machine() -> None:
    """Makes a Ray of our own listen on loopback only, and report to nobody."""
    from ray._private import ray_constants

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray does on macOS and Windows, and can do here. Its processes read the variable; this one has read it
    # already, when somebody imported Ray.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray_constants.ENABLE_RAY_CLUSTER = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] != "0"


def _start(ray: Any, address: str, num_cpus: int | None, object_store_bytes: int | None) -> None:
    try:
        with _without_lines(b"Set ray log level from"):
            if address:
                ray.init(address="auto", logging_level=logging.ERROR)
            else:
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=object_store_bytes or _object_store_bytes(),
                    logging_level=logging.ERROR,
                )
    except (ConnectionError, RuntimeError) as error:
        where = f"the Ray cluster at {redact(address)}" if address else "a Ray on this machine"
        raise ConfigError(f"Could not connect to {where}: {redact(str(error))}") from error
    except Exception as error:  # so it says that its processes did not come up in time
        raise IncompleteRunError(
            f"Ray did not start: {redact(one_line(error))} This machine may be too busy; run the same command again."
        ) from error
    logger.info("Ray: %s", _resources(ray))


@contextmanager
def _without_lines(having: bytes) -> Iterator[None]:
    """Leaves out lines of the standard error output, also of C++: Ray's says what it read in our environment."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said:
                if having not in line:
                    os.write(2, line)


def _resources(ray: Any) -> str:
    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{nodes} node(s), {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def _object_store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(100 << 20, min(1 << 30, memory // 10))


class _Writes(Protocol):
    def write(self, path: str, data: bytes) -> None: ...


def write_run_json(storage: _Writes, config: Any, *, seed: int | None = None) -> None:
    """`run.json` beside the output: what was run, with which versions, when. For people; no program depends on it."""
    text = json.dumps(run_info(config, seed=seed), indent=2, default=str, ensure_ascii=False)
    storage.write("run.json", redact(text).encode())


def run_info(config: Any, *, seed: int | None = None) -> dict[str, Any]:
    """The configuration, the seed, the code's git commit, the versions of packages and of contracts, and the time."""
    return {
        "config": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config,
        "seed": seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "contracts": _contract_versions(),
    }


def _git_commit() -> str | None:
    """The commit of the running code, with a plus sign where files differ from it; None outside a repository."""
    try:
        run = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MAMI_GIT_COMMIT")


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _contract_versions() -> dict[str, int]:
    schemas = (value for value in vars(contracts).values() if isinstance(value, pa.Schema))
    return dict(sorted(contracts.identity(schema) for schema in schemas))
