"""Weights: from a local file into a network, strictly, and what identifies them."""

import contextlib
import hashlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mami_core.errors import SubjectError

_SHOWN = 4  # names in a message; a wrong file differs in hundreds


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The tensors of a local `.safetensors`, `.pth` or `.pt` file, by name. Nothing is unpickled but tensors.

    A training checkpoint's `{"state_dict": …}` is opened, and the `module.` that data-parallel training puts before
    every name is taken off.

    Raises:
        SubjectError: no such file, not readable as tensors, or a pickle of something else.
    """
    file = Path(path)
    if not file.is_file():
        raise SubjectError(f"No weights at '{path}'. Expected a local .safetensors, .pth or .pt file.")
    state = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise SubjectError(f"'{file}' is not a whole .safetensors file: {error}.") from error


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SubjectError(
            f"'{file}' holds more than tensors, and unpickling it could run anything. "
            "Save `network.state_dict()` with torch.save, or better as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise SubjectError(f"'{file}' is not a whole file of weights: {error}.") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise SubjectError(f"'{file}' holds no state dict. Expected the names and tensors of network.state_dict().")
    return state


def load_weights(network: nn.Module, state: dict[str, Tensor], *, where: str) -> None:
    """Copy `state` into `network`: every name must be there, and every shape fit.

    Raises:
        SubjectError: saying which names or shapes differ.
    """
    expected = network.state_dict()
    differences = [
        *_listed("missing", [name for name in expected if name not in state]),
        *_listed("not in the network", [name for name in state if name not in expected]),
        *_listed(
            "of another shape",
            [
                f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in state and state[name].shape != tensor.shape
            ],
        ),
    ]
    if differences:
        raise SubjectError(f"The weights in '{where}' do not fit the network: {'; '.join(differences)}.")
    network.load_state_dict(state, strict=True)


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"] if names else []


def random_seed(weights: str | None) -> int | None:
    """The seed of "random:SEED", None where weights are something else.

    Raises:
        SubjectError: "random:" without a whole number.
    """
    if weights is None or not weights.startswith("random:"):
        return None
    if not re.fullmatch(r"random:\d{1,18}", weights):
        raise SubjectError(f"weights='{weights}': expected 'random:SEED' with a whole number, such as 'random:0'.")
    return int(weights.removeprefix("random:"))


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """While inside, networks draw their weights from `seed`, and afterwards all goes on as if they had not."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def weights_id(network: nn.Module) -> str:
    """16 hexadecimal digits of a SHA-256 over every name, kind, shape and value of the network's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # contiguous(): the same bytes for any memory format
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
