"""What a run counts is among the metrics that Ray serves to Prometheus."""

import re
import time
import urllib.request
from pathlib import Path

import pytest

from jobs.engine.items import Item, Output
from jobs.engine.pool import PoolConfig
from jobs.engine.work import run_stage
from jobs.storage import Storage
from mami_core.errors import ImageError

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]

STAGE = "counted"


class Counts:
    """Counts 16 images an item, and one that was dropped; the last item fails."""

    def process(self, item: Item, storage: Storage) -> Output:
        if item.index == item.count - 1:
            raise ImageError("made by the test")
        return Output(b"1234", {"images": 16, "dropped": 1, "storage retries": 0})


def served(stage: str = STAGE) -> dict[str, float]:
    """Our metrics of a stage, as every node of this Ray serves them: summed by name."""
    import ray

    totals: dict[str, float] = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
        for name, value in re.findall(rf'^ray_mami_(\w+)\{{[^}}]*stage="{stage}"[^}}]*\}} (\S+)$', text, re.MULTILINE):
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def test_prometheus_finds_what_a_stage_counted(tmp_path: Path) -> None:
    work = [Item(STAGE, n, 5, f"{STAGE}/{n}") for n in range(5)]
    report = run_stage(Storage(str(tmp_path)), work, Counts, pool=PoolConfig(num_workers=2))
    deadline = time.monotonic() + 60
    while not (found := served()).keys() >= {"images_total", "items_failed_total"} and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found.pop("busy_seconds_total") == pytest.approx(report.busy_seconds)
    assert found == {
        "items_done_total": 4,
        "items_failed_total": 1,
        "bytes_total": 16,
        "images_total": 64,
        "dropped_total": 4,
    }


def test_a_stage_that_the_driver_works_itself_is_counted_too(tmp_path: Path) -> None:
    """As merging is, where there is little of it."""
    work = [Item("here", n, 3, f"here/{n}") for n in range(3)]
    run_stage(Storage(str(tmp_path)), work, Counts, pool=None)
    deadline = time.monotonic() + 60
    while (
        not (found := served("here")).keys() >= {"images_total", "items_failed_total"} and time.monotonic() < deadline
    ):
        time.sleep(0.5)
    assert (found["items_done_total"], found["items_failed_total"], found["images_total"]) == (2, 1, 32)
