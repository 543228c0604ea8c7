"""A tiny labelling job, run in this process or from a command line, and what it left."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from jobs.engine import runtime
from jobs.engine.plan import open_plan
from jobs.label import LabelJob
from jobs.labelling.run import work
from jobs.storage import Storage, storage_for
from mami_core import contracts
from tests import tiny
from tests.jobs.tables import snapshot

COUNT, BROKEN = 23, (4, 11)
SETTINGS = {"k": 4, "batch_size": 8, "beam_size": 4, "max_length": 6, "num_captions": 3, "scorer": "none"}
"""What changes the labels, beside the networks and the images."""


def write_inputs(folder: Path) -> Path:
    """Photographs, two of them broken, and a captioner."""
    tiny.write_photographs(folder / "photographs", COUNT, broken=BROKEN)
    tiny.write_captioner(folder / "captioner")
    return folder


def tiny_job(inputs: Path, output: Path) -> LabelJob:
    """Three items of images, eight of neurons."""
    return LabelJob(
        subject=(tiny.SUBJECT,),
        images=str(inputs / "photographs"),
        captioner=str(inputs / "captioner"),
        output=str(output),
        images_per_item=8,
        neurons_per_item=6,
        **SETTINGS,
    )


def in_order(labels: pa.Table) -> pa.Table:
    """By layer and unit, without the run, which no pipeline knows."""
    return labels.sort_by([("layer", "ascending"), ("unit", "ascending")]).drop_columns("run").combine_chunks()


def work_here(job: LabelJob) -> Storage:
    """The job without Ray."""
    prepared, storage = job.prepare(), storage_for(str(job.output))
    work(storage, open_plan(storage, prepared.config), prepared, None)
    return storage


def main_here(job: LabelJob) -> int:
    """As the command line runs the job, but without Ray; the exit code."""

    def run(parsed: LabelJob) -> None:
        work_here(parsed)

    return runtime.main(LabelJob, run, arguments(job))


def labels_of(storage: Storage) -> pa.Table:
    parts = [info.path for info in storage.find("labels")]
    return in_order(
        pa.concat_tables(contracts.from_parquet(storage.read(part), contracts.LABELS, where=part) for part in parts)
    )


def run_folder(storage: Storage) -> dict[str, str]:
    """Every file's checksum, but for what says when and how a run was made."""
    return {path: sha for path, sha in snapshot(storage).items() if path != "run.json" and "killed" not in path}


def arguments(job: LabelJob, **changes: str | None) -> list[str]:
    """The command line of a job; None leaves a setting out."""
    given_ = {name: value for name, value in dataclasses.asdict(job).items() if value != default(name)}
    words = []
    for name, value in (given_ | changes).items():
        option = f"--{name.replace('_', '-')}"
        if name == "subject" and isinstance(value, tuple):
            words += [word for each in value for word in (option, each)]
        elif value is not None:
            words += [option, *(value if isinstance(value, tuple) else [str(value)])]
    return words


def begin(job: LabelJob) -> subprocess.Popen:
    """The job as a process of its own, with a Ray of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    command = [sys.executable, "-m", "jobs.label", *arguments(job)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]


def wait(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    while not reached() and process.poll() is None:
        time.sleep(0.05)


def default(name: str) -> object:
    return next(field.default for field in dataclasses.fields(LabelJob) if field.name == name)


def unwanted(*_: object, **__: object) -> None:
    """Stands for what must not begin."""
    raise AssertionError("the work must not begin")
