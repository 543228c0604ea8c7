"""What every module of a network gives in a forward pass, whether that can be read as units, and how.

Forward passes themselves tell; the network's code need not be known. B images, C units, H × W positions, T tokens.
"""

import hashlib
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from mami_core.errors import SubjectError
from mami_core.subjects.precision import products
from mami_core.subjects.reading.activations import activations_in
from mami_core.subjects.reading.acts import note_acts
from mami_core.subjects.reading.failures import fails, short
from mami_core.subjects.reading.finder import Finder
from mami_core.subjects.reading.heads import HEADS, num_heads, place_of_heads
from mami_core.subjects.reading.layout import Layout
from mami_core.subjects.reading.lenses import Heads, Lens
from mami_core.subjects.reading.orders import DRAWS, answers_noted, fine_images
from mami_core.subjects.reading.passes import Alone, beside_noted, note_again, note_black
from mami_core.subjects.reading.probes import BLACK, NOISE, probe_images
from mami_core.subjects.reading.steady import rounding_of, unsteady
from mami_core.subjects.reading.watch import Passage, Place, watch
from mami_core.subjects.weights import weights_id

_MOST_CALLS = 64
"""Calls of one module that are told apart."""


@dataclass(slots=True)
class Observation:
    """One module, or one call of a module that is called several times, as a layer."""

    place: Place
    calls: int = 0
    """Of the module, in one forward pass."""
    layout: Layout | None = None
    shape: tuple[int, ...] = ()
    """[1, C, H, W] or [1, C] once read as units; empty where it cannot be."""
    problem: str = ""
    """Why its output cannot be read as units."""
    clamp: str | None = None
    """The saturating module that gave the output, where one did."""
    activation: Place | None = None
    """What an activation module gave, where that is the output."""
    negative: bool = True
    """Whether it gives numbers below zero: what is behind a ReLU never does, whether or not that is a module."""
    overwritten: bool = False
    """Whether something later in the network writes into the output."""
    lens: Lens | None = None
    """What is read off its own units, where it is not these themselves."""
    begun: int = 0
    """When it was called, among all that passes."""
    order: int = 0
    """When it gave its output."""

    @property
    def unreadable(self) -> str:
        """Why the module cannot be read as units; empty where it can."""
        return self.problem if self.calls else "it is never called in a forward pass"

    def holds(self, other: "Observation") -> bool:
        """Whether the other is called inside: a part of it, or a module that it shares with others."""
        return self.begun <= other.begun and other.order < self.order

    @property
    def is_activation(self) -> bool:
        """Whether it is the activation module itself, and no other that gives the same."""
        return self.activation == self.place

    @property
    def is_map(self) -> bool:
        """Whether its units have several places in the image."""
        return not self.unreadable and len(self.shape) == 4 and max(self.shape[2:]) > 1


@dataclass(slots=True)
class Survey:
    """All of a network's modules, for inputs of one shape."""

    observations: dict[str, Observation] = field(default_factory=dict)
    """By layer, in the network's order; a module that is called several times is followed by its calls, `name#2`."""
    passages: dict[Place, Passage] = field(default_factory=dict)
    """What the passes showed; with the layouts, it is not remembered (`remembering`)."""
    layouts: dict[Place, Layout | str] = field(default_factory=dict)
    unstable: str = ""
    """Why what the network gives for an image is not always the same, and where that is first seen; empty if it is."""

    def readable(self) -> dict[str, Observation]:
        """The layers that can be read."""
        return {name: seen for name, seen in self.observations.items() if not seen.unreadable}


_SURVEYS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Survey]] = weakref.WeakKeyDictionary()


def survey(network: nn.Module, shape: tuple[int, ...]) -> Survey:
    """What the network's modules give for inputs of `shape`, [3, H, W] for images; found once a network and shape.

    Raises:
        SubjectError: the network takes no such inputs, or not one at a time.
    """
    kept = _SURVEYS.setdefault(network, {})
    if shape not in kept:
        kept[shape] = _remembered(network, shape)
    return kept[shape]


_MEMORY: ContextVar[dict[str, Survey] | None] = ContextVar("surveys that are remembered", default=None)


