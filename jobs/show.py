"""Draws one picture of one neuron: captions, scores, and its exemplars with the region outlined.

python -m jobs.show RUN LAYER UNIT
"""

import io
import posixpath
import re
import sys
from dataclasses import dataclass
from typing import ClassVar

import tyro

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned, reading
from jobs.storage import absolute, redact, storage_for
from jobs.storage.places import settle
from mami_core.errors import ConfigError
from mami_core.neurons import Neuron, find_neuron, in_words

_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""What a picture's file may end in, and what Pillow calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowJob:
    """Draw one neuron: captions, scores, and exemplars with their regions, as one picture."""

    ADDRESSES: ClassVar = ("run", "output")

    run: tyro.conf.Positional[str]
    """The run's folder, local or s3://."""
    layer: tyro.conf.Positional[str]
    """The neuron's layer."""
    unit: tyro.conf.Positional[int]
    """Its number in the layer."""
    subject: str | None = None
    """Its network, where the run has several."""
    output: str | None = None
    """The picture's file, local or s3://: .png, .jpg or .webp. By default here, named after the neuron:
    SUBJECT-LAYER-UNIT.png."""

    def __post_init__(self) -> None:
        settle(self)
        if self.output is not None and _ending(self.output) not in _KINDS:
            raise ConfigError(f"--output: expected a file that ends in {', '.join(_KINDS)}, got {redact(self.output)}.")


def run(job: ShowJob) -> int:
    """Write the picture, and say where it is and what it shows."""
    storage = storage_for(job.run)
    neuron = find_neuron(storage.url, job.layer, job.unit, subject=job.subject, files=storage)
    output = job.output or absolute(file_name(neuron))
    folder, _, name = output.rpartition("/")
    picture = io.BytesIO()
    neuron.picture().save(picture, _KINDS[_ending(output)])
    storage_for(folder or "/").write(name, picture.getvalue())
    said = in_words({"score": neuron.score, "support": neuron.support})
    runtime.show(f"{neuron.layer} / {neuron.unit}: {neuron.said}{said and f' ({said})'}")
    runtime.show(f"The picture: {redact(output)}")
    return runtime.COMPLETE


def plan(job: ShowJob) -> str:
    """What `run` would do."""
    storage = storage_for(job.run)
    steps = [reading(folder, storage, folder) for folder in ("labels", "exemplars", "regions", "images")]
    picture = Step(name="picture", bytes_written=500_000)
    line = f"Drawing unit {job.unit} of {job.layer}, of {redact(storage.url)}"
    return planned(line, [*steps, picture], into=job.output or "the working directory")


def _ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def file_name(neuron: Neuron) -> str:
    """What the picture is called where nobody says: readable, and the name of a file on any system."""
    words = re.findall(r"[A-Za-z0-9._]+", f"{neuron.subject} {neuron.layer}")
    return f"{'-'.join(words).lstrip('.')[:100]}-{neuron.unit}.png"


if __name__ == "__main__":
    sys.exit(runtime.main(ShowJob, run, plan=plan))
