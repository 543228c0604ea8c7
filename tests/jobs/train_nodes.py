"""A Ray of three nodes, or of one, on this machine, and a training run with three workers on it.

`python -m tests.jobs.train_nodes three|one FOLDER`, a process of its own, since a test session has another Ray already.
Prints, as JSON, the node of each worker by its rank.
"""

import json
import sys
from pathlib import Path
from typing import Any

from jobs import train
from jobs.engine import runtime
from jobs.train import TrainJob
from jobs.training import loop as train_loop
from jobs.training.loop import TrainSpec
from mami_core.learning.annotated_writing import write_annotated
from mami_core.learning.generated import GeneratedConfig, generate
from tests.jobs.nodes import nodes

NUM_WORKERS = 3
_RUN = train_loop.train_worker


def job(folder: Path, output: str) -> TrainJob:
    """A small captioner, from forty neurons; with dropout, which each worker draws for itself."""
    return TrainJob(
        output=output,
        neurons=str(folder / "neurons"),
        encoder="torchvision:resnet18",
        encoder_weights="random:0",
        encoder_input_size=64,
        hidden=16,
        embedding=8,
        attention_size=8,
        language_layers=1,
        max_epochs=2,
        validation=0.2,
        test=0.2,
        num_workers=NUM_WORKERS,
        num_cpus=2,
    )


def noted(config: dict[str, Any]) -> None:
    """What every worker runs: as the job's, and notes where it is."""
    import ray
    import ray.train

    spec: TrainSpec = config["spec"]
    notes = Path(spec.url).parent / f"notes-{Path(spec.url).name}"
    notes.mkdir(exist_ok=True)
    rank = ray.train.get_context().get_world_rank()
    (notes / str(rank)).write_text(ray.get_runtime_context().get_node_id())
    _RUN(config)


def run(count: int, folder: Path, name: str) -> list[str]:
    """Trains on nodes with nine CPUs together: not two workers fit on one of three. The node of each worker."""
    if not (folder / "neurons").exists():
        write_annotated(generate(GeneratedConfig(num_neurons=40, num_scenes=80, k=4, size=64)), folder / "neurons")
    train_loop.train_worker = noted
    with nodes(*[{"num_cpus": 9 // count}] * count), runtime.connect():
        train.run(job(folder, str(folder / name)))
    return [note.read_text() for note in sorted((folder / f"notes-{name}").iterdir())]


if __name__ == "__main__":
    from tests.jobs import train_nodes  # workers import it by this name

    kind, where = sys.argv[1], Path(sys.argv[2])
    sys.stdout.write("\n" + json.dumps(train_nodes.run({"three": 3, "one": 1}[kind], where, kind)) + "\n")
