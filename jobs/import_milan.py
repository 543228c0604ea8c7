"""A decoder that MILAN saved → a captioner that jobs.label and jobs.evaluate take, and that says the same.

python -m jobs.import_milan milan-base.pth --output CAPTIONER

The folder holds the captioner, its language model and its encoder's weights, as safetensors. Nothing of the file is
run: it may hold tensors, plain values and spaCy's configuration, and is refused with what else it holds. With such a
captioner jobs.label draws regions and chooses captions as MILAN does, unless it is told otherwise.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned
from jobs.storage import redact, storage_for
from jobs.storage.places import settle
from mami_core.learning import checkpoint
from mami_core.learning.milan import import_milan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportMilanJob:
    """Make a captioner of a decoder that MILAN saved."""

    ADDRESSES: ClassVar = ("file", "output")

    file: tyro.conf.Positional[str]
    """What MILAN saved with `Decoder.save`, such as milan-base.pth."""
    output: str
    """The captioner's folder, local or s3://."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: ImportMilanJob) -> None:
    """Write the captioner, its configuration last: without it there is no captioner."""
    files = import_milan(Path(job.file))
    storage = storage_for(job.output)
    for name in sorted(files, key=lambda name: name == checkpoint.CONFIG):
        storage.write(name, files[name])
    runtime.show(
        f"{redact(storage.url)} holds the captioner: give it to `mami label` or `mami caption` as --captioner."
    )


def plan(job: ImportMilanJob) -> str:
    """What `run` would do."""
    files = import_milan(Path(job.file))
    read = Step(name="checkpoint", bytes_read=Path(job.file).stat().st_size)
    writes = [Step(name=name, bytes_written=len(data)) for name, data in files.items()]
    return planned(f"Making a captioner of {redact(job.file)}", [read, *writes], into=job.output)


if __name__ == "__main__":
    sys.exit(runtime.main(ImportMilanJob, run, plan=plan))
