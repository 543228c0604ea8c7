"""The KubeRay manifests: fields that exist, sizes that add up, one cluster described three times alike."""

import copy
import re
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
from ray.scripts.scripts import start

from tests.cluster.kuberay_schema import RESOURCE_SCHEMAS

Manifest = dict[str, Any]
FILES = sorted(RESOURCE_SCHEMAS)
UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    """Kubernetes' "500m" or "16Gi" as a number."""
    match = re.fullmatch(r"([0-9.]+)(m|[KMGT]i)?", text)
    assert match, f"not a quantity that these manifests use: {text!r}"
    return float(match[1]) * UNITS[match[2] or ""]


def cluster_spec(file: str, manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    if file == "raycronjob":
        spec = spec["jobTemplate"]
    return spec if file == "raycluster" else spec["rayClusterSpec"]


def job_spec(file: str, manifest: Manifest) -> Manifest:
    return manifest["spec"]["jobTemplate"] if file == "raycronjob" else manifest["spec"]


def groups(spec: Manifest) -> list[Manifest]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.fixture
def spec(manifests: dict[str, Manifest]) -> Manifest:
    return cluster_spec("raycluster", manifests["raycluster"])


@pytest.mark.parametrize("file", FILES)
def test_manifest_has_only_fields_that_kuberay_knows(file: str, manifests: dict[str, Manifest]) -> None:
    jsonschema.validate(manifests[file], RESOURCE_SCHEMAS[file], cls=jsonschema.Draft202012Validator)


def misspell(job: Manifest) -> None:
    job["backoffLimt"] = job.pop("backoffLimit")


def unquote(job: Manifest) -> None:
    job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def clean_up_twice(job: Manifest) -> None:
    job["deletionStrategy"] = {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]}


def keep_the_cluster(job: Manifest) -> None:
    del job["shutdownAfterJobFinishes"]


def submit_from_a_sidecar(job: Manifest) -> None:
    job["submissionMode"] = "SidecarMode"


def use_a_running_cluster(job: Manifest) -> None:
    del job["rayClusterSpec"]
    job["clusterSelector"] = {"ray.io/cluster": "mami"}


def forget_the_version(job: Manifest) -> None:
    del job["rayClusterSpec"]["rayVersion"]


def invent_a_mode(job: Manifest) -> None:
    job["rayClusterSpec"]["authOptions"]["mode"] = "password"


def restart_workers(job: Manifest) -> None:
    job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["restartPolicy"] = "Always"


def run_as_root(job: Manifest) -> None:
    job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"] = 0


MISTAKES: list[Callable[[Manifest], None]] = [
    misspell,
    unquote,
    clean_up_twice,
    keep_the_cluster,
    submit_from_a_sidecar,
    use_a_running_cluster,
    forget_the_version,
    invent_a_mode,
    restart_workers,
    run_as_root,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("file", ["rayjob", "raycronjob"])
def test_schema_refuses_what_the_operator_would(
    file: str, mistake: Callable[[Manifest], None], manifests: dict[str, Manifest]
) -> None:
    manifest = copy.deepcopy(manifests[file])
    mistake(job_spec(file, manifest))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, RESOURCE_SCHEMAS[file], cls=jsonschema.Draft202012Validator)


def test_the_three_files_describe_one_cluster(manifests: dict[str, Manifest]) -> None:
    specs = [cluster_spec(file, manifests[file]) for file in FILES]
    assert specs[1:] == specs[:-1]


def test_the_nightly_job_is_the_job_with_a_dated_output(manifests: dict[str, Manifest]) -> None:
    once, nightly = (dict(job_spec(file, manifests[file])) for file in ("rayjob", "raycronjob"))
    command, dated = once.pop("entrypoint"), nightly.pop("entrypoint")
    assert once == nightly
    today = "$(date -u +%F)"
    assert dated.count(today) == 1
    assert re.sub(r"--output \S+", "", command) == re.sub(r"--output \S+", "", dated.replace(today, "2026-01-31"))


def test_every_try_of_a_night_ends_on_the_same_day(manifests: dict[str, Manifest]) -> None:
    """A RayCronJob starts the next night whether or not the last has ended, and a resumed try needs the same date."""
    spec = manifests["raycronjob"]["spec"]
    job = spec["jobTemplate"]
    minute, hour, *every_day = spec["schedule"].split()
    assert every_day == ["*"] * 3
    assert ZoneInfo(spec["timeZone"]).key == "Etc/UTC"  # as `date -u` in the entry point
    longest = (1 + job["backoffLimit"]) * (job["activeDeadlineSeconds"] + job["ttlSecondsAfterFinished"])
    assert int(hour) * 3600 + int(minute) * 60 + longest < 24 * 3600


