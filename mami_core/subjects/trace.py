"""Reading layers while a network runs."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mami_core.errors import SubjectError
from mami_core.subjects.names import nearest
from mami_core.subjects.survey import Observation, as_units, survey


class _Enough(BaseException):
    """Every layer has been read: ends a forward pass."""


class Trace(Mapping[str, Tensor]):
    """What the named layers of a network give, from its latest forward pass.

    ::

        with Trace(network, ["layer2", "layer3"]) as outputs:
            outputs.run(inputs)  # or network(inputs), which also computes what nobody reads
            outputs["layer3"]  # [B, C, H, W]

    One trace may stay open over many forward passes. The hooks come off at the end, whatever happens inside. The
    tokens of a transformer come as maps too (`survey.as_units`). The first forward pass of a network runs one image
    more, to learn what its modules give.

    Where a layer ends in an operation with a highest value (ReLU6, sigmoid), many images reach that value together
    and none is strongest. Such a layer gives what goes into that operation instead, negative numbers included.

    A layer's values are those that the layer gave, also where the network later writes into the same memory.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], *, before_clamp: bool = True) -> None:
        """Read `layers`, names as in `network.named_modules()`.

        Args:
            network: Called as `network(inputs)` with `inputs` [B, 3, S, S] inside the trace.
            layers: Modules' names.
            before_clamp: False to read saturating layers as they are.

        Raises:
            SubjectError: a name that the network does not have.
        """
        modules = dict(network.named_modules())
        for layer in layers:
            if not layer or layer not in modules:
                raise SubjectError(f"The network has no layer '{layer}'.{nearest(layer, modules)}")
        self._network = network
        self._modules = {layer: modules[layer] for layer in layers}
        self._before_clamp = before_clamp
        self._open = ExitStack()
        self._hooked = False
        self._batch = 0
        self._may_end = False
        self._outputs: dict[str, Tensor] = {}
        self._clamp_inputs: dict[nn.Module, Tensor] = {}

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
        time), it runs to its end. Which it is, one image tells, once.
        """
        self._hook_layers(inputs)
        if not _bears_an_early_end(self._network, tuple(self._modules), inputs[:1], before_clamp=self._before_clamp):
            self._network(inputs)
            return
        self._run_until_read(inputs)

    def _run_until_read(self, inputs: Tensor) -> None:
        self._may_end = True
        try:
            self._network(inputs)
        except _Enough:
            pass
        finally:
            self._may_end = False

    def __getitem__(self, layer: str) -> Tensor:
        """What `layer` gave in the latest forward pass, [B, C, H, W] or [B, C]."""
        if layer not in self._modules:
            raise SubjectError(f"Layer '{layer}' is not traced. Traced: {', '.join(self._modules)}.")
        if layer not in self._outputs:
            raise SubjectError(f"Layer '{layer}' has given nothing yet: call the network inside the trace.")
        return self._outputs[layer]

    def __iter__(self) -> Iterator[str]:
        """The traced layers."""
        return iter(self._modules)

    def __len__(self) -> int:
        """How many layers are traced."""
        return len(self._modules)

    def _hook(self, handle: RemovableHandle) -> None:
        self._open.callback(handle.remove)

    def _hook_layers(self, inputs: Tensor) -> None:
        if not self._hooked:
            self._hooked = True  # before the survey, which calls the network too
            self._read_layers(survey(self._network, inputs))

    def _begin(self, _network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._hook_layers(inputs[0])
        self._outputs.clear()
        self._batch = len(inputs[0])

    def _read_layers(self, observations: dict[str, Observation]) -> None:
        for layer in self._modules:
            if observations[layer].unreadable:
                raise SubjectError(f"Layer '{layer}' cannot be read: {observations[layer].unreadable}.")
        seen = (observations[layer].clamp for layer in self._modules) if self._before_clamp else ()
        clamps = {clamp for clamp in seen if clamp is not None}
        self._open.enter_context(_out_of_place(clamps))
        for clamp in clamps:
            self._hook(clamp.register_forward_pre_hook(self._keep_clamp_input))
        for layer, module in self._modules.items():
            self._hook(module.register_forward_hook(self._reader(layer, observations[layer])))

    def _keep_clamp_input(self, clamp: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._clamp_inputs[clamp] = inputs[0]

    def _reader(self, layer: str, seen: Observation) -> Callable[[nn.Module, tuple, Tensor], None]:
        clamp = seen.clamp if self._before_clamp else None

        def read(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            if layer in self._outputs:
                raise SubjectError(f"Layer '{layer}' was called twice in one forward pass; read the modules around it.")
            if clamp is not None:
                output = self._clamp_inputs[clamp]
            elif seen.overwritten:
                output = output.clone()
            units = as_units(output, self._batch)
            if isinstance(units, str):
                raise SubjectError(f"Layer '{layer}' cannot be read: {units}.")
            self._outputs[layer] = units
            if self._may_end and len(self._outputs) == len(self._modules):
                raise _Enough

        return read


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
