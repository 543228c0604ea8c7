"""What every test shares: the seed, hypothesis profiles, real data where this machine has it."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import jaxtyping
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


def _checked_when_first_made(decorate: Callable[..., Any]) -> Callable[..., Any]:
    """Jaxtyping's decorator, for a function inside another only the first time that this is made.

    Each time takes 2 ms for the checks to be compiled, and a hook of a network's modules is made thousands of times.
    One that is made again is not checked; functions that stand by themselves always are.
    """
    seen: set[CodeType] = set()

    def decorate_once(*arguments: Any, **options: Any) -> Any:
        if arguments:
            return decorate(*arguments, **options)

        def check(made: Any) -> Any:
            code = getattr(made, "__code__", None)
            if code in seen:
                return made
            if code is not None and "<locals>" in made.__qualname__:
                seen.add(code)
            return decorate(made, **options)

        return check

    return decorate_once


jaxtyping.jaxtyped = _checked_when_first_made(jaxtyping.jaxtyped)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of one `xdist_group` in one worker, with one Ray and one of each fixture that takes long.

    xdist 3.8 means to, by an attribute that pytest 9.2 no longer reads; where it succeeds, nothing is left to do.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group is not None and "@" not in item.nodeid.rpartition("]")[2]:
            item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")


@pytest.fixture(autouse=True, scope="module")
def _what_was_imported_is_no_garbage() -> None:
    """Otherwise each search for garbage, as a worker makes between stages, takes half a second to look at it all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _at_its_end_the_process_looks_for_what_leaks() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _published_networks_are_surveyed_once() -> Iterator[None]:
    """A survey is a dozen forward passes, and tests load the same few networks again and again."""
    from mami_core.subjects.reading import survey
    from mami_core.subjects.weights import weights_id

    kept: dict[tuple, survey.Survey] = {}

    def surveyed(network: torch.nn.Module, shape: tuple[int, ...]) -> survey.Survey:
        if type(network).__module__.partition(".")[0] not in ("torchvision", "efficientnet_lite_pytorch"):
            return really(network, shape)  # what a test made may be like another and behave otherwise
        key = (repr(network), weights_id(network), survey.input_dtype(network), shape)
        if key not in kept:
            kept[key] = really(network, shape)
        return kept[key]

    really = survey._survey
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "_survey", surveyed)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, weights and descriptions; absent outside the project's own machines."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not on this machine ({SHARED_DATA.name} folder beside the project)")
    return SHARED_DATA
