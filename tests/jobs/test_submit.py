"""The labelling job as `ray job submit --working-dir .` runs it: on the head of a cluster, in a process of its own."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from jobs.label import LabelJob
from jobs.storage import storage_for
from tests.jobs.submitting import TOKEN, Cluster, head, small_job, wait
from tests.jobs.tiny_label import arguments, run_folder, work_here

pytestmark = [pytest.mark.xdist_group("ray too"), pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with head(TOKEN) as found:
        yield found


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    return small_job(tmp_path)


def test_a_submitted_job_says_what_is_wrong_and_fails(cluster: Cluster, job: LabelJob) -> None:
    ended = cluster.submit("label", arguments(job, layers="layer7"), "--submission-id", "wrong")
    assert ended.returncode == 1, "what Ray gives for every job that fails"
    assert "Error: torchvision:resnet18 has no layer 'layer7'. Nearest: " in ended.stdout
    logs = cluster.ray("logs", "wrong").stdout
    assert "has no layer 'layer7'" in logs
    assert "exit code 2" in cluster.ray("status", "wrong").stdout + ended.stdout + ended.stderr
    assert not Path(str(job.output)).exists()


def test_without_the_token_nothing_is_submitted(cluster: Cluster) -> None:
    another, none = {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}
    said = {"InvalidAuthToken|[Ii]nvalid authentication token": another, "[Mm]issing authentication token": none}
    for sentence, wrong in said.items():
        refused = cluster.ray("submit", "--submission-id", "uninvited", "--", "true", **wrong)
        assert refused.returncode != 0
        assert re.search(sentence, refused.stdout + refused.stderr), refused.stdout + refused.stderr
    assert "uninvited" not in cluster.ray("list").stdout


@pytest.mark.slow
def test_a_submitted_job_labels_two_subjects_and_its_log_says_so(
    cluster: Cluster, job: LabelJob, tmp_path: Path
) -> None:
    job = of_two_subjects(job, tmp_path / "subjects.yaml")
    ended = cluster.submit("label", arguments(job), "--submission-id", "right")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for logged in (ended.stdout, cluster.ray("logs", "right").stdout):
        assert "exemplars: 6/6 items" in logged
        assert re.search(r"\d+ neurons labelled, \d+ dead \(active on no image\), 2 rows dropped", logged)
        assert "2 × image: cannot be decoded" in logged
        assert f'pandas.read_parquet("{job.output}/labels")' in logged
    labels = pd.read_parquet(f"{job.output}/labels")
    assert labels["subject"].value_counts().to_dict() == {"torchvision:resnet18": 128, "torchvision:resnet34": 64}
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    assert run_folder(storage_for(str(job.output))) == run_folder(alone)


def of_two_subjects(job: LabelJob, file: Path) -> LabelJob:
    """The job's own, and another of which one layer is labelled."""
    settings = {"weights": job.weights, "input_size": job.input_size}
    one = {"name": job.subject[0], "layers": list(job.layers)} | settings
    file.write_text(yaml.safe_dump([one, {"name": "torchvision:resnet34", "layers": ["conv1"]} | settings]))
    return dataclasses.replace(job, subject=(), weights=None, input_size=None, layers=(), subjects_file=str(file))


@pytest.mark.slow
def test_a_stopped_job_goes_on_when_it_is_submitted_again(cluster: Cluster, job: LabelJob, tmp_path: Path) -> None:
    storage = storage_for(str(job.output))
    assert cluster.submit("label", arguments(job), "--submission-id", "first", "--no-wait").returncode == 0
    wait(lambda: bool(storage.find("_work/exemplars")))
    assert "Stopped by SIGTERM. Run the same command again: it goes on from here." in cluster.stop("first")
    assert not storage.exists("_MANIFEST.json")
    again = cluster.submit("label", arguments(job), "--submission-id", "second")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "items done before" in again.stdout
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    assert run_folder(storage) == run_folder(alone)
