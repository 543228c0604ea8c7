"""What passes the modules of a network in a forward pass, in the order in which it passes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mami_core.subjects.reading.probes import NOISE, OTHER, STRIPED

_ALONG = {1: 4096, 2: 64, 3: 16}
"""Places along each axis, by the number of axes, that are compared between passes."""

_SAME = 0.05
"""How far an image's rows may be from what they are alone, as a share of the highest number."""

_MAP_PLACES = 64
"""Places along each axis of a map that are looked at for stripes: enough to tell halves and eighths."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor that passes a module: the module's name, its call (from 0), the side, and the way into a structure."""

    module: str
    call: int
    side: str
    """"input" or "output"."""
    path: tuple[int | str, ...] = ()


@dataclass(slots=True)
class Passage:
    """What one place showed in the passes of a survey."""

    shape: tuple[int, ...]
    """For one image."""
    sketch: Float[Tensor, " numbers"]
    again: Tensor | None = None
    """Its sketch when the same image was shown again."""
    black_shape: tuple[int, ...] = ()
    """For a black image."""
    batch_axis: int | None = None
    """The axis along which the images lie."""
    batch_shape: tuple[int, ...] = ()
    beside: Tensor | None = None
    """The sketch of the same image when others were shown beside it."""
    responses: dict[int, Float[Tensor, "probes positions"]] = field(default_factory=dict)
    """By axis: how far each place along it is, averaged, from what it is for `NOISE`; the first row is for `OTHER`, the
    others for the stripes."""
    answers: dict[int, list[Float[Tensor, "images positions"]]] = field(default_factory=dict)
    """By axis: how strongly each place answers to other noise, and to each of `orders.fine_stripes`; one or two
    halves."""
    fold: int = 0
    """Rows that each image has along the batch's axis, such as windows, where these are tokens; 0 where it has one."""

    def fold_away(self, tensor: Tensor) -> Tensor:
        """A tensor that passed here with the tokens of an image in one row."""
        return tensor.unflatten(0, (-1, self.fold)).flatten(1, 2) if self.fold else tensor


def tensors_in(value: object, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], Tensor]]:
    """The floating-point tensors of a module's output with the way to each: of a tuple, a list or a mapping too."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.layout == torch.strided and not value.is_nested:
            yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from tensors_in(each, (*path, key))
    elif isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from tensors_in(each, (*path, index))


def pick(value: Any, path: tuple[int | str, ...]) -> Tensor:
    """The tensor at the end of a way that `tensors_in` gave."""
    for step in path:
        value = value[step]
    return value


def given_to(arguments: tuple, named: dict) -> object:
    """The first tensor that a module is called with, by position or by name, or whatever comes first."""
    values = [*arguments, *named.values()]
    return next((each for each in values if isinstance(each, Tensor)), values[0] if values else None)


Look = Callable[[Place, Tensor], None]
Replace = Callable[[str, nn.Module, Any], Any]


def watch(
    network: nn.Module,
    inputs: Tensor,
    look: Look,
    replace: Replace | None = None,
    *,
    begin: Callable[[str, int], None] = lambda name, call: None,
    gradients: bool = False,
    inference: bool = False,
) -> dict[str, int]:
    """Run `network` once and show `look` every tensor that passes a module, the network's own output last.

    `replace` is shown every output then, and gives what to pass on; `begin` hears of each call before anything passes.
    Gives every called module's last call, from 0.
    """
    calls: dict[str, int] = {}

    def before(name: str) -> Callable:
        def hook(_module: nn.Module, arguments: tuple, named: dict) -> None:
            calls[name] = calls.get(name, -1) + 1
            begin(name, calls[name])
            value = given_to(arguments, named)
            if isinstance(value, Tensor) and value.is_floating_point():
                look(Place(name, calls[name], "input"), value)

        return hook

    def after(name: str) -> Callable:
        def hook(module: nn.Module, _arguments: tuple, output: Any) -> Any:
            for path, tensor in tensors_in(output):
                look(Place(name, calls[name], "output", path), tensor)
            return replace(name, module, output) if replace else None

        return hook

    with ExitStack() as hooks, torch.inference_mode(inference), torch.set_grad_enabled(gradients):
        for name, module in network.named_modules():
            hooks.callback(module.register_forward_pre_hook(before(name), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after(name)).remove)
        network(inputs)
    return calls


def sketch(tensor: Tensor) -> Float[Tensor, " numbers"]:
    """Some of its numbers, evenly spread along each axis."""
    axes = [axis for axis, length in enumerate(tensor.shape) if length > 1]
    some = tensor.detach()
    for axis in axes:
        some = _spread(some, axis, _ALONG.get(len(axes), 8))
    return some.flatten().to("cpu", torch.float32, copy=True)  # the network may write over the tensor


def _spread(tensor: Tensor, axis: int, count: int) -> Tensor:
    step = max(1, tensor.shape[axis] // count)
    return tensor if step == 1 else tensor[(slice(None),) * axis + (slice(None, None, step),)]


def places_along(length: int, num_axes: int) -> Int64[Tensor, " places"]:
    """Which places along an axis the responses of a tensor are for; `num_axes` without the batch's."""
    return torch.arange(length)[:: max(1, length // _MAP_PLACES) if num_axes > 2 else 1]


def _note_fold(passage: Passage, tensor: Tensor, num_probes: int) -> bool:
    """Whether an image has several rows along the first axis, all its own one after the other; written down then."""
    rows, *others = passage.shape
    if len(others) != 2 or rows == 1 or tuple(tensor.shape) != (num_probes * rows, *others):
        return False
    alone, beside = passage.sketch, sketch(tensor[NOISE * rows : (NOISE + 1) * rows])
    if alone.shape != beside.shape or bool(((alone - beside).abs() > _SAME * alone.abs().max()).any()):
        return False
    passage.batch_axis, passage.fold, passage.beside = 0, rows, beside
    return True


def spread_along(one: Tensor) -> Tensor:
    """What one image gave, at the `places_along` each axis."""
    if one.ndim > 2:
        for axis in range(one.ndim):
            one = _spread(one, axis, _MAP_PLACES)
    return one


def note_beside(passage: Passage, tensor: Tensor, num_probes: int, *, stripes: bool) -> None:
    """Write down what a batch of all probes showed; how it responds to stripes only if asked to."""
    shape = tuple(tensor.shape)
    passage.batch_shape = shape
    if len(shape) != len(passage.shape):
        return
    if _note_fold(passage, tensor, num_probes):
        return
    differing = [axis for axis, (one, all_) in enumerate(zip(passage.shape, shape, strict=True)) if one != all_]
    if len(differing) != 1 or (passage.shape[differing[0]], shape[differing[0]]) != (1, num_probes):
        return
    (axis,) = differing
    passage.batch_axis = axis
    passage.beside = sketch(tensor.select(axis, NOISE))
    if not stripes or num_probes < STRIPED.stop:
        return
    rows = tensor.detach().movedim(axis, 0)
    num_axes = len(shape) - 1
    rows = torch.stack([spread_along(row).float() for row in rows])
    change = (rows[OTHER:] - rows[NOISE]).abs()  # [probes, *axes without the batch]
    for other in range(num_axes):
        others = [each + 1 for each in range(num_axes) if each != other]
        along = change.mean(others) if others else change
        passage.responses[other + (other >= axis)] = along.cpu()  # a new tensor: nothing writes over it
