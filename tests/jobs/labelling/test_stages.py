"""What a stage's worker keeps in memory."""

import dataclasses
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.label import LabelJob
from jobs.labelling import stages
from jobs.labelling.specs import SubjectSpec
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
    load, lean = SubjectSpec.load, stages.lean

    def watched_load(spec: SubjectSpec) -> Subject:
        assert not [earlier for earlier in held if earlier() is not None], "the one before is gone"
        return load(spec)

    def watched_lean(subject: Subject, layers: Sequence[str], **options: Any) -> Subject:
        made = lean(subject, layers, **options)
        held.append(weakref.ref(made.network))
        return made

    prepared, storage = job.prepare(), storage_for(str(job.output))
    monkeypatch.setattr(SubjectSpec, "load", watched_load)
    monkeypatch.setattr(stages, "lean", watched_lean)
    for stage, worker_class in {"exemplars": stages.SearchImages, "features": stages.EncodeImages}.items():
        worker = worker_class(prepared.spec)
        items = prepared.spec.layout.stages()[stage]
        assert len(items) == 6
        for item in items:
            objects = worker.process(item, storage).objects
            data = objects if isinstance(objects, bytes) else objects[item.key]
            assert data == storage.read(item.key)
        assert len(held) == 2, f"{stage}: items come subject by subject"
        held.clear()
