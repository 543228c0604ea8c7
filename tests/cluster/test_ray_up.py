"""The `ray up` file: Ray's own schema, Ray's own preparation of it, and the machines it asks a simulated EC2 for."""

import copy
import importlib.resources
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

Config = dict[str, Any]
PROFILES = ("mami-head", "mami-worker")


@pytest.fixture
def config(manifests: dict[str, Config]) -> Config:
    return copy.deepcopy(manifests["ray-up"])


@pytest.fixture(scope="module")
def schema() -> Config:
    return json.loads((importlib.resources.files("ray") / "autoscaler" / "ray-schema.json").read_text())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A laptop's home: Ray's token is there, and the cluster's SSH key is made there. No credentials of anybody's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("made by `ray get-auth-token --generate`")
    return tmp_path


@pytest.fixture
def ec2(home: Path, config: Config) -> Iterator[Any]:
    with mock_aws():
        iam = boto3.client("iam")
        for profile in PROFILES:
            iam.create_instance_profile(InstanceProfileName=profile)
        yield boto3.client("ec2", region_name=config["provider"]["region"])


def test_file_is_valid_against_the_schema_that_ships_with_ray(config: Config, schema: Config) -> None:
    jsonschema.validate(config, schema)


@pytest.mark.parametrize("where", [("idle_timeout",), ("docker", "img"), ("available_node_types", "gpu", "spot")])
def test_schema_refuses_a_field_that_ray_does_not_know(where: tuple[str, ...], config: Config, schema: Config) -> None:
    *path, name = where
    inner = config
    for step in path:
        inner = inner[step]
    inner[name] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, schema)


def test_nothing_is_installed_when_a_machine_starts(config: Config, home: Path) -> None:
    """Ray fills what is left out with its own commands, which fetch packages; the image has them already."""
    prepared = prepare_config(config)
    validate_config(prepared)
    commands = [*prepared["setup_commands"], *prepared["head_setup_commands"], *prepared["worker_setup_commands"]]
    for node_type in prepared["available_node_types"].values():
        commands += node_type.get("worker_setup_commands", [])
    assert commands == []


def test_start_commands_parse_and_choose_object_store_and_spilling(config: Config) -> None:
    for role, expected in (("head", 2 * 2**30), ("worker", 8 * 2**30)):
        stop, command = config[f"{role}_start_ray_commands"]
        assert stop == "ray stop"
        words = shlex.split(command.split(";")[1])
        assert words[:2] == ["ray", "start"]
        options = start.make_context("ray start", words[2:]).params
        assert options["object_store_memory"] == expected
        assert options["head"] == (role == "head")
        spill = options["object_spilling_directory"]
        assert any(option.endswith(f":{spill}") for option in config["docker"]["run_options"])
        # Through the tunnel of `ray dashboard`, never from the network.
        assert options["dashboard_host"] in ("127.0.0.1", "localhost")


def test_nodes_carry_the_token_from_outside_the_project(config: Config) -> None:
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_ec2_is_asked_for_an_on_demand_head_and_spot_workers_with_profiles(config: Config, ec2: Any) -> None:
    """Ray's provider for AWS against a simulated EC2: what it would launch, and under which identity."""
    settled = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(settled["provider"], settled["cluster_name"])
    for name, node_type in settled["available_node_types"].items():
        provider.create_node(dict(node_type["node_config"]), {"ray-user-node-type": name}, 1)
    instances = [i for reservation in ec2.describe_instances()["Reservations"] for i in reservation["Instances"]]
    markets = {
        name: kind["node_config"].get("InstanceMarketOptions") for name, kind in config["available_node_types"].items()
    }
    assert markets == {"head": None, "decode": {"MarketType": "spot"}, "gpu": {"MarketType": "spot"}}
    launched = {}
    for instance in instances:
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        profile = instance["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        launched[tags["ray-user-node-type"]] = (instance.get("InstanceLifecycle", "on demand"), profile)
    assert launched == {
        "head": ("on demand", "mami-head"),
        "decode": ("spot", "mami-worker"),
        "gpu": ("spot", "mami-worker"),
    }


def test_cluster_has_the_pools_of_the_kubernetes_one(config: Config, manifests: dict[str, Config]) -> None:
    pods = {group["groupName"]: group for group in manifests["raycluster"]["spec"]["workerGroupSpecs"]}
    assert set(config["available_node_types"]) == {config["head_node_type"], *pods}
    for name, group in pods.items():
        machines = config["available_node_types"][name]
        assert (machines["min_workers"], machines["max_workers"]) == (group["minReplicas"], group["maxReplicas"])
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert machines["resources"]["CPU"] == int(limits["cpu"])
        assert machines["resources"].get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
