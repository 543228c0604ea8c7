"""What a labelling run is about to do, in words: its first line, and the plan that --dry-run shows."""

from jobs.engine.items import Item
from jobs.labelling.costs import Cost, ItemCosts, Rates, stored_bytes
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
    rates = Rates() if gpus else _ON_A_CPU
    costs = ItemCosts(layout, rates)
    lines = [first_line(layout, output), ""]
    for subject, layers in layout.subjects.items():
        lines += [f"  {subject}", *(f"    {layer:<40} {units:>8,} neurons" for layer, units in layers.items())]
    lines += ["", f"  {'stage':<12}{'items':>8}{'read':>12}{'written':>12}{'requests':>12}{'one worker':>14}"]
    totals: dict[str, Cost] = {}
    for stage, items in layout.stages().items():
        total = _total(costs, items)
        if total is not None:
            totals[stage] = total
            lines.append(_line(stage, len(items), total))
        else:
            lines.append(f"  {stage:<12}{len(items):>8,}{'not estimated':>24}")
    seconds = sum(total.seconds for total in totals.values())
    worker = "GPU" if gpus else "CPU core"
    lines += [
        "",
        f"  About {_duration(seconds)} for one {worker}, {stored_bytes(totals) / 1e9:,.2f} GB in the run's folder: "
        "a rough guess, from docs/performance.md and docs/scale.md.",
        "  Nothing was started.",
    ]
    return "\n".join(lines)


def _total(costs: ItemCosts, items: list[Item]) -> Cost | None:
    """None for a stage whose costs nobody has worked out."""
    if not hasattr(costs, items[0].stage):
        return None
    return sum((costs(item) for item in items), Cost())


def _line(stage: str, count: int, cost: Cost) -> str:
    sizes = "".join(f"{size / 1e6:>9,.0f} MB" for size in (cost.bytes_read, cost.bytes_written))
    return f"  {stage:<12}{count:>8,}{sizes}{cost.gets + cost.puts:>12,.0f}{_duration(cost.seconds):>14}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
