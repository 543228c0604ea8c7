"""Makes a labelling run something to look at: a static site that opens from disk, without a server.

python -m jobs.report RUN

Several runs give one report, side by side. Running the same command again finishes what is missing.
"""

import dataclasses
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tyro

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned, reading
from jobs.engine.items import Item, Worker
from jobs.engine.plan import begin
from jobs.engine.pool import PoolConfig
from jobs.engine.work import require_complete, run_stage
from jobs.reporting.layout import (
    GROUP,
    INDEX,
    PER_SHEET,
    Album,
    albums_of,
    neuron_items,
    numbers_of,
    overview_items,
    photograph_items,
    vector_items,
)
from jobs.reporting.neurons import Neurons
from jobs.reporting.overview import Overview
from jobs.reporting.pictures import Photographs, read_numbers
from jobs.reporting.readings import Directions
from jobs.reporting.sources import Source, image_rows, images_shown, open_sources
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle
from mami_core.errors import ConfigError

logger = logging.getLogger(__name__)

_VERSION = 2
"""Of the pages: another one starts a report anew."""
_FEW_NEURONS = 20_000
"""So many are drawn in this process, before Ray would have started its workers."""
_PHOTOGRAPHS_S, _VECTORS_S, _NEURONS_S = 100.0, 500.0, 40.0
_PHOTOGRAPH_BYTES, _NEURON_BYTES = 7_000, 12_500
"""What one CPU core draws a second, and how large that is: a report of 1,784 neurons over 654 photographs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJob:
    """Make a site of one or several finished labelling runs: overview, gallery, search, a page for each neuron."""

    ADDRESSES: ClassVar = ("runs", "output")
    ADDRESSES_OR_NAMES: ClassVar = ("captioner",)

    runs: tyro.conf.Positional[tuple[str, ...]]
    """The runs' folders, local or s3://, as `mami label` was given them. Several are shown side by side."""
    output: str | None = None
    """The report's folder, local or s3://. By default the first run's own, below it: report/."""
    title: str = "What the neurons look for"
    """The report's title."""
    captioner: str | None = None
    """The captioner's folder, if it is no longer where the runs had it from: attention and likeness come from it."""
    num_workers: int = 0
    """Workers at once; 0 for one a CPU, or this process alone where there are few neurons and no cluster."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: ReportJob) -> int:
    """Draw everything that is not drawn yet."""
    sources, storage = _opened(job)
    plan = {
        "report": _VERSION,
        "title": job.title,
        "sources": [{"name": source.name, "run": source.run, "notes": list(source.notes)} for source in sources],
    }
    with begin(storage, plan):
        if storage.exists(INDEX):
            logger.info("The report is finished already; nothing was done.")
        else:
            logger.info("%s", _first_line(sources, storage))
            with _pool(job, _num_neurons(sources)) as pool:
                work(storage, sources, job.title, pool)
    runtime.show(f"\nThe report: open {redact(storage.locate(INDEX))}\n")
    return runtime.COMPLETE


def plan(job: ReportJob) -> str:
    """What `run` would do."""
    sources, storage = _opened(job)
    if storage.exists(INDEX):
        return f"{redact(storage.url)} holds the report already: nothing would be done."
    steps = []
    for album in albums_of(sources):
        of_album = [sources[number] for number in album.sources]
        rows = image_rows(of_album[0], images_shown(of_album))
        known = sum(size for size in rows["size"].to_pylist() if size)
        steps.append(
            Step(
                name=f"photographs/{album.number}",
                items=len(photograph_items(album, rows.num_rows)),
                bytes_read=known or None,  # nobody knows how large an image inside a Parquet is
                bytes_written=rows.num_rows * _PHOTOGRAPH_BYTES,
                requests=rows.num_rows * (1 + 2 / PER_SHEET),
                seconds=rows.num_rows / _PHOTOGRAPHS_S,
            )
        )
    for number, source in enumerate(sources):
        if source.captioner is not None:
            features = reading(f"vectors/{source.subject}", source.storage, "_work/features")
            items, seconds = len(vector_items(number, source)), _num_neurons([source]) / _VECTORS_S
            steps.append(dataclasses.replace(features, items=items, requests=items * features.items, seconds=seconds))
    count = _num_neurons(sources)
    steps.append(
        Step(
            name="neurons",
            items=len(neuron_items(sources)),
            bytes_read=sum(info.size for source in sources for info in source.storage.find("labels")),
            bytes_written=count * _NEURON_BYTES,
            requests=2 * count / GROUP,
            seconds=count / _NEURONS_S,
        )
    )
    return planned(_first_line(sources, storage), [*steps, Step(name="overview")], into=storage.url)


def _opened(job: ReportJob) -> tuple[list[Source], Storage]:
    """What is drawn, and where to."""
    if not job.runs:
        raise ConfigError("Give the folder of one or several labelling runs.")
    sources = open_sources(job.runs, job.captioner)
    return sources, storage_for(job.output or f"{sources[0].url}/report")


def _num_neurons(sources: Sequence[Source]) -> int:
    return sum(sum(source.layout.subjects[source.subject].values()) for source in sources)


def _first_line(sources: Sequence[Source], storage: Storage) -> str:
    of = sources[0].name if len(sources) == 1 else f"{len(sources)} sources"
    return f"Drawing {_num_neurons(sources):,} neurons of {of} into {redact(storage.url)}"


@contextmanager
def _pool(job: ReportJob, neurons: int) -> Iterator[PoolConfig | None]:
    """Workers on Ray, or none where this process is done sooner."""
    if not job.num_workers and neurons <= _FEW_NEURONS and not os.environ.get("RAY_ADDRESS"):
        yield None
        return
    with runtime.connect():
        yield PoolConfig(num_workers=job.num_workers)


def work(storage: Storage, sources: list[Source], title: str, pool: PoolConfig | None) -> None:
    """Works every stage, the first page last.

    Raises:
        IncompleteRunError: something is missing; names it.
    """
    albums = albums_of(sources)
    with_albums = {"sources": sources, "albums": albums}
    for album in albums:
        _stage(storage, photograph_items(album, _num_images(storage, sources, album)), Photographs, with_albums, pool)
    for number, source in enumerate(sources):
        if source.captioner is not None:
            _stage(source.storage, vector_items(number, source), Directions, {"sources": sources}, pool)
    _stage(storage, neuron_items(sources), Neurons, with_albums, pool)
    _stage(storage, overview_items(), Overview, {"sources": sources, "title": title}, None)


def _num_images(storage: Storage, sources: list[Source], album: Album) -> int:
    """How many images the album has; which they are is written down for the workers, once."""
    if not storage.exists(album.numbers_key):
        buffer = io.BytesIO()
        np.save(buffer, numbers_of(album, sources))
        storage.write(album.numbers_key, buffer.getvalue())
    return len(read_numbers(storage, album))


def _stage(storage: Storage, items: list[Item], worker: type[Worker], args: dict, pool: PoolConfig | None) -> None:
    if items:  # a run without a single exemplar has no photographs
        require_complete(run_stage(storage, items, worker, args, pool=pool))


if __name__ == "__main__":
    sys.exit(runtime.main(ReportJob, run, plan=plan))
