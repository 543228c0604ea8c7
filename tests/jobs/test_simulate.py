"""A run of ten million neurons is planned and scheduled without one image: in seconds, by the code that a run uses."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engine.items import Item
from jobs.engine.work import _check
from jobs.labelling.costs import STATE_BYTES, Cost, ItemCosts, Rates
from jobs.labelling.layout import Layout, default_images_per_item
from jobs.simulate import SimulateJob, make_layout, run, schedule
from mami_core.exemplars.states import LayerState, save_states

MILLION = 1_000_000


def of_subjects(subjects: list[int]) -> list[Item]:
    return [Item("exemplars", n, len(subjects), f"{n}", {"subject": f"{s}"}) for n, s in enumerate(subjects)]


def of(item: Item) -> str:
    return item.payload["subject"]


def simulated(times: list[float], *, workers: int, driver: float = 1e12) -> float:
    items = of_subjects([0] * len(times))
    went = schedule(
        items, lambda item: times[item.index], lambda _: 0.0, of, num_workers=workers, driver_items_s=driver
    )
    assert went.working == pytest.approx(sum(times) / (went.seconds * workers))
    return went.seconds


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=40), st.integers(1, 10))
def test_a_schedule_is_within_what_greedy_scheduling_guarantees(times: list[float], workers: int) -> None:
    """Graham's bounds: at least the mean load and the longest item, at most their sum."""
    seconds = simulated(times, workers=workers)
    assert seconds >= max(sum(times) / workers, max(times)) * (1 - 1e-9)
    assert seconds <= (sum(times) / workers + max(times)) * (1 + 1e-9)


def test_the_driver_is_the_limit_of_short_items() -> None:
    assert simulated([0.01] * 1300, workers=64, driver=65) == pytest.approx(20, rel=0.01)
    assert simulated([10.0] * 1280, workers=64, driver=65) == pytest.approx(200 + 64 / 65, rel=0.05)


def test_a_worker_pays_for_every_change_of_subject() -> None:
    for subjects, changes in (([0, 0, 1, 1], 2), ([0, 1, 0, 1], 4)):
        items = of_subjects(subjects)
        went = schedule(items, lambda _: 1.0, lambda _: 5.0, of, num_workers=1, driver_items_s=1e12)
        assert went.seconds == pytest.approx(4 + 5 * changes)
        assert went.loading == pytest.approx(5 * changes / went.seconds)


@pytest.mark.parametrize("neurons_per_subject", [125_000, 10 * MILLION])
def test_ten_million_neurons_are_planned_in_seconds(neurons_per_subject: int) -> None:
    job = SimulateJob(neurons_per_subject=neurons_per_subject)
    start = time.process_time()
    layout = make_layout(job, 10 * MILLION, 1_280_000)
    stages = layout.stages()
    for items in stages.values():
        _check(items)
    keys = layout.finished_keys()
    assert time.process_time() - start < 20, "a second or two; what grows with the square of it takes minutes"
    assert len(set(keys)) == len(keys)
    assert sum(shard.end - shard.first for subject in layout.subjects for shard in layout.shards(subject)) == 10**7
    assert sum(len(item.to_json()) for items in stages.values() for item in items) < 20e6


def small() -> Layout:
    return make_layout(SimulateJob(images_per_item=96, neurons_per_subject=3000), 10_000, 1000)


def test_what_a_stage_writes_the_next_reads() -> None:
    layout = small()
    cost_of = ItemCosts(layout, Rates())
    totals = {stage: sum(map(cost_of, items), Cost()) for stage, items in layout.stages().items()}
    found = totals["exemplars"].bytes_written
    assert totals["merge"].bytes_read + totals["trust"].bytes_read == pytest.approx(found)
    assert totals["captions"].bytes_read == pytest.approx(totals["features"].bytes_written)
    assert totals["exemplars"].gets >= 1000 * len(layout.subjects), "every subject sees every image"
    stages = layout.stages()
    assert sum(cost.puts for cost in totals.values()) == sum(map(len, [*stages.values(), stages["exemplars"]]))


def test_whatever_a_run_does_costs_something_and_judging_only_where_somebody_judges() -> None:
    judged, alone = (make_layout(SimulateJob(held_out=share), 10_000, 1000) for share in (0.2, 0.0))
    of_judged, of_alone = (
        {stage: sum(map(ItemCosts(layout, Rates()), items), Cost()) for stage, items in layout.stages().items()}
        for layout in (judged, alone)
    )
    assert of_judged.keys() - of_alone.keys() == {"held_out", "trust"}
    assert all(cost.seconds > 0 for cost in (*of_judged.values(), *of_alone.values()))
    assert of_judged["features"].bytes_read < of_alone["features"].bytes_read, "held-out images are no exemplars"


def test_states_are_as_large_as_assumed() -> None:
    header = len(save_states({"layer": LayerState.empty(1, 15)})) - STATE_BYTES
    assert len(save_states({"layer": LayerState.empty(500, 15)})) == pytest.approx(500 * STATE_BYTES + header, abs=64)


def test_it_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SimulateJob(neurons=(20_000,), images=(5_000,), gpus=(2, 4), drive=0)) == 0
    text = capsys.readouterr().out
    assert text.count("4 GPUs:") == 1
    for stage in ("exemplars", "merge", "features", "held_out", "captions", "trust"):
        assert text.count(f"\n    {stage} ") == 2


@given(st.integers(1, 10**8), st.integers(1, 64), st.integers(1, 5000))
def test_a_run_has_neither_too_many_image_items_nor_too_large_ones(images: int, batch: int, subjects: int) -> None:
    size = default_images_per_item(images, batch, subjects)
    assert size % batch == 0
    assert size <= 16384 + batch
    if 128 < images / 256 <= 16384 and subjects <= 16:
        assert 256 * size >= images
    if images <= 32 * 16384:
        assert -(-images // size) * subjects <= max(4096, 32 * subjects)
