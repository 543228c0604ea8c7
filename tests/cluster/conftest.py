"""The files under test, read once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def manifests() -> dict[str, dict[str, Any]]:
    """Every YAML file of cluster/ by its name without the suffix."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CLUSTER.glob("*.yaml"))}
