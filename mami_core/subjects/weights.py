"""Weights: from a local file into a network, strictly, and what identifies them."""

import contextlib
import hashlib
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mami_core.errors import SubjectError

logger = logging.getLogger(__name__)

_SHOWN = 4  # names in a message; a wrong file differs in hundreds


def read_state_dict(path: str) -> dict[str, Tensor]:
    """The tensors of a local `.safetensors`, `.pth` or `.pt` file, by name. Nothing is unpickled but tensors.

    What a file is shows in its first bytes, whatever its name. A training checkpoint's dictionary within (such as
    `{"state_dict": …}` or `{"model": …}`) is opened.

    Raises:
        SubjectError: no such file, not readable as tensors, or a pickle of something else.
    """
    file = Path(path)
    if not file.is_file():
        raise SubjectError(f"No weights at '{path}'. Expected a local .safetensors, .pth or .pt file.")
    with file.open("rb") as opened:
        head = opened.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise SubjectError(f"'{file}' is a Git-LFS pointer, not the weights: fetch them with `git lfs pull`.")
    is_safetensors = head[8:9] == b"{" and not head.startswith(b"PK")
    return _read_safetensors(file) if is_safetensors or file.suffix == ".safetensors" else _read_torch(file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise SubjectError(f"'{file}' is not a whole .safetensors file: {error}.") from error


def _read_torch(file: Path) -> dict[str, Tensor]:
    if _is_scripted(file):
        raise SubjectError(
            f"'{file}' is a TorchScript archive: code and weights together. Save `network.state_dict()` of the network "
            "it was made from; torch.jit.load(FILE).state_dict() has the same tensors."
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SubjectError(
            f"'{file}' holds more than tensors, and unpickling it could run anything. "
            "Save `network.state_dict()` with torch.save, or better as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise SubjectError(f"'{file}' is not a whole file of weights: {error}.") from error
    found = _state_within(state)
    if not found:
        raise SubjectError(f"'{file}' holds no state dict. Expected the names and tensors of network.state_dict().")
    return found


def _is_scripted(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


_WITHIN = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "network", "params")
"""Where training checkpoints keep a network's tensors."""


def _state_within(state: object) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one inside a checkpoint; empty where there is none."""
    if not isinstance(state, dict):
        return {}
    for key in _WITHIN:
        if isinstance(state.get(key), dict) and (found := _state_within(state[key])):
            return found
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    others = [name for name in state if name not in tensors and not str(name).endswith("_extra_state")]
    return {} if others else tensors


def load_weights(network: nn.Module, state: dict[str, Tensor], *, where: str) -> None:
    """Copy `state` into `network`: every name must be there, and every shape fit.

    What torch itself forgives is forgiven (counters of batch norms that old files lack), tensors that the network uses
    under two names are taken from either, and prefixes that training put before every name are taken off where all
    names then fit; the log says which.

    Raises:
        SubjectError: saying which names or shapes differ.
    """
    expected = network.state_dict()
    state = _with_tied(network, _without_prefixes(state, set(expected), where))
    misshapen = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if isinstance(tensor, Tensor) and name in state and state[name].shape != tensor.shape
    ]
    fitting = {name: tensor for name, tensor in state.items() if name not in {each.split(" ")[0] for each in misshapen}}
    told = network.load_state_dict(fitting, strict=False)
    missing = [name for name in told.missing_keys if name not in state and not name.endswith("_extra_state")]
    differences = [
        *_listed("missing", missing),
        *_listed("not in the network", list(told.unexpected_keys)),
        *_listed("of another shape", misshapen),
    ]
    if differences:
        raise SubjectError(f"The weights in '{where}' do not fit the network: {'; '.join(differences)}.")


_OF_AVERAGES = "n_averaged"
"""What an averaged model counts, beside the network's own names."""


def _without_prefixes(state: dict[str, Tensor], expected: set[str], where: str) -> dict[str, Tensor]:
    """The state with what stands before every name taken off, if the names then are the network's."""
    best, removed = state, ""
    found = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items() if name != _OF_AVERAGES}
    while True:
        if _unknown(found, expected) < _unknown(best, expected):
            best, removed = found, _what_was_removed(state, found)
        firsts = {name.partition(".")[0] for name in found}
        if len(firsts) != 1 or not all("." in name for name in found):
            break
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    if removed and not _unknown(best, expected):
        logger.info("%s: %s taken off the names of the weights", where, removed)
        return best
    return state


def _unknown(state: dict[str, Tensor], expected: set[str]) -> int:
    return sum(name not in expected for name in state)


def _what_was_removed(state: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    before, after = next(name for name in state if name != _OF_AVERAGES), next(iter(found))
    return f"'{before.removesuffix(after) or _OF_AVERAGES}'"


def _with_tied(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with tensors of two names under both, where it has them under one (safetensors keeps one)."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    tied = {
        name: state[alias]
        for same in names.values()
        for alias in same
        if alias in state
        for name in same
        if name not in state
    }
    return state | tied


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
    """16 hexadecimal digits of a SHA-256 over every name, kind, shape and value of the network's state.

    Of what is no tensor in it (a module's extra state) nothing counts, unless tensors are in it (quantised weights).
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        for tensor in _tensors_of(value):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            # contiguous(): the same bytes for any memory format
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _tensors_of(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield from _plain(value) if value.is_quantized else (value,)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors_of(each)


def _plain(quantised: Tensor) -> Iterator[Tensor]:
    """Whole numbers, and what they stand for."""
    yield quantised.int_repr()
    yield quantised.dequantize()
