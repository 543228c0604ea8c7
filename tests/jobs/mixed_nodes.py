"""A Ray of unlike nodes on this machine, and a labelling run whose images are decoded on those without a GPU.

`python -m tests.jobs.mixed_nodes mixed FOLDER`, a process of its own, since a test session has another Ray already.
Prints, as JSON, the kinds of nodes that worked and that decoded, by stage. Instead of "mixed", "few" and "every" label
where CPUs are scarce.
"""

import dataclasses
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from jobs import label
from jobs.engine import runtime
from jobs.engine.items import Item, Output
from jobs.engine.plan import open_plan
from jobs.engine.pool import PoolConfig
from jobs.label import LabelJob
from jobs.labelling import stages
from jobs.labelling.decoding import OnCpus
from jobs.labelling.networks import Networks
from jobs.labelling.run import WORKERS, work
from jobs.storage import Storage, storage_for
from mami_core.images import Decoded, FileInfo, Files
from tests import tiny
from tests.jobs.nodes import nodes
from tests.jobs.tiny_label import work_here

COUNT, BROKEN = 90, (6, 50)
NODES = [{"num_cpus": 1, "num_gpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}]
"""One with a GPU, whose one CPU its worker claims, and two without."""
SLOW = "slow"
"""While a file of this name lies among the notes, reading an image takes a second."""


def job(folder: Path, output: str) -> LabelJob:
    """What is labelled: 90 photographs, two of them broken, in two items."""
    return LabelJob(
        subject=(tiny.SUBJECT,),
        images=str(folder / "images"),
        captioner=str(folder / "captioner"),
        output=output,
        batch_size=4,
        images_per_item=64,
        neurons_per_item=16,
        scorer="none",
        beam_size=3,
        max_length=4,
        num_workers=1,
        decode_cpus=2,
    )


class _NotedFiles:
    """Files that note on which node they were read."""

    def __init__(self, files: Files, notes: Path) -> None:
        self._files, self._notes = files, notes

    def find(self, path: str) -> list[FileInfo]:
        return self._files.find(path)

    def open(self, path: str) -> BinaryIO:
        return self._files.open(path)

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        _note(self._notes)
        if (self._notes.parents[1] / SLOW).exists():
            time.sleep(1)
        return self._files.read(path, start, size)


@dataclasses.dataclass(frozen=True)
class _NotedDecoder:
    """As the job's own, and notes where it decodes."""

    decoder: OnCpus
    notes: Path

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        files = _NotedFiles(files, self.notes)
        return self.decoder(images, files, sizes=sizes, crop=crop, batch_size=batch_size)


class _Noted:
    """A stage's worker that notes where it is, and where its images are decoded."""

    def __init__(self, networks: Networks, notes: str) -> None:
        spec = networks.spec
        assert isinstance(spec.decoder, OnCpus), "as the job asks for"
        assert spec.decoder.num_cpus == 1, "a claim, so that tasks go where CPUs are free"
        self._notes = Path(notes)
        decoder = _NotedDecoder(spec.decoder, self._notes / "decoded")
        # Ray gave it a GPU, in name: the networks run on the CPU.
        super().__init__(Networks(dataclasses.replace(spec, device="cpu", decoder=decoder)))  # type: ignore[call-arg]

    def process(self, item: Item, storage: Storage) -> Output:
        """As the stage does."""
        _note(self._notes / "worked")
        return super().process(item, storage)  # type: ignore[misc]


def _note(folder: Path) -> None:
    import ray

    folder.mkdir(parents=True, exist_ok=True)
    (folder / ray.get_runtime_context().get_node_id()).touch()


class NotedSearch(_Noted, stages.SearchImages):
    """Exemplars."""


class NotedEncode(_Noted, stages.EncodeImages):
    """Features."""


class NotedCaption(_Noted, stages.CaptionUnits):
    """Captions, which need no image."""


NOTED = {"exemplars": NotedSearch, "features": NotedEncode, "captions": NotedCaption}


def run_losing_a_node(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The same, and one of the nodes that decode is lost while it does."""
    (folder / "notes").mkdir()
    (folder / "notes" / SLOW).touch()
    return run(folder, lose=True)


def run(folder: Path, *, lose: bool = False) -> dict[str, dict[str, list[str]]]:
    """Labels on the unlike nodes; by stage, which of them worked and which decoded."""
    prepared = job(folder, str(folder / "mixed")).prepare()
    storage = storage_for(str(folder / "mixed"))
    plan = open_plan(storage, prepared.config)
    notes = folder / "notes"
    workers = {stage: functools.partial(made, notes=str(notes / stage)) for stage, made in NOTED.items()}
    WORKERS.update(workers)  # type: ignore[arg-type]
    with nodes(*NODES) as remove, runtime.connect():
        import ray

        if lose:
            threading.Thread(target=_lose, args=(remove, notes), daemon=True).start()
        kinds = {node["NodeID"]: "gpu" if node["Resources"].get("GPU") else "cpu" for node in ray.nodes()}
        work(storage, plan, prepared, label.pool_of(job(folder, "")))
    return {
        stage.name: {role.name: sorted(kinds[node.name] for node in role.iterdir()) for role in stage.iterdir()}
        for stage in notes.iterdir()
        if stage.is_dir()
    }


def _lose(remove: Callable[[], None], notes: Path) -> None:
    """Takes the node away once both decode, and lets them read as fast as they can."""
    while len(list(notes.glob("exemplars/decoded/*"))) < 2:
        time.sleep(0.05)
    remove()
    (notes / "lost").mkdir()
    (notes / SLOW).unlink()


def alone(folder: Path) -> None:
    """The same without Ray, in this process."""
    work_here(job(folder, str(folder / "alone")))


def on_few_cpus(folder: Path) -> None:
    """Labels on one node with two CPUs, with two workers that each want two more to decode for them."""
    prepared = job(folder, str(folder / "few")).prepare()
    storage = storage_for(str(folder / "few"))
    plan = open_plan(storage, prepared.config)
    with runtime.connect(num_cpus=2, object_store_bytes=100 << 20):
        work(storage, plan, prepared, PoolConfig(num_workers=2, helper_cpus=2, silence_minutes=3))


def on_every_cpu(folder: Path) -> None:
    """Labels on three nodes with a CPU each, with three workers that claim them all."""
    prepared = job(folder, str(folder / "every")).prepare()
    storage = storage_for(str(folder / "every"))
    plan = open_plan(storage, prepared.config)
    with nodes(*NODES), runtime.connect():
        work(storage, plan, prepared, PoolConfig(num_workers=3, num_cpus=1, silence_minutes=2))


RUNS = {"mixed": run, "lost": run_losing_a_node, "few": on_few_cpus, "every": on_every_cpu}

if __name__ == "__main__":
    from tests.jobs import mixed_nodes  # workers import it by this name

    sys.stdout.write(json.dumps(mixed_nodes.RUNS[sys.argv[1]](Path(sys.argv[2]))) + "\n")