def test_start_parameters_are_options_of_ray_start(spec: Manifest) -> None:
    options = {name.removeprefix("--") for option in start.params for name in option.opts}
    for group in groups(spec):
        assert set(group["rayStartParams"]) <= options
        # KubeRay refuses a group that gives resources in two places, and sets these itself.
        assert not {"resources", "address", "block", "num-gpus"} & set(group["rayStartParams"])


def test_every_pod_spills_to_a_bounded_volume_and_keeps_its_store_in_memory(spec: Manifest) -> None:
    for group in groups(spec):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["medium"] == "Memory"
        spill = mounts[group["rayStartParams"]["object-spilling-directory"]]
        assert "medium" not in spill
        # A pod over its ephemeral storage is evicted: logs and the runtime environment need room beside the spill.
        ephemeral = quantity(container["resources"]["limits"]["ephemeral-storage"])
        assert quantity(spill["sizeLimit"]) + 8 * 2**30 <= ephemeral


def test_memory_of_every_pod_adds_up(spec: Manifest) -> None:
    """/dev/shm counts against the container's limit, so heap and object store share it."""
    for group in groups(spec):
        pod = group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        store = int(group["rayStartParams"]["object-store-memory"])
        (shared,) = (volume["emptyDir"] for volume in pod["volumes"] if "medium" in volume["emptyDir"])
        assert store < quantity(shared["sizeLimit"])
        promised = int(group["rayStartParams"]["memory"]) + quantity(shared["sizeLimit"])
        assert promised + 2 * 2**30 <= quantity(limits["memory"])  # 2 GiB for Ray's own processes
        assert pod["containers"][0]["resources"]["requests"] == limits


def test_gpus_come_and_go_and_a_cpu_stays(spec: Manifest) -> None:
    has_gpu = {
        group["groupName"]: "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in spec["workerGroupSpecs"]
    }
    assert has_gpu == {"decode": False, "gpu": True}
    smallest = {group["groupName"]: group["minReplicas"] for group in spec["workerGroupSpecs"]}
    assert smallest == {"decode": 1, "gpu": 0}
    assert all(group["minReplicas"] < group["maxReplicas"] for group in spec["workerGroupSpecs"])
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert (spec["enableInTreeAutoscaling"], spec["autoscalerOptions"]["version"]) == (True, "v2")


def test_every_worker_that_the_job_asks_for_fits_a_gpu_pod(manifests: dict[str, Manifest]) -> None:
    """With no GPU there when it starts, the job must ask by number, and an autoscaler adds only pods that fit."""
    job = manifests["rayjob"]["spec"]
    asked = asked_by(job)
    (gpu,) = (group for group in job["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == "gpu")
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert asked["workers"] == gpu["maxReplicas"]
    assert asked["gpus"] == int(limits["nvidia.com/gpu"])
    assert asked["cpus"] < int(limits["cpu"])


def test_decode_pods_are_as_many_as_the_workers_ask_for_and_pixels_fit_the_store(
    manifests: dict[str, Manifest],
) -> None:
    job = manifests["rayjob"]["spec"]
    asked, pods = asked_by(job), {group["groupName"]: group for group in job["rayClusterSpec"]["workerGroupSpecs"]}
    cpus = int(pods["decode"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert asked["workers"] * asked["decode-cpus"] == pods["decode"]["maxReplicas"] * cpus
    # Two tasks' worth for each CPU, at most 64 images each, for a subject of 224² and an encoder of 256².
    pixels = 2 * asked["decode-cpus"] * 64 * 3 * (224**2 + 256**2)
    assert 2 * pixels < int(pods["gpu"]["rayStartParams"]["object-store-memory"])


def asked_by(job: Manifest) -> dict[str, int]:
    """The numbers in the job's command."""
    words = re.findall(r"--(?:num-)?(workers|gpus|cpus|decode-cpus) (\d+)", job["entrypoint"])
    return {name: int(value) for name, value in words}


def test_pods_take_their_identity_from_the_account_and_the_cluster_asks_for_a_token(
    spec: Manifest, manifests: dict[str, Manifest]
) -> None:
    account = manifests["service-account"]
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    assert {group["template"]["spec"]["serviceAccountName"] for group in groups(spec)} == {account["metadata"]["name"]}
    assert spec["authOptions"] == {"mode": "token"}


def test_the_gate_for_nightly_jobs_is_open(manifests: dict[str, Manifest]) -> None:
    gates = {gate["name"]: gate["enabled"] for gate in manifests["kuberay-values"]["featureGates"]}
    assert gates["RayCronJob"] is True
