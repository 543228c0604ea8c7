"""What every module of a network gives in one forward pass, and whether it can be read as units.

The forward pass itself tells; the network's code need not be known. B images, C units, H × W positions, T tokens.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mami_core.errors import SubjectError

SATURATING = (nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh)
"""Operations with a highest value, which many images reach together (nn.ReLU6 is a Hardtanh)."""


@dataclass
class Observation:
    """One module in one forward pass."""

    calls: int = 0
    shape: tuple[int, ...] = ()
    """[B, C, H, W] or [B, C] once read as units; empty where it cannot be."""
    problem: str = ""
    """Why its output cannot be read as units."""
    clamp: nn.Module | None = None
    """The saturating operation that gave the output, where one did."""
    overwritten: bool = False
    """Whether something later in the network writes into the output."""

    @property
    def unreadable(self) -> str:
        """Why the module cannot be read as units; empty where it can."""
        return self.problem if self.calls else "it is never called in a forward pass"


@dataclass
class _Watch:
    """What the hooks of one survey share."""

    batch: int
    observations: dict[str, Observation] = field(default_factory=dict)
    clamped: tuple[Tensor, nn.Module] | None = None
    """The last saturated output, and what gave it."""
    passed_on: list[tuple[Tensor, int, Observation]] = field(default_factory=list)
    """Every output, how often it had been written to when its module returned, and its observation."""


_SURVEYS: weakref.WeakKeyDictionary[nn.Module, dict[str, Observation]] = weakref.WeakKeyDictionary()


def as_units(output: object, batch: int) -> Float[Tensor, "b c h w"] | Float[Tensor, "b c"] | str:
    """A module's output with its units second, or the reason why it has none.

    Inputs are squares, so maps are too: of [B, n, n, C] and [B, C, n, n] the sides tell which is which. Tokens
    [B, T, C] of a transformer are a square map, row by row, once a class token at the front is left out.
    """
    if not isinstance(output, Tensor):
        return f"it gives a {type(output).__name__}, not one tensor"
    if not output.is_floating_point() or not output.ndim or output.shape[0] != batch:
        return f"its output {tuple(output.shape)} has no row of numbers for each image"
    if output.ndim == 4:
        _, first, second, last = output.shape
        channels_last = first == second and second != last
        return output.permute(0, 3, 1, 2) if channels_last else output
    if output.ndim == 3:
        return _tokens_as_map(output)
    if output.ndim == 2:
        return output
    return f"its output {tuple(output.shape)} is neither a map [B, C, H, W] nor a vector [B, C]"


def _tokens_as_map(output: Tensor) -> Tensor | str:
    tokens = output.shape[1]
    for num_special in range(min(2, tokens)):
        side = math.isqrt(tokens - num_special)
        if side * side == tokens - num_special:
            return output[:, num_special:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return f"its {tokens} tokens are no square map, with or without a class token"


def survey(network: nn.Module, inputs: Float[Tensor, "b 3 s s"]) -> dict[str, Observation]:
    """An observation of every module but the network itself, by name, in the network's order; made once a network."""
    if network not in _SURVEYS:
        # Twice the first image: with two, what a module gives for each image differs from what it gives for all.
        _SURVEYS[network] = _survey(network, torch.cat([inputs[:1], inputs[:1]]))
    return _SURVEYS[network]


def survey_blank(network: nn.Module, input_size: int) -> dict[str, Observation]:
    """`survey` on one black image.

    Raises:
        SubjectError: the network takes no squares of `input_size` pixels.
    """
    weight = next(network.parameters(), torch.empty(0))
    blank = torch.zeros(1, 3, input_size, input_size, device=weight.device, dtype=weight.dtype)
    try:
        return survey(network, blank)
    except Exception as error:  # whatever the network's own code raises
        raise SubjectError(
            f"The network {type(network).__name__} fails on a black image of {input_size} × {input_size} pixels "
            f"({type(error).__name__}: {error}). Expected a network for images [B, 3, {input_size}, {input_size}]; "
            "another input_size may help."
        ) from error


def _survey(network: nn.Module, inputs: Tensor) -> dict[str, Observation]:
    watch = _Watch(batch=len(inputs))
    names = {module: name for name, module in network.named_modules() if name}
    watch.observations = {name: Observation() for name in names.values()}
    handles = [module.register_forward_hook(_observer(watch, name)) for module, name in names.items()]
    try:
        # Outside inference mode, because only there do tensors count the writes into them.
        with torch.inference_mode(False), torch.no_grad():
            network(inputs.clone())  # no inference tensor then, and the caller's own stays as it is
    finally:
        for handle in handles:
            handle.remove()
    for tensor, writes, observation in watch.passed_on:
        observation.overwritten = tensor._version > writes
    return watch.observations


def _observer(watch: _Watch, name: str) -> Callable[[nn.Module, tuple, object], Tensor | None]:
    def observe(module: nn.Module, _inputs: tuple, output: object) -> Tensor | None:
        seen = watch.observations[name]
        seen.calls += 1
        units = as_units(output, watch.batch)
        seen.problem, seen.shape = (units, ()) if isinstance(units, str) else ("", tuple(units.shape))
        if seen.calls > 1:
            seen.problem, seen.shape = f"it is called {seen.calls} times in one forward pass", ()
        if not isinstance(output, Tensor):
            return None
        passed = _count_writes(watch, output, seen)
        if isinstance(module, SATURATING):
            watch.clamped = (passed, module)
        if watch.clamped is not None and passed is watch.clamped[0]:
            seen.clamp = watch.clamped[1]
        return passed

    return observe


def _count_writes(watch: _Watch, output: Tensor, seen: Observation) -> Tensor:
    """The output to pass on, whose later writes are counted: a copy, or itself where it is (in) a copy already."""
    memory = output.untyped_storage().data_ptr()
    known = any(tensor.untyped_storage().data_ptr() == memory for tensor, _, _ in watch.passed_on)
    passed = output if known else output.clone()
    watch.passed_on.append((passed, passed._version, seen))
    return passed
