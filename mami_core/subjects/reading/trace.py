"""Reading layers while a network runs."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mami_core.contracts import LOWEST
from mami_core.errors import SubjectError
from mami_core.subjects.names import nearest
from mami_core.subjects.reading.dictionary import Dictionary
from mami_core.subjects.reading.heads import HEADS, INSIDE, without_projection
from mami_core.subjects.reading.lenses import Lowest, Part, Plain, Seen
from mami_core.subjects.reading.recording import passes_of
from mami_core.subjects.reading.survey import Observation, Survey, survey, through
from mami_core.subjects.reading.watch import given_to, pick


class _Enough(BaseException):
    """Every layer has been read: ends a forward pass."""


class Trace(Mapping[str, Any]):
    """What the named layers of a network give, from its latest forward pass.

    ::

        with Trace(network, ["layer2", "layer3"]) as outputs:
            outputs.run(inputs)  # or network(inputs), which also computes what nobody reads
            outputs["layer3"]  # [B, C, H, W]

    One trace may stay open over many forward passes. The hooks come off at the end, whatever happens inside. The
    tokens of a transformer come as maps too, without its special ones. The first forward pass of a network runs some
    images more, to learn what its modules give (`survey`).

    Where a layer ends in an operation with a highest value (ReLU6, sigmoid), many images reach that value together
    and none is strongest. Such a layer gives what goes into that operation instead, negative numbers included.

    A layer's values are those that the layer gave, also where the network later writes into the same memory.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        *,
        before_clamp: bool = True,
        dictionaries: Mapping[str, Dictionary] | None = None,
        slices: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Read `layers`, names as in `network.named_modules()`.

        `name#2` is a module's second call, `name.heads` the heads of an attention module, `name:lowest` the other end
        of each unit.

        Args:
            network: Called as `network(inputs)` with `inputs` [B, 3, H, W] inside the trace.
            layers: Layers' names.
            before_clamp: False to read saturating layers as they are.
            dictionaries: Whose latents are layers too, by their names.
            slices: First unit and end, of layers of which only some units are read.

        Raises:
            SubjectError: a name that the network does not have.
        """
        self._names = canonical_names(network)
        self._dictionaries, self._slices = dictionaries or {}, slices or {}
        for layer in layers:
            base = self._base(layer).partition("#")[0]
            if base not in self._names and base.removesuffix(HEADS) not in self._names:
                raise SubjectError(f"The network has no layer '{layer}'.{nearest(layer, self._names)}")
        self._network = network
        self._layers = tuple(dict.fromkeys(layers))
        self._before_clamp = before_clamp
        self._open = ExitStack()
        self._hooked = False
        self._may_end = False
        self._calls: dict[str, int] = {}
        self._outputs: dict[str, Any] = {}
        self._clamp_inputs: dict[str, Tensor] = {}

    def __enter__(self) -> "Trace":
        """Start reading."""
        self._open = ExitStack()
        self._hooked = False
        self._hook(self._network.register_forward_pre_hook(self._begin))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take every hook off. The latest outputs stay readable."""
        self._open.close()
        self._clamp_inputs.clear()

    def run(self, inputs: Tensor) -> None:
        """A forward pass that ends as soon as every layer has been read.

        Where a network does not bear that (it handles whatever is raised inside, or gives something else the next
        time), it runs to its end. Which it is, one image tells, once. On a GPU, passes of one shape are recorded, and
        what is read then stays only until the next.
        """
        self._hook_layers(inputs)
        what = frozenset(self._layers), self._before_clamp
        passes = None if self._dictionaries or self._slices else passes_of(self._network, what, inputs)
        if passes is None:
            self._run(inputs)
        else:
            self._outputs = passes.run(inputs, self._read_now)

    def _read_now(self, inputs: Tensor) -> Mapping[str, Any]:
        self._run(inputs)
        return self._outputs

    def _run(self, inputs: Tensor) -> None:
        bases = tuple(dict.fromkeys(map(self._base, self._layers)))
        if _bears_an_early_end(self._network, bases, inputs[:1], before_clamp=self._before_clamp):
            self._run_until_read(inputs)
        else:
            self._network(inputs)
        if absent := [layer for layer in self._layers if layer not in self._outputs]:
            raise SubjectError(
                f"Layer '{absent[0]}' gave nothing for some images: what the network runs depends on what they show. "
                "Name layers that it always runs."
            )

    def _run_until_read(self, inputs: Tensor) -> None:
        self._may_end = True
        try:
            self._network(inputs)
        except _Enough:
            pass
        finally:
            self._may_end = False

    def __getitem__(self, layer: str) -> Any:
        """What `layer` gave in the latest pass, a tensor [B, C, H, W] or [B, C]; of very many latents a `Seen`."""
        if layer not in self._layers:
            raise SubjectError(f"Layer '{layer}' is not traced. Traced: {', '.join(self._layers)}.")
        if layer not in self._outputs:
            raise SubjectError(f"Layer '{layer}' has given nothing yet: call the network inside the trace.")
        return self._outputs[layer]

    def __iter__(self) -> Iterator[str]:
        """The traced layers that have been read."""
        return (layer for layer in self._layers if layer in self._outputs)

    def __len__(self) -> int:
        """How many layers have been read."""
        return sum(layer in self._outputs for layer in self._layers)

    def _base(self, layer: str) -> str:
        """The layer of the network whose values are read."""
        name = layer.removesuffix(LOWEST)
        return self._dictionaries[name].layer if name in self._dictionaries else name

    def _hook(self, handle: RemovableHandle) -> None:
        self._open.callback(handle.remove)

    def _hook_layers(self, inputs: Tensor) -> None:
        if not self._hooked:
            self._hooked = True  # before the survey, which calls the network too
            self._read_layers(survey(self._network, tuple(inputs.shape[1:])))

    def _begin(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._hook_layers(inputs[0])
        self._outputs.clear()
        self._calls.clear()

    def _read_layers(self, found: Survey) -> None:
        modules = dict(self._network.named_modules())
        observations = {layer: self._observed(found, layer) for layer in self._layers}
        if self._before_clamp:
            clamps = {seen.clamp for seen in observations.values() if seen.clamp is not None}
            self._open.enter_context(_out_of_place(modules[clamp] for clamp in clamps))
            for clamp in clamps:
                self._hook(modules[clamp].register_forward_pre_hook(self._clamp_keeper(clamp)))
        by_place: dict[tuple[str, str], list[tuple[str, Observation]]] = {}
        for layer, seen in observations.items():
            by_place.setdefault((seen.place.module, seen.place.side), []).append((layer, seen))
        for (name, side), layers in by_place.items():
            read, module = self._reader(f"{name} {side}", layers), modules[name]
            if side == "input":
                hook = module.register_forward_pre_hook(_of_inputs(read), with_kwargs=True)
            else:
                hook = module.register_forward_hook(_of_heads(read) if side == INSIDE else read, with_kwargs=True)
            self._hook(hook)

    def _observed(self, found: Survey, layer: str) -> Observation:
        name = layer.removesuffix(LOWEST)
        seen = _observed(found, self._names, self._base(layer))
        if name in self._dictionaries:
            seen = through(seen, self._dictionaries[name])
        if layer.endswith(LOWEST):
            seen = through(seen, Lowest(seen.lens or Plain(seen.shape[1])))
        if layer in self._slices:
            first, end = self._slices[layer]
            seen = through(seen, Part(seen.lens or Plain(seen.shape[1]), first, end - first))
        return seen

    def _clamp_keeper(self, clamp: str) -> Callable[[nn.Module, tuple], None]:
        def keep(_module: nn.Module, inputs: tuple) -> None:
            self._clamp_inputs[clamp] = inputs[0]

        return keep

    def _reader(self, name: str, layers: list[tuple[str, Observation]]) -> Callable[..., None]:
        def read(_module: nn.Module, _inputs: tuple, _named: dict, output: Any) -> None:
            call = self._calls[name] = self._calls.get(name, -1) + 1
            for layer, seen in layers:
                if call >= seen.calls:
                    raise SubjectError(
                        f"Layer '{layer}' was called {call + 1} times in one forward pass, {seen.calls} times in the "
                        "first; read the modules around it."
                    )
                if call == seen.place.call:
                    self._outputs[layer] = self._units(layer, seen, output)
            if self._may_end and len(self._outputs) == len(self._layers):
                raise _Enough

        return read

    def _units(self, layer: str, seen: Observation, output: Any) -> "Tensor | Seen":
        if self._before_clamp and seen.clamp is not None:
            given = self._clamp_inputs[seen.clamp]
        else:
            given = pick(output, seen.place.path if seen.place.side == "output" else ())
            given = given.clone() if seen.overwritten else given
        assert seen.layout is not None
        try:
            units = seen.layout(given)
            return units if seen.lens is None else Seen.through(seen.lens, units)
        except ValueError as error:
            raise SubjectError(f"Layer '{layer}' cannot be read: {error}.") from error


_BEARS_AN_EARLY_END: weakref.WeakKeyDictionary[nn.Module, dict[tuple, bool]] = weakref.WeakKeyDictionary()


def _bears_an_early_end(network: nn.Module, layers: tuple[str, ...], image: Tensor, *, before_clamp: bool) -> bool:
    known, key = _BEARS_AN_EARLY_END.setdefault(network, {}), (layers, before_clamp)
    if key not in known:
        with Trace(network, layers, before_clamp=before_clamp) as outputs:
            network(image)
            before = dict(outputs)
            try:
                outputs._run_until_read(image)
                early = dict(outputs)
                network(image)
                known[key] = all(_equal(before[each], early[each], outputs[each]) for each in layers)
            except Exception:  # whatever the network's own code raises
                known[key] = False
    return known[key]


def _equal(first: Tensor, *others: Tensor) -> bool:
    return all(torch.equal(first, other) for other in others)


def canonical_names(network: nn.Module) -> dict[str, str]:
    """Every name of every module, those of modules that stand at several places too: each with the module's first."""
    first = {module: name for name, module in network.named_modules()}
    return {name: first[module] for name, module in network.named_modules(remove_duplicate=False) if name}


def _observed(found: Survey, names: dict[str, str], layer: str) -> Observation:
    name, call = layer.partition("#")[::2]
    heads = name not in names
    name = names[name.removesuffix(HEADS) if heads else name] + (HEADS if heads else "")
    canonical = f"{name}#{call}" if call else name
    if canonical not in found.observations:
        what = "has no heads that can be told apart" if heads else "is not called so often"
        raise SubjectError(f"Layer '{layer}' is not there: '{name.removesuffix(HEADS)}' {what}.")
    seen = found.observations[canonical]
    if seen.unreadable:
        raise SubjectError(f"Layer '{layer}' cannot be read: {seen.unreadable}.")
    return seen


def _of_inputs(read: Callable[..., None]) -> Callable[[nn.Module, tuple, dict], None]:
    return lambda module, inputs, named: read(module, inputs, named, given_to(inputs, named))


def _of_heads(read: Callable[..., None]) -> Callable[..., None]:
    def hook(module: nn.MultiheadAttention, inputs: tuple, named: dict, _output: object) -> None:
        read(module, inputs, named, without_projection(module, inputs, named))

    return hook


@contextmanager
def _out_of_place(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While inside, these modules leave their inputs as they are."""
    changed = [module for module in modules if getattr(module, "inplace", False)]
    _set_in_place(changed, False)
    try:
        yield
    finally:
        _set_in_place(changed, True)


def _set_in_place(modules: Iterable[nn.Module], value: bool) -> None:
    for module in modules:
        setattr(module, "inplace", value)  # noqa: B010 - nn.Module declares no such attribute
