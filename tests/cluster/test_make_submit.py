"""`make submit` shows and runs one `ray job submit`, with the runtime environment of cluster/ and the commit."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
ARGUMENTS = ["--subject", "torchvision:resnet50", "--layers", "layer4.*", "--output", "s3://a/b c"]


def commit() -> str:
    run = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=40", "--dirty=+"]
    return subprocess.run(run, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    """What `make submit` showed, and what the program that stands for Ray was given."""
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\nfor argument in "$@"; do printf "%s\\0" "$argument"; done > {tmp_path}/given\n')
    ray.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--assume-old=.venv/.demo", "submit", f"RAY={ray}", f"ARGS={shlex.join(ARGUMENTS)}"]
    done = subprocess.run(
        [*command, "FLAGS=--no-wait"], cwd=REPOSITORY, capture_output=True, text=True, check=True, env=environment
    )
    return {"shown": done.stdout.strip(), "given": (tmp_path / "given").read_text().split("\0")[:-1], "ray": str(ray)}


def test_what_is_shown_is_what_is_run(made: dict[str, Any]) -> None:
    assert shlex.split(made["shown"]) == [made["ray"], *made["given"]]


def test_a_job_is_submitted_with_the_arguments_as_they_are(made: dict[str, Any]) -> None:
    given = made["given"]
    assert given[:3] == ["job", "submit", "--runtime-env-json"]
    assert given[4:] == ["--no-wait", "--working-dir", ".", "--", "python", "-m", "jobs.label", *ARGUMENTS]


def test_the_runtime_environment_is_that_of_the_manifests_and_says_the_commit(made: dict[str, Any]) -> None:
    written = yaml.safe_load((REPOSITORY / "cluster" / "runtime-env.yaml").read_text())
    given = json.loads(made["given"][3])
    assert given["env_vars"].pop("MAMI_GIT_COMMIT") == commit()
    assert given == written
