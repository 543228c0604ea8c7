"""A Ray of three nodes on this machine, each with a GPU in name, and a labelling run on it: `python -m … FOLDER`.

A process of its own, since a test session has another Ray already. Prints, as JSON, on which nodes the items of each
stage were worked and with which GPUs. `python -m … FOLDER STAGE` loses a node in the middle of that stage.
"""

import dataclasses
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jobs.engine import runtime
from jobs.engine.items import Item, Output
from jobs.engine.plan import find_plan, open_plan
from jobs.engine.pool import PoolConfig
from jobs.label import LabelJob
from jobs.labelling import stages
from jobs.labelling.layout import Layout
from jobs.labelling.networks import Networks
from jobs.labelling.run import WORKERS, work
from jobs.storage import Storage, storage_for
from tests import tiny
from tests.jobs.nodes import nodes
from tests.jobs.tiny_label import work_here

NUM_NODES = 3
PATIENCE_S = 120


def job(folder: Path, output: str) -> LabelJob:
    """What is labelled: two subjects, 26 photographs of which one is broken."""
    return LabelJob(
        subject=(tiny.SUBJECT, tiny.OTHER_SUBJECT),
        images=str(folder / "images"),
        captioner=str(folder / "captioner"),
        output=output,
        batch_size=4,
        images_per_item=4,
        neurons_per_item=4,
        scorer="none",
        beam_size=3,
        max_length=4,
    )


class _Noted:
    """A stage's worker that notes where it is, and does not begin before all nodes have one: they work together."""

    def __init__(self, networks: Networks, notes: str) -> None:
        # Ray gave it a GPU, in name: the networks run on the CPU.
        super().__init__(Networks(dataclasses.replace(networks.spec, device="cpu")))  # type: ignore[call-arg]
        self._notes, self._begun = Path(notes), False

    def process(self, item: Item, storage: Storage) -> Output:
        """As the stage does."""
        if not self._begun:
            self._meet(self._notes / item.stage)
            self._begun = True
        return super().process(item, storage)  # type: ignore[misc]

    def _meet(self, folder: Path) -> None:
        import ray

        if (self._notes / "lost").exists():  # there are fewer nodes now
            return
        folder.mkdir(parents=True, exist_ok=True)
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        (folder / ray.get_runtime_context().get_node_id()).write_text(json.dumps({"gpus": gpus, "pid": os.getpid()}))
        deadline = time.monotonic() + PATIENCE_S
        while len(list(folder.iterdir())) < NUM_NODES:
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {len(list(folder.iterdir()))} nodes work on {folder.name}")
            time.sleep(0.05)


class NotedSearch(_Noted, stages.SearchImages):
    """Exemplars."""


class NotedEncode(_Noted, stages.EncodeImages):
    """Features."""


class NotedCaption(_Noted, stages.CaptionUnits):
    """Captions."""


NOTED = {"exemplars": NotedSearch, "features": NotedEncode, "captions": NotedCaption}


class _Fatal:
    """Takes its node down with its second item, once in a run and never the head: what it had begun is lost."""

    def process(self, item: Item, storage: Storage) -> Output:
        """As the stage does, and no further."""
        output, second = super().process(item, storage), self._begun_before()  # type: ignore[misc]
        if second and not _on_head() and storage.create(f"_killed/{item.stage}", b"once"):
            (self._notes / "lost").touch()  # type: ignore[attr-defined]
            os.kill(os.getppid(), signal.SIGKILL)  # whoever starts workers on this node
            os.kill(os.getpid(), signal.SIGKILL)
        return output

    def _begun_before(self) -> bool:
        self._count = getattr(self, "_count", 0) + 1
        return self._count > 1


def _on_head() -> bool:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == here and "node:__internal_head__" in node["Resources"] for node in ray.nodes())


class FatalSearch(_Fatal, NotedSearch):
    """Exemplars."""


class FatalEncode(_Fatal, NotedEncode):
    """Features."""


class FatalCaption(_Fatal, NotedCaption):
    """Captions."""


FATAL = {"exemplars": FatalSearch, "features": FatalEncode, "captions": FatalCaption}


def run(folder: Path, fatal_stage: str = "") -> dict[str, dict[str, Any]]:
    """Labels on three nodes; by stage and node, what is known of the worker there."""
    prepared = job(folder, str(folder / "three")).prepare()
    storage = storage_for(str(folder / "three"))
    plan = open_plan(storage, prepared.config)
    notes = str(folder / "notes")
    chosen = NOTED | {stage: worker for stage, worker in FATAL.items() if stage == fatal_stage}
    workers = {stage: functools.partial(worker, notes=notes) for stage, worker in chosen.items()}
    WORKERS.update(workers)  # type: ignore[arg-type]
    with nodes(*[{"num_cpus": 2, "num_gpus": 1}] * NUM_NODES), runtime.connect():
        work(storage, plan, prepared, PoolConfig(num_gpus=1, num_cpus=1, silence_minutes=5))
    return {
        place.name: {node.name: json.loads(node.read_text()) for node in place.iterdir()}
        for place in sorted(Path(notes).iterdir())
        if place.is_dir()
    }


def alone(folder: Path) -> Layout:
    """The same without Ray, in this process."""
    plan = find_plan(work_here(job(folder, str(folder / "alone"))))
    assert plan is not None
    return Layout.of(plan.config)


if __name__ == "__main__":
    from tests.jobs import three_nodes  # workers import it by this name

    sys.stdout.write(json.dumps(three_nodes.run(Path(sys.argv[1]), *sys.argv[2:])) + "\n")
