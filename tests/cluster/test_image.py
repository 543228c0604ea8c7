"""The Dockerfile, read as text: no Docker is needed, and none builds it here."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ray.runtime_env import RuntimeEnv

Instruction = tuple[str, str]


def parse(text: str) -> list[Instruction]:
    """(keyword, rest) of every instruction, comments dropped and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def instructions(repository: Path) -> list[Instruction]:
    return parse((repository / "cluster" / "Dockerfile").read_text())


def rest_of(keyword: str, instructions: list[Instruction]) -> list[str]:
    return [rest for name, rest in instructions if name == keyword]


def test_base_is_pinned(instructions: list[Instruction]) -> None:
    (base,) = rest_of("FROM", instructions)
    assert re.fullmatch(r"rayproject/ray:\d+\.\d+\.\d+-py\d+(@sha256:[0-9a-f]{64})?", base)


def test_nothing_runs_as_root(instructions: list[Instruction]) -> None:
    users = rest_of("USER", instructions)
    assert re.fullmatch(r"[1-9]\d*:\d+", users[-1]), "a number: Kubernetes cannot tell that a name is not root"
    last_user = max(i for i, (name, _) in enumerate(instructions) if name == "USER")
    assert all("pip" not in rest for name, rest in instructions[:last_user] if name == "RUN")


def test_dependencies_come_from_the_lock_and_from_nowhere_else(instructions: list[Instruction]) -> None:
    runs = rest_of("RUN", instructions)
    installs = [run for run in runs if "pip install" in run]
    assert len(installs) == 2
    assert "--constraint requirements.lock" in installs[0]
    assert "--no-deps" in installs[1]
    assert not [run for run in runs if re.search(r"\b(curl|wget|apt-get|git clone|conda)\b|\|\s*(ba)?sh\b", run)]
    assert not rest_of("ADD", instructions), "ADD can fetch; COPY cannot"


def test_nothing_is_fetched_when_a_job_runs(instructions: list[Instruction]) -> None:
    environment = " ".join(rest_of("ENV", instructions)).split()
    assert {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "RAY_USAGE_STATS_ENABLED=0"} <= set(environment)
    offline = [run for run in rest_of("RUN", instructions) if run.startswith("--network=none")]
    assert len(offline) == 1, "the build itself starts every job without a network"


def test_no_secret_can_be_built_in(instructions: list[Instruction]) -> None:
    assert all("secret" not in rest.lower() and "token=" not in rest.lower() for _, rest in instructions)
    assert {name.split("=")[0] for name in rest_of("ARG", instructions)} == {"TORCHVISION_MODELS", "GIT_COMMIT"}


def test_container_starts_what_the_cluster_tells_it_to(instructions: list[Instruction]) -> None:
    """KubeRay and `ray up` bring their own command; an entry point of ours would swallow it."""
    assert not rest_of("ENTRYPOINT", instructions)
    assert not rest_of("CMD", instructions)


def test_what_is_copied_is_let_into_the_build(instructions: list[Instruction], repository: Path) -> None:
    ignore = (repository / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {word for rest in rest_of("COPY", instructions) for word in rest.split()[:-1] if not word.startswith("--")}
    assert "*" in ignore
    assert copied == allowed
    assert all((repository / name).exists() for name in copied)


def test_wheel_has_what_it_needs_from_what_is_copied(instructions: list[Instruction], repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    copied = " ".join(rest_of("COPY", instructions))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [project["project"]["readme"], *project["project"]["license-files"]]
    assert all(name in copied for name in [*packages, *files])


def test_runtime_env_is_what_the_image_sets_and_fetches_nothing(
    instructions: list[Instruction], manifests: dict[str, Any]
) -> None:
    """A job on somebody else's image sees the same environment; `pip` or `conda` would download on every node."""
    runtime_env = manifests["runtime-env"]
    assert RuntimeEnv(**runtime_env).to_dict() == runtime_env  # Ray refuses fields and types that it does not know
    assert set(runtime_env) == {"env_vars"}
    environment = " ".join(rest_of("ENV", instructions)).split()
    assert {f"{name}={value}" for name, value in runtime_env["env_vars"].items()} <= set(environment)
