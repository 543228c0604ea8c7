"""What a labelling run is about to do, in words: its first line, and the plan that --dry-run shows."""

import dataclasses
from collections.abc import Mapping

from jobs.engine.foretold import Step, duration, ending, table
from jobs.engine.items import Item
from jobs.labelling.costs import Cost, ItemCosts, Rates
from jobs.labelling.layout import Layout

_ON_A_CPU = Rates(
    search_images_s=20.0,
    encode_images_s=6.0,
    captioned_neurons_s=15.0,
    seen_images_s=10.0,
    storage_bytes_s=200e6,
    request_s=0.001,
)
"""One CPU core and a disk, ResNet-like networks of a few GFLOPs, 50 beams: see docs/performance.md."""
_ENCODING_S = 1 / _ON_A_CPU.encode_images_s - 1 / _ON_A_CPU.search_images_s
"""Of an image, the encoder's part."""


def first_line(layout: Layout, output: str) -> str:
    """`Labelling 1,784 neurons (5 layers) of efficientnet_lite0, from 654 images, into demo/labels`."""
    layers = [units for of_subject in layout.subjects.values() for units in of_subject.values()]
    names = list(layout.subjects)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"Labelling {sum(layers):,} neurons ({len(layers):,} {'layer' if len(layers) == 1 else 'layers'}) of {shown}, "
        f"from {layout.num_images:,} images, "
        f"into {output}"
    )


def about(layout: Layout, seconds: Mapping[str, float], *, gpus: bool) -> str:
    """`About 4 min for one CPU core, by what an image takes here`; `seconds` are each subject's an image."""
    steps = _steps(layout, seconds, gpus=gpus)
    known = duration(sum(step.seconds or 0.0 for step in steps))
    return f"About {known} for one {'GPU' if gpus else 'CPU core, by what an image takes here'}"


def planned(layout: Layout, output: str, *, gpus: bool, seconds: Mapping[str, float]) -> str:
    """Layers, neurons, work items, bytes, requests and roughly how long it takes; nothing is started."""
    worker = "GPU" if gpus else "CPU core"
    lines = [first_line(layout, output), ""]
    for subject, layers in layout.subjects.items():
        lines += [f"  {subject}", *(f"    {layer:<40} {units:>8,} neurons" for layer, units in layers.items())]
    steps = _steps(layout, seconds, gpus=gpus)
    lines += ["", *table(steps, worker), "", f"  {ending(steps, into=output, worker=worker)}"]
    return "\n".join([*lines, "  Rates: docs/performance.md and docs/scale.md.", "  Nothing was started."])


def _steps(layout: Layout, seconds: Mapping[str, float], *, gpus: bool) -> list[Step]:
    usual, here = (Rates(), {}) if gpus else (_ON_A_CPU, seconds)
    costs = {name: ItemCosts(layout, _rates(usual, here[name]) if name in here else usual) for name in layout.subjects}
    return [_step(stage, items, costs) for stage, items in layout.stages().items()]


def _rates(usual: Rates, seconds: float) -> Rates:
    """Where one image takes so long."""
    return dataclasses.replace(usual, search_images_s=1 / seconds, encode_images_s=1 / (seconds + _ENCODING_S))


def _step(stage: str, items: list[Item], costs: Mapping[str, ItemCosts]) -> Step:
    anybody = next(iter(costs.values()))  # an item of no one subject costs the same whoever is asked
    cost = sum((costs.get(item.payload.get("subject", ""), anybody)(item) for item in items), Cost())
    return Step(
        name=stage,
        items=len(items),
        bytes_read=cost.bytes_read,
        bytes_written=cost.bytes_written,
        requests=cost.gets + cost.puts,
        seconds=cost.seconds,
    )
