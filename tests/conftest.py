"""What every test shares: the seed, hypothesis profiles, real data where this machine has it."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

# Tests are many small operations in several processes: more threads than one only wait for each other.
torch.set_num_threads(1)

# Ray and the HTTP clients inherit these; a test must never reach beyond this machine.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

hypothesis.settings.register_profile("default", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, weights and descriptions; absent outside the project's own machines."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not on this machine ({SHARED_DATA.name} folder beside the project)")
    return SHARED_DATA
