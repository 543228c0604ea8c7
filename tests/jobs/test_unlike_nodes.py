"""Clusters of unlike nodes, of few CPUs, and of training workers: the same bytes as from one process or node."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import train
from mami_core.learning import checkpoint
from tests import tiny
from tests.jobs import mixed_nodes, train_nodes
from tests.jobs.test_many_nodes import REPOSITORY, bytes_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


def said_by(*words: str) -> Any:
    """What a script that is a cluster of its own says of its workers: a module of `tests.jobs`, and its arguments."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", f"tests.jobs.{words[0]}", *words[1:]]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, a captioner, and what one process makes of them."""
    tiny.write_captioner(tmp_path / "captioner")
    tiny.write_photographs(tmp_path / "images", mixed_nodes.COUNT, broken=mixed_nodes.BROKEN)
    mixed_nodes.alone(tmp_path)
    return tmp_path


def test_nodes_without_a_gpu_decode_for_the_one_that_has_it(folder: Path) -> None:
    nodes = said_by("mixed_nodes", "mixed", str(folder))
    decoding = {"worked": ["gpu"], "decoded": ["cpu", "cpu"]}
    assert nodes == {"exemplars": decoding, "features": decoding, "captions": {"worked": ["gpu"]}}
    assert bytes_of(folder / "mixed") == bytes_of(folder / "alone")


def test_a_node_that_is_lost_while_it_decodes_changes_nothing(folder: Path) -> None:
    nodes = said_by("mixed_nodes", "lost", str(folder))
    assert nodes["lost"] == {}, "it was lost in the middle"
    assert nodes["exemplars"] == {"worked": ["gpu"], "decoded": ["cpu", "cpu"]}
    assert len(nodes["features"]["decoded"]) == 1
    assert bytes_of(folder / "mixed") == bytes_of(folder / "alone")


def test_on_two_cpus_decoding_tasks_and_workers_leave_each_other_room(folder: Path) -> None:
    said_by("mixed_nodes", "few", str(folder))
    assert bytes_of(folder / "few") == bytes_of(folder / "alone")


def test_workers_that_claim_every_cpu_of_a_cluster_do_not_wait_for_ever(folder: Path) -> None:
    said_by("mixed_nodes", "every", str(folder))
    assert bytes_of(folder / "every") == bytes_of(folder / "alone")


def test_three_nodes_train_the_captioner_that_one_node_trains(tmp_path: Path) -> None:
    """With a worker on each node, and with all three on one: the same messages between the same ranks."""
    nodes = {kind: said_by("train_nodes", kind, str(tmp_path)) for kind in ("three", "one")}
    assert {kind: len(set(places)) for kind, places in nodes.items()} == {"three": 3, "one": 1}
    assert all(len(places) == train_nodes.NUM_WORKERS for places in nodes.values())
    three, one = (bytes_of(tmp_path / kind) for kind in ("three", "one"))
    for name in ("_MANIFEST.json", *checkpoint.FILES, train.SCORES, train.SUMMARY):
        assert three[name] == one[name], name
