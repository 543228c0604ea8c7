"""One set of versions: pyproject.toml, requirements.lock, the image's tag, its base, and every manifest."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray

IMAGE = re.compile(r"[\w.-]+/mami:(?P<mami>[\w.]+)-ray(?P<ray>[\w.]+)-py(?P<python>\d+)")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def locked(repository: Path) -> dict[str, str]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.fixture(scope="module")
def texts(repository: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (repository / "cluster").iterdir() if path.is_file()}


def images(value: Any) -> list[str]:
    """Every `image:` of a YAML document, however deep."""
    if isinstance(value, dict):
        own = [found for key, found in value.items() if key == "image" and isinstance(found, str)]
        return own + [found for inner in value.values() for found in images(inner)]
    return [found for inner in value for found in images(inner)] if isinstance(value, list) else []


def test_every_container_runs_the_one_image(manifests: dict[str, Any], texts: dict[str, str]) -> None:
    used = {name: set(images(manifest)) for name, manifest in manifests.items()}
    assert {name for name, found in used.items() if found} == {"raycluster", "rayjob", "raycronjob", "ray-up"}
    (image,) = set().union(*used.values())
    assert IMAGE.fullmatch(image)
    assert f"-t {image} " in texts["Dockerfile"]


def test_the_tag_names_the_versions_of_the_project(
    texts: dict[str, str], project: dict[str, Any], locked: dict[str, str]
) -> None:
    python = project["tool"]["pyrefly"]["python-version"].replace(".", "")
    tags = {match.groups() for text in texts.values() for match in IMAGE.finditer(text)}
    assert tags == {(project["project"]["version"], locked["ray"], python)}


def test_the_base_image_is_ray_and_python_of_the_lock(
    texts: dict[str, str], project: dict[str, Any], locked: dict[str, str]
) -> None:
    python = project["tool"]["pyrefly"]["python-version"].replace(".", "")
    assert f"FROM rayproject/ray:{locked['ray']}-py{python}\n" in texts["Dockerfile"]


def test_manifests_tell_kuberay_the_ray_of_the_lock(texts: dict[str, str], locked: dict[str, str]) -> None:
    told = {name: re.findall(r'rayVersion: "([^"]+)"', text) for name, text in texts.items()}
    expected = [locked["ray"]]
    assert {name: found for name, found in told.items() if found} == {
        "raycluster.yaml": expected,
        "rayjob.yaml": expected,
        "raycronjob.yaml": expected,
    }


def test_the_ray_that_runs_these_tests_is_the_locked_one(locked: dict[str, str]) -> None:
    """A laptop submits to a cluster of its own Ray version; another may speak another protocol."""
    assert ray.__version__ == locked["ray"]


def test_the_lock_admits_the_python_of_the_image(project: dict[str, Any]) -> None:
    oldest = re.fullmatch(r">=3\.(\d+)", project["project"]["requires-python"])
    assert oldest
    image_minor = int(project["tool"]["pyrefly"]["python-version"].split(".")[1])
    assert int(oldest[1]) <= image_minor <= sys.version_info.minor