@contextmanager
def remembering(memory: dict[str, Survey]) -> Iterator[None]:
    """Inside, in this thread, surveys are looked up in `memory` first, and put there: a dozen passes are saved.

    What is remembered is plain and small, so that other processes can be given it. A network is known by its class,
    its modules and its weights, and one that differs is surveyed. Two that differ only in their code's own numbers are
    not told apart: give each name that networks are loaded by a memory of its own.
    """
    token = _MEMORY.set(memory)
    try:
        yield
    finally:
        _MEMORY.reset(token)


def _remembered(network: nn.Module, shape: tuple[int, ...]) -> Survey:
    memory = _MEMORY.get()
    if memory is None:
        return _survey(network, shape)
    modules = re.sub(r" at 0x[0-9a-f]+", "", repr(network))  # a function's address is another in every process
    kind = f"{type(network).__module__}.{type(network).__qualname__} {input_dtype(network)} {shape} {modules}"
    key = f"{hashlib.sha256(kind.encode()).hexdigest()[:16]} {weights_id(network)}"
    if key not in memory:
        found = _survey(network, shape)
        memory[key] = Survey(observations=found.observations, unstable=found.unstable)
    return memory[key]


def adopt(copy: nn.Module, network: nn.Module) -> None:
    """Let a copy of a network, with modules of the same names that give the same, be read as the network is."""
    _SURVEYS[copy] = dict(_SURVEYS.get(network, {}))


