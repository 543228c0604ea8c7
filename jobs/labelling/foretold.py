"""What a labelling run is about to do, in words: its first line, and the plan that --dry-run shows."""

from jobs.engine.foretold import Step, ending, table
from jobs.engine.items import Item
from jobs.labelling.costs import Cost, ItemCosts, Rates
from jobs.labelling.layout import Layout

_ON_A_CPU = Rates(
    search_images_s=20.0, encode_images_s=6.0, captioned_neurons_s=15.0, storage_bytes_s=200e6, request_s=0.001
)
"""One CPU core and a disk, ResNet-like networks of a few GFLOPs, 50 beams: see docs/performance.md."""


def first_line(layout: Layout, output: str) -> str:
    """`Labelling 1,784 neurons in 5 layers of efficientnet_lite0, from 654 images, into demo/labels`."""
    layers = [units for of_subject in layout.subjects.values() for units in of_subject.values()]
    names = list(layout.subjects)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"Labelling {sum(layers):,} neurons in {len(layers):,} layers of {shown}, from {layout.num_images:,} images, "
        f"into {output}"
    )


def planned(layout: Layout, output: str, *, gpus: bool) -> str:
    """Layers, neurons, work items, bytes, requests and roughly how long it takes; nothing is started."""
    costs = ItemCosts(layout, Rates() if gpus else _ON_A_CPU)
    worker = "GPU" if gpus else "CPU core"
    lines = [first_line(layout, output), ""]
    for subject, layers in layout.subjects.items():
        lines += [f"  {subject}", *(f"    {layer:<40} {units:>8,} neurons" for layer, units in layers.items())]
    steps = [_step(stage, items, costs) for stage, items in layout.stages().items()]
    lines += ["", *table(steps, worker), "", f"  {ending(steps, into=output, worker=worker)}"]
    return "\n".join([*lines, "  Rates: docs/performance.md and docs/scale.md.", "  Nothing was started."])


def _step(stage: str, items: list[Item], costs: ItemCosts) -> Step:
    """A stage whose costs nobody has worked out says so."""
    if not hasattr(costs, stage):
        return Step(name=stage, items=len(items), bytes_read=None, bytes_written=None, seconds=None)
    cost = sum((costs(item) for item in items), Cost())
    return Step(
        name=stage,
        items=len(items),
        bytes_read=cost.bytes_read,
        bytes_written=cost.bytes_written,
        requests=cost.gets + cost.puts,
        seconds=cost.seconds,
    )
