"""A labelling run at full size, without images, networks or machines: its plan, its schedule, its driver.

python -m jobs.simulate

1. The plan: the work items of every stage, made by the code that a run makes them with (`jobs.labelling.layout`),
   timed.
2. The schedule: these very items, handed out in order by one driver to as many workers as there are GPUs, each taking
   what `jobs.labelling.costs` says. A discrete-event simulation: it shows hours, idle workers, and where the driver is
   the limit.
3. The driver, for real: some thousand of the items go through `jobs.engine.work` and Ray Data to workers that do
   nothing.
"""

import heapq
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from jobs.engine import runtime
from jobs.engine.items import Item, Output
from jobs.engine.pool import PoolConfig
from jobs.engine.work import run_stage
from jobs.labelling import costs
from jobs.labelling.costs import Cost, ItemCosts, Rates
from jobs.labelling.layout import Layout, default_images_per_item
from jobs.storage import Storage
from mami_core.images.held_out import share_of

_UNITS_PER_LAYER = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateJob:
    """Plan and schedule labelling runs of any size, without images, networks or machines."""

    neurons: tuple[int, ...] = (1_000_000, 10_000_000)
    """Numbers of neurons; every one is planned with every number of images and of GPUs."""
    images: tuple[int, ...] = (50_000, 1_280_000)
    """Numbers of images."""
    gpus: tuple[int, ...] = (8, 64)
    """Numbers of GPUs."""
    neurons_per_subject: int = 125_000
    """The neurons are those of several networks, each with about so many. Each network sees all images."""
    images_per_item: int | None = None
    """By default as mami label chooses."""
    neurons_per_item: int = 1024
    """Neurons in a work item."""
    held_out: float = 0.2
    """Share of the images that judge captions, of no more than about 10,000 images; 0 where nobody judges."""
    drive: int = 2000
    """Items that go through a real Ray on this machine, to workers that do nothing; 0 for none."""
    rates: Rates = field(default_factory=Rates)
    """How fast machines and storage are and what they cost: the names and numbers of `Rates` in
    jobs/labelling/costs.py."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a stage went."""

    seconds: float
    """From the first item to the end of the last."""
    working: float
    """Share of the workers' time that was spent on items."""
    loading: float
    """Share that was spent on loading subjects."""
    items_s: float
    """Items that the driver handed out, a second."""


def schedule(
    items: Sequence[Item],
    seconds: Callable[[Item], float],
    arrival: Callable[[Item], float],
    loaded: Callable[[Item], str],
    *,
    num_workers: int,
    driver_items_s: float,
) -> Schedule:
    """Hand the items out in order, each to the worker that is free first, as one driver can.

    Args:
        items: One stage's items.
        seconds: How long an item takes.
        arrival: How much longer where the worker's last item needed something else loaded.
        loaded: What an item needs loaded, by name.
        num_workers: Workers, all there from the start.
        driver_items_s: Items that the driver can hand out a second.
    """
    free = [(0.0, worker) for worker in range(num_workers)]
    last: dict[int, str] = {}
    driver, working, loading, end = 0.0, 0.0, 0.0, 0.0
    for item in items:
        ready, worker = heapq.heappop(free)
        driver = max(driver + 1 / driver_items_s, ready)
        needed = loaded(item)
        work, load = seconds(item), arrival(item) if last.get(worker) != needed else 0.0
        last[worker] = needed
        heapq.heappush(free, (driver + load + work, worker))
        working, loading, end = working + work, loading + load, max(end, driver + load + work)
    share = 1 / (end * num_workers)
    return Schedule(seconds=end, working=working * share, loading=loading * share, items_s=len(items) / end)


def run(job: SimulateJob) -> int:
    """Print every part."""
    for neurons in job.neurons:
        for images in job.images:
            layout = make_layout(job, neurons, images)
            stages = _plan(layout)
            for gpus in job.gpus:
                _schedule(layout, stages, gpus, job.rates)
    if job.drive:
        layout = make_layout(job, max(job.neurons), max(job.images))
        drive(layout.stages()["exemplars"][: job.drive])
    return runtime.COMPLETE


def make_layout(job: SimulateJob, neurons: int, images: int) -> Layout:
    """The pieces of a run over so many neurons and images, from a configuration as a plan holds it."""
    num_subjects = max(1, round(neurons / job.neurons_per_subject))
    shares = [len(share) for share in np.array_split(np.empty(neurons, np.bool_), num_subjects)]
    config = {
        "subjects": {f"subject-{number:04d}": {"layers": _layers(units)} for number, units in enumerate(shares)},
        "images": {"count": images},
        "images_per_item": job.images_per_item or default_images_per_item(images, 32, num_subjects),
        "neurons_per_item": job.neurons_per_item,
        "trust": {"held_out": share_of(images, wanted=job.held_out)},
    }
    return Layout.of(json.loads(json.dumps(config)))


