"""Progress inside items: what workers tell reaches the line, a few times a minute and no more."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jobs.engine.items import Item, Output
from jobs.engine.progress import Progress
from jobs.engine.within import Heard, Within, tell, telling
from jobs.engine.work import run_stage
from jobs.storage import Storage


@given(steps=st.lists(st.floats(0.01, 30), min_size=1, max_size=30))
def test_a_worker_is_heard_at_most_once_an_interval_and_with_all_that_it_did(steps: list[float]) -> None:
    now, heard, moments = [0.0], list[Heard](), list[float]()

    def listener(what: Heard) -> None:
        heard.append(what)
        moments.append(now[0])

    with telling(listener, interval_s=10, clock=lambda: now[0]):
        for done, step in enumerate(steps, 1):
            now[0] += step
            tell("images", 1, of=len(steps))
            if moments and moments[-1] == now[0]:
                assert heard[-1] == Heard({"images": done}, done / len(steps))
    assert all(later - earlier >= 10 for earlier, later in pairwise(moments))
    assert bool(heard) == (sum(steps) >= 10)


def test_telling_outside_an_item_does_nothing() -> None:
    tell("images", 1, of=1)


def test_an_item_under_way_counts_for_the_rate_and_the_time_left() -> None:
    now = [0.0]
    within = Within()
    progress = Progress("captions", total=2, clock=lambda: now[0], silent=True, within=within.together)
    now[0] = 20.0
    assert progress.line() == "captions: 0/2 items, time left unknown"
    within.hear("x/0")(Heard({"neurons": 512}, 0.5))
    assert progress.line() == "captions: 0/2 items, 512 neurons (25.6/s), 0:01:00 left"
    within.end("x/0")
    progress.advance(counters={"neurons": 1024})
    assert progress.line() == "captions: 1/2 items, 1,024 neurons (51.2/s), 0:00:20 left", "counted once"


def test_nobody_who_answers_stops_nothing() -> None:
    def silent() -> Heard:
        raise TimeoutError

    assert "0/1 items" in Progress("x", total=1, silent=True, within=silent).line()


class Teller:
    """Tells of each of its ten steps."""

    def process(self, item: Item, storage: Storage) -> Output:
        for _ in range(10):
            tell("steps", 1, of=10)
        return Output(b"done", {"steps": 10})


def test_a_stage_hears_its_workers(disk: Storage, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr("jobs.engine.within.INTERVAL_S", 0.0)
    heard: list[Heard] = []
    monkeypatch.setattr(Within, "hear", lambda self, index: heard.append)
    report = run_stage(disk, [Item("x", 0, 1, "x/0")], Teller, pool=None, show_progress=False)
    assert report.counters["steps"] == 10
    assert [round(each.share, 1) for each in heard] == [step / 10 for step in range(1, 11)]
