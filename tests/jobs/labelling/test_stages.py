"""What a stage's worker keeps in memory."""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.engine.within import Heard, telling
from jobs.label import LabelJob
from jobs.labelling import networks, stages
from jobs.labelling.networks import Networks
from jobs.labelling.run import WORKERS, Labeller
from jobs.labelling.specs import CaptionerSpec, SubjectSpec
from jobs.storage import storage_for
from mami_core.subjects import Subject
from tests import tiny
from tests.jobs.tiny_label import tiny_job, work_here, write_inputs


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    """Two subjects, three image items each."""
    one = tiny_job(write_inputs(tmp_path), tmp_path / "run")
    return dataclasses.replace(one, subject=(tiny.SUBJECT, tiny.OTHER_SUBJECT))


def test_a_worker_holds_one_subject_at_a_time_and_loads_each_once(
    job: LabelJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the next one is being loaded: a GPU may have room for one."""
    work_here(job)  # so that every stage finds what it reads
    held: list[weakref.ref] = []
    load, lean = SubjectSpec.load, networks.lean

    def watched_load(spec: SubjectSpec) -> Subject:
        assert not [earlier for earlier in held if earlier() is not None], "the one before is gone"
        return load(spec)

    def watched_lean(subject: Subject, layers: Sequence[str], **options: Any) -> Subject:
        made = lean(subject, layers, **options)
        held.append(weakref.ref(made.network))
        return made

    prepared, storage = job.prepare(), storage_for(str(job.output))
    monkeypatch.setattr(SubjectSpec, "load", watched_load)
    monkeypatch.setattr(networks, "lean", watched_lean)
    for stage, worker_class in {"exemplars": stages.SearchImages, "features": stages.EncodeImages}.items():
        worker = worker_class(Networks(prepared.spec))
        items = prepared.spec.layout.stages()[stage]
        assert len(items) == 6
        for item in items:
            objects = worker.process(item, storage).objects
            data = objects if isinstance(objects, bytes) else objects[item.key]
            assert data == storage.read(item.key)
        assert len(held) == 2, f"{stage}: items come subject by subject"
        held.clear()


def test_a_worker_of_all_stages_loads_its_networks_once_and_lets_go_of_what_it_saw_through(
    job: LabelJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dataclasses.replace(job, subject=job.subject[:1])
    prepared, storage = job.prepare(), work_here(job)
    loaded: Counter[str] = Counter()
    seen_through: list[weakref.ref] = []

    def counted(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def load(*args: Any, **named: Any) -> Any:
            loaded[name] += 1
            made = make(*args, **named)
            if name != "captioner":
                seen_through.append(weakref.ref(made))
            return made

        return load

    monkeypatch.setattr(networks, "lean", counted("subject", networks.lean))
    monkeypatch.setattr(networks, "load_encoder", counted("encoder", networks.load_encoder))
    monkeypatch.setattr(CaptionerSpec, "load", counted("captioner", CaptionerSpec.load))
    worker = Labeller(prepared.spec, WORKERS)
    for stage, items in prepared.spec.layout.stages().items():
        for item in items:
            worker.process(item, storage)
        held = [each for each in seen_through if each() is not None]
        assert bool(held) == (stage in ("exemplars", "merge", "features"))
    assert loaded == {"subject": 1, "encoder": 1, "captioner": 1}


def test_an_item_is_as_far_as_its_images_that_are_read(job: LabelJob) -> None:
    """The features of a chunk need those images alone that are somebody's exemplars."""
    job = dataclasses.replace(job, subject=job.subject[:1], layers=("clamped",), k=1)
    storage, several = work_here(job), 0
    judged = dataclasses.replace(job, scorer="learned", held_out=0.4)
    for stage, worker, each in (
        ("exemplars", stages.SearchImages, judged),
        ("features", stages.EncodeImages, job),
    ):
        spec = each.prepare().spec
        for item in spec.layout.stages()[stage]:
            heard: list[Heard] = []
            with telling(heard.append, interval_s=0):
                images = worker(Networks(spec)).process(item, storage).counters["images"]
            assert [one.share for one in heard] == pytest.approx([one / images for one in range(1, len(heard) + 1)])
            assert len(heard) == images
            several += len(heard) > 1
    assert several > 3