def _layers(num_units: int) -> dict[str, int]:
    starts = range(0, num_units, _UNITS_PER_LAYER)
    return {f"blocks.{n}": min(_UNITS_PER_LAYER, num_units - start) for n, start in enumerate(starts)}


def _plan(layout: Layout) -> dict[str, list[Item]]:
    """Make the items, and say how long it took and how large they are."""
    before, start = peak_memory(), time.perf_counter()
    stages = layout.stages()
    keys = layout.finished_keys()
    seconds = time.perf_counter() - start
    neurons = sum(_units(layout))
    text = sum(len(item.to_json()) for items in stages.values() for item in items)
    print(
        f"\n{neurons:,} neurons of {len(layout.subjects):,} subjects, {layout.num_images:,} images "
        f"({layout.images_per_item:,} an item, {layout.num_chunks:,} chunks)\n"
        f"  plan: {', '.join(f'{len(items):,} {stage}' for stage, items in stages.items())} items, {len(keys):,} files "
        f"in {seconds:.2f} s; {text / 1e6:.1f} MB as text; {(peak_memory() - before) / 2**20:,.0f} MB more memory\n"
        f"  a chunk's states of a subject: {max(_units(layout)) * costs.STATE_BYTES / 1e6:,.0f} MB"
    )
    return stages


def _units(layout: Layout) -> list[int]:
    return [sum(layers.values()) for layers in layout.subjects.values()]


def _schedule(layout: Layout, stages: dict[str, list[Item]], gpus: int, rates: Rates) -> None:
    """One line a stage and one for all of them."""
    cost_of = ItemCosts(layout, rates)
    print(
        f"  {gpus} GPUs:\n    {'stage':<10}{'items':>8}{'s/item':>8}{'hours':>8}{'work':>6}{'load':>6}{'items/s':>8}"
        f"{'GETs':>13}{'PUTs':>9}{'GB read':>10}{'GB written':>11}{'$':>8}"
    )
    hours, requests, totals = 0.0, 0.0, {}
    for stage, items in stages.items():
        workers = min(len(items), gpus)
        totals[stage] = total = sum(map(cost_of, items), Cost())
        went = schedule(
            items,
            lambda item: cost_of(item).seconds,
            cost_of.on_arrival,
            cost_of.loaded,
            num_workers=workers,
            driver_items_s=rates.driver_items_s,
        )
        paid = total.dollars_for_requests(rates)
        hours, requests = hours + went.seconds / 3600, requests + paid
        print(
            f"    {stage:<10}{len(items):>8,}{total.seconds / len(items):>8.1f}{went.seconds / 3600:>8.2f}"
            f"{went.working:>6.0%}{went.loading:>6.0%}{went.items_s:>8.1f}{total.gets:>13,.0f}{total.puts:>9,.0f}"
            f"{total.bytes_read / 1e9:>10,.0f}{total.bytes_written / 1e9:>11,.0f}"
            f"{gpus * went.seconds / 3600 * rates.gpu_hour + paid:>8,.0f}"
        )
    stored = costs.stored_bytes(totals)
    print(
        f"    all: {hours:,.2f} hours, {hours * gpus:,.0f} GPU hours, ${hours * gpus * rates.gpu_hour + requests:,.0f} "
        f"(of it ${requests:,.0f} for requests); {stored / 1e9:,.0f} GB stored, "
        f"${stored / 1e9 * rates.gigabyte_month:,.0f} a month until _work/ is deleted"
    )


class Idler:
    """A worker that makes an empty object."""

    def process(self, item: Item, storage: Storage) -> Output:
        """Nothing."""
        return Output(b"", {"items": 1})


def drive(items: Sequence[Item], *, num_workers: int = 2) -> float:
    """Send items through `jobs.engine.work` and Ray Data on this machine; items a second, workers' start included."""
    with tempfile.TemporaryDirectory(prefix="mami-simulate-") as folder, runtime.connect(num_cpus=4):
        print(f"\nDriver: {len(items):,} of these items to {num_workers} workers on this machine")
        before = peak_memory()
        pool = PoolConfig(num_workers=num_workers)
        first = run_stage(Storage(folder), items[:1], Idler, pool=pool, show_progress=False)
        report = run_stage(Storage(folder), items, Idler, pool=pool, show_progress=False)
    rate = report.num_done / report.seconds
    print(
        f"  {report.seconds:,.1f} s: {rate:,.0f} items a second ({first.seconds:,.1f} s for a stage of one item); "
        f"peak memory of the driver {before / 2**20:,.0f} MB before, {peak_memory() / 2**20:,.0f} MB after"
    )
    return rate


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(runtime.main(SimulateJob, run))