def input_dtype(network: nn.Module) -> torch.dtype:
    """The precision in which the network computes: of its first parameters, single where it has none."""
    tensors = [*network.parameters(), *network.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def device_of(network: nn.Module) -> torch.device:
    """Where the network is."""
    return next((tensor.device for tensor in [*network.parameters(), *network.buffers()]), torch.device("cpu"))


@products("float32")  # TF32, a GPU's default, would look as if an image depended on the others of its batch
def _survey(network: nn.Module, shape: tuple[int, ...]) -> Survey:
    probes = probe_images(shape).to(device_of(network), input_dtype(network))
    alone = Alone(activations_in(network))
    try:
        calls = watch(network, probes[NOISE, None].clone(), alone.look, alone.pass_on, begin=alone.begin)
        alone.count_writes()
        passages = alone.passages
        watch(network, probes[NOISE, None].clone(), note_again(passages))
        watch(network, probes[BLACK, None].clone(), note_black(passages), inference=True)
    except Exception as error:  # whatever the network's own code raises
        raise SubjectError(fails(network, shape, probes, error)) from error
    try:
        watch(network, probes.clone(), beside_noted(passages, len(probes), dict(network.named_modules())))
    except Exception as error:
        raise SubjectError(
            f"The network {type(network).__name__} takes one image but not {len(probes)} at once "
            f"({type(error).__name__}: {short(error)}). Expected one that takes batches of any size; an exported "
            "program needs a dynamic batch dimension."
        ) from error
    if len(shape) != 3:  # no image goes in: where positions are shows in the image that comes out
        note_acts(network, probes[NOISE], passages)
    found = Survey(passages=passages)
    rounding = rounding_of(alone.dtypes)
    finder = _read(found, network, shape, rounding, alone.same)
    for half in (0, 1):
        if len(shape) != 3 or not (finder.reordered if half else finder.unclear):
            break
        for draw in range(DRAWS):
            images = fine_images(shape, DRAWS * half + draw).to(probes)
            watch(network, images, answers_noted(passages, len(images), half))
        finder = _read(found, network, shape, rounding, alone.same)
    _observe(found, network, calls, alone)
    _observe_heads(found, network, calls)
    return found


# --- what they tell -----------------------------------------------------------------------------------------------


def _read(
    found: Survey, network: nn.Module, shape: tuple[int, ...], rounding: float, same: dict[Place, Place]
) -> Finder:
    """The layout of every place, and whether the network is steady; what found them."""
    modules = dict(network.named_modules())
    aspect = shape[1] / shape[2] if len(shape) == 3 else 1.0
    finder = Finder(aspect, {}, set(), {}, shape)
    for place, passage in found.passages.items():
        problem = unsteady(passage, rounding)
        module = modules[place.module] if place.side == "output" and not place.path else None
        wanted = place.side == "output" or len(passage.shape) == 3  # inputs only tell of sequences
        inner = found.layouts.get(same[place]) if place in same else None
        if isinstance(inner, Layout):
            found.layouts[place] = problem or inner
        else:
            found.layouts[place] = problem or (finder.find(passage, module) if wanted else "not looked at")
        if problem and not found.unstable and place.side == "output":
            found.unstable = f"{place.module or 'the network'}: {problem}"
    return finder


def _observe(found: Survey, network: nn.Module, calls: dict[str, int], alone: Alone) -> None:
    order = {place: number for number, place in enumerate(found.passages)}
    outputs: dict[tuple[str, int], list[Place]] = {}
    for place in found.passages:
        if place.side == "output":
            outputs.setdefault((place.module, place.call), []).append(place)
    for name, module in network.named_modules():
        if not name or "parametrizations" in name.split("."):
            continue  # what makes a weight is no layer
        count = calls.get(name, -1) + 1
        first = _observation(found, alone, name, module, 0, count, outputs.get((name, 0), []), order)
        found.observations[name] = first
        if count > 1:
            first.problem = f"it is called {count} times in one forward pass; name one call: {name}#1 … {name}#{count}"
            first.shape, first.layout = (), None
            for call in range(min(count, _MOST_CALLS)):
                places = outputs.get((name, call), [])
                found.observations[f"{name}#{call + 1}"] = _observation(
                    found, alone, name, module, call, count, places, order
                )


def _observe_heads(found: Survey, network: nn.Module, calls: dict[str, int]) -> None:
    """Adds a layer after every attention module whose heads can be told apart."""
    observations = {}
    for name, seen in found.observations.items():
        observations[name] = seen
        if "#" in name or calls.get(name) != 0:
            continue
        where = place_of_heads(name, network, found.passages, found.layouts)
        if where is None or f"{name}{HEADS}" in found.observations:
            continue
        place, layout = where
        heads = Observation(place, 1, begun=seen.begun, order=seen.order, overwritten=True)
        if isinstance(layout, Layout):
            heads.layout, heads.lens = layout, Heads(num_heads(network.get_submodule(name)))
            heads.shape = (1, heads.lens.num_units, *_as_units(found, place, layout)[2:])
        else:
            heads.problem = layout
        observations[f"{name}{HEADS}"] = heads
    found.observations = observations


def _as_units(found: Survey, place: Place, layout: Layout) -> tuple[int, ...]:
    given = found.passages.get(place) or found.passages[Place(place.module, 0, "output", (0,))]
    return tuple(layout(torch.empty(given.shape, device="meta")).shape)


def through(seen: Observation, lens: Lens) -> Observation:
    """The same place through a lens."""
    return replace(seen, lens=lens, shape=(1, lens.num_units, *seen.shape[2:]))


def _observation(
    found: Survey,
    alone: Alone,
    name: str,
    module: nn.Module,
    call: int,
    count: int,
    places: list[Place],
    order: dict[Place, int],
) -> Observation:
    if isinstance(module, nn.MultiheadAttention):
        places = [place for place in places if place.path != (1,)]  # who attends to whom is no unit
    readable = [place for place in places if isinstance(found.layouts[place], Layout)]
    place = readable[0] if readable else places[0] if places else Place(name, call, "output")
    seen = Observation(place, count, begun=alone.begun.get((name, call), 0), order=order.get(place, 0))
    if len(readable) == 1:
        layout = found.layouts[place]
        assert isinstance(layout, Layout)
        seen.layout = layout
        seen.shape = tuple(layout(torch.empty(found.passages[place].shape, device="meta")).shape)
    elif readable:
        seen.problem = f"it gives {len(readable)} tensors of units, not one; name the modules inside it"
    elif places:
        seen.problem = str(found.layouts[place])
    else:
        seen.problem = "it gives no tensor of numbers"
    clamp = alone.clamps.get(place)
    seen.clamp = clamp.module if clamp else None
    seen.activation = alone.activations.get(place)
    seen.negative = place not in found.passages or bool((found.passages[place].sketch < 0).any())
    seen.overwritten = bool(place.path) or place in alone.overwritten
    return seen
