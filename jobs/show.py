"""Draws one picture of one neuron: captions, scores, and its exemplars with the region outlined.

python -m jobs.show OUTPUT LAYER UNIT
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.engine import runtime
from jobs.storage import redact, safe_name, storage_for
from mami_core.neurons import find_neuron


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowJob:
    """Draw one neuron: captions, scores, and exemplars with their regions, as one picture."""

    run: tyro.conf.Positional[str]
    """The run's folder, local or s3://."""
    layer: tyro.conf.Positional[str]
    """The neuron's layer."""
    unit: tyro.conf.Positional[int]
    """Its number in the layer."""
    subject: str | None = None
    """Its network, where the run has several."""
    output: str | None = None
    """The picture's file. By default here, named after the neuron."""


def run(job: ShowJob) -> int:
    """Write the picture, and say where it is and what it shows."""
    storage = storage_for(job.run)
    neuron = find_neuron(storage.url, job.layer, job.unit, subject=job.subject, files=storage)
    output = Path(job.output or f"{safe_name(job.layer)}-{job.unit}.png")
    neuron.picture().save(output)
    score = "" if neuron.score is None else f" (score {neuron.score:.2f})"
    runtime.show(f"{neuron.layer} / {neuron.unit}: {neuron.caption or 'active on no image'}{score}")
    runtime.show(f"The picture: {redact(str(output.absolute()))}")
    return runtime.COMPLETE


if __name__ == "__main__":
    sys.exit(runtime.main(ShowJob, run))
