"""What every job needs around its work: a Ray to run on, logs, progress, `run.json`, and an orderly end.

A job is `sys.exit(runtime.main(Config, run))`: the command line is made from the dataclass `Config`, and `run(config)`
does the work. The exit code is 0 when everything that was asked for is there, 1 when something is missing or failed
(the same command goes on from there), 2 when what was asked for cannot work.
"""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, get_type_hints

from jobs.engine import options
from jobs.engine.connection import connect, require_ray
from jobs.engine.logs import complain, set_up_logging, show
from jobs.engine.option_files import is_repeated
from jobs.engine.progress import Progress
from jobs.engine.run_info import run_info, write_run_json
from jobs.engine.signals import stop_on_signals
from jobs.storage.retries import one_line
from mami_core.errors import ConfigError, MamiError, is_bad_input

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
        complain(f"Stopped{f' by {stop}' if str(stop) else ''}. Run the same command again: it goes on from here.")
        return INCOMPLETE
    except BrokenPipeError:  # whoever read what we say has seen enough: `mami label --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INCOMPLETE
    except MamiError as error:
        if debug:
            logger.exception("Where it came from:")
        complain(f"Error: {error}")
        return BAD_INPUT if is_bad_input(error) else INCOMPLETE
    except Exception as error:
        again = "Running the same command again goes on from here."
        if sys.stderr.isatty() and not debug:  # a log keeps the trace: nobody can ask for it afterwards
            complain(
                f"Error: failed in a way that this job does not know: {one_line(error)}. {again} --debug shows where."
            )
        else:
            logger.exception("The job failed in a way that it does not know. %s", again)
        return INCOMPLETE


def _refuse_repetitions(config_class: type, arguments: Sequence[str]) -> None:
    """Of an option that is given twice, the command line would take the last and say nothing.

    Raises:
        ConfigError: naming the option, unless it is one that is meant to be given several times.
    """
    hints = get_type_hints(config_class, include_extras=True)
    several = {name for name, hint in hints.items() if is_repeated(hint)}
    given = Counter(word.partition("=")[0][2:].replace("-", "_") for word in arguments if word.startswith("--"))
    for name, count in given.items():
        if count > 1 and name in hints.keys() - several:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is given {count} times. Give it once; a list goes behind it: {option} A B.")
