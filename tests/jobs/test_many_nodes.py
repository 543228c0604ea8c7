"""A cluster of three nodes: a worker with a GPU on each, at the same time, and the same bytes as from one process."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.jobs import three_nodes

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


def bytes_of(run: Path) -> dict[str, str]:
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def on_three_nodes(folder: Path, *words: str) -> dict[str, dict]:
    """What `tests.jobs.three_nodes` says of its workers."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.jobs.three_nodes", str(folder), *words]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def test_three_nodes_with_a_gpu_each_label_together_what_one_process_labels(tmp_path: Path) -> None:
    tiny.write_captioner(tmp_path / "captioner")
    tiny.write_photographs(tmp_path / "images", 26, broken=(6,))
    layout = three_nodes.alone(tmp_path)
    workers = on_three_nodes(tmp_path)
    assert workers.keys() == {"exemplars", "features", "captions"}
    for stage, by_node in workers.items():
        assert len(by_node) == 3, f"{stage} was worked on all nodes at once"
        assert [worker["gpus"] for worker in by_node.values()] == [["0"]] * 3, "each worker holds its node's GPU"
    found = bytes_of(tmp_path / "three")
    assert found == bytes_of(tmp_path / "alone")
    assert set(layout.finished_keys()) < found.keys()
    assert "_MANIFEST.json" in found


@pytest.mark.parametrize("stage", ["exemplars", "features", "captions"])
def test_a_node_that_is_lost_in_the_middle_of_a_stage_changes_nothing(stage: str, tmp_path: Path) -> None:
    tiny.write_captioner(tmp_path / "captioner")
    tiny.write_photographs(tmp_path / "images", 26, broken=(6,))
    three_nodes.alone(tmp_path)
    on_three_nodes(tmp_path, stage)
    found = bytes_of(tmp_path / "three")
    assert [path for path in found if path.startswith("_killed/")] == [f"_killed/{stage}"]
    del found[f"_killed/{stage}"]
    assert found == bytes_of(tmp_path / "alone")
