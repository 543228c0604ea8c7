"""What a run counts, among Ray's own metrics: Prometheus scrapes them from the nodes, Ray's dashboard reads them there.

    ray_mami_items_done_total{stage="exemplars"}       and items_failed, items_refused
    ray_mami_bytes_total{stage="merge"}                written
    ray_mami_busy_seconds_total{stage="features"}      spent on items, added up over workers
    ray_mami_images_total, neurons, exemplars, dropped, dead, storage_retries: whatever the stage's workers count

The driver counts them, from what it hears of each item. So an item counts once whoever worked it, and nothing is lost
with the workers, which Ray ends at the end of a stage with whatever they have not reported yet.
"""

import functools
import sys
from typing import Any

from jobs.engine.items import Outcome


def count(stage: str, outcome: Outcome) -> None:
    """Add what became of one item, wherever it was worked; without a Ray that this process is connected to, nothing."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    amounts = {
        f"items_{outcome.state}": 1.0,
        "bytes": float(outcome.bytes),
        "busy_seconds": outcome.seconds,
        **outcome.counters,
    }
    for name, amount in amounts.items():
        if amount > 0:  # Ray refuses to add nothing
            _counter(name).inc(amount, tags={"stage": stage})


@functools.cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    return Counter(f"mami_{name.replace(' ', '_')}", f"MAMI: {name.replace('_', ' ')}", tag_keys=("stage",))
