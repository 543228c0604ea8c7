"""The layers to read when nobody names any, and those that a few words stand for."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from torch import nn

from mami_core.errors import SubjectError
from mami_core.subjects.activated import behind_activation, plainest
from mami_core.subjects.reading.heads import num_heads
from mami_core.subjects.reading.lenses import Heads
from mami_core.subjects.reading.survey import Observation, Survey

_POOLINGS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)
"""What only changes the size of maps."""

_LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
"""What is no block, whatever it has inside: its padding, its activation."""


def default_layers(network: nn.Module, found: Survey, stages: tuple[str, ...]) -> tuple[str, ...]:
    """The ends of the stages, or the activated units of the last block inside those that end linearly.

    Stages with attention inside are kept: of a transformer, what a block adds up is what people look at.
    """
    if _is_transformer(network, found):
        return stages
    return tuple(
        name if any(map(num_heads, _module(network, name).modules())) else behind_activation(network, found, name)
        for name in stages
    )


def unactivated(network: nn.Module, found: Survey, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `blocks` that give negative numbers and in which, of several layers, no activation is seen.

    An activation that is called as a function is not seen, so that it may end such a block all the same. None of a
    transformer's, and none with attention inside: those are linear by nature.
    """
    if _is_transformer(network, found):
        return ()
    return tuple(name for name in blocks if _is_unactivated(network, found, name))


def _is_unactivated(network: nn.Module, found: Survey, block: str) -> bool:
    whole = found.observations[block]
    if not whole.negative or whole.activation or any(map(num_heads, _module(network, block).modules())):
        return False
    inside = [seen for seen in found.observations.values() if whole.holds(seen)]
    if any(seen.is_activation and (seen.unreadable or seen.is_map) for seen in inside):  # others are in gates
        return False
    modules = [network.get_submodule(seen.place.module) for seen in inside if not seen.lens]
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in modules) > 1


def stage_ends(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """Every block of a transformer, or the last on each grid of tokens; of other networks the ends of the stages.

    A stage ends where the maps' size or number changes.

    Raises:
        SubjectError: what the network gives is not always the same, no layer has maps, or a transformer's blocks cannot
            be read.
    """
    require_steady(network, found)
    if _is_transformer(network, found):
        blocks, grids = every_block(network, found), _token_grids(found)
        return blocks if grids == 1 else _last_of_each([(name, found.observations[name].shape) for name in blocks])
    ends = _ends_along(network, found)
    if not ends:
        todo = "Name the layers to read." if found.readable() else "Let it pass what is to be read through modules."
        raise SubjectError(f"The network {type(network).__name__} has no layer with maps.{_why_not(found)} {todo}")
    if len(ends) == 1 and _is_patch_embedding(_module(network, ends[0])):
        raise SubjectError(
            f"Of the network {type(network).__name__} only the patch embedding '{ends[0]}' could be read by default."
            f"{_why_not(found)} Name the layers to read."
        )
    return ends


def require_steady(network: nn.Module, found: Survey) -> None:
    """Refuse a network that does not give the same for an image each time and in every batch.

    Raises:
        SubjectError: naming where it is first seen.
    """
    if found.unstable:
        raise SubjectError(
            f"The network {type(network).__name__} cannot be read right. {found.unstable}. Mend the network, or name "
            "layers before that."
        )


def every_block(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """The building blocks that repeat, such as a ResNet's bottlenecks or a transformer's layers; never one in another.

    A block is a module with parts of its own whose class stands several times among its siblings or its siblings'
    parts, and which is no convolution, linear layer or norm. Each call of one that is called several times is a block;
    those that cannot be read are left out.
    """
    kinds = Counter(type(module) for _, module in network.named_modules() if any(True for _ in module.children()))
    return tuple(sorted(_blocks(network, "", found, kinds), key=lambda block: found.observations[block].order))


def _blocks(module: nn.Module, name: str, found: Survey, kinds: Counter[type]) -> Iterator[str]:
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        parts = list(child.children())
        if not parts or path not in found.observations:
            continue
        holds_composite = any(any(True for _ in part.children()) for part in parts)
        several = holds_composite or _num_map_sizes(path, found.observations) > 2
        stages = type(child) in (nn.Sequential, nn.ModuleList) and several
        repeats = kinds[type(child)] > 1 and not stages and not isinstance(child, _LAYERS)
        seen = found.observations[path]
        calls = [path, *(f"{path}#{call + 1}" for call in range(seen.calls))]
        readable = [name for name in calls if name in found.observations and len(found.observations[name].shape) == 4]
        if repeats and readable:
            yield from readable
        else:
            yield from _blocks(child, path, found, kinds)


def activated_units(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """Of every block the units behind its last activation, and the activations outside of blocks that give maps."""
    blocks, readable = every_block(network, found), found.readable()
    outside = (
        plainest(found, seen)
        for seen in readable.values()
        if seen.is_activation and seen.is_map and not any(readable[block].holds(seen) for block in blocks)
    )
    return (*(behind_activation(network, found, block) for block in blocks), *outside)


def hidden_units(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """The hidden units of the two-layer perceptrons in blocks: what goes into the second linear layer."""
    by_order = sorted((seen.order, name) for name, seen in found.readable().items() if not seen.lens)
    linears = [(order, name) for order, name in by_order if isinstance(_module(network, name), nn.Linear)]
    chosen = []
    for (_, first), (end, second) in pairwise(linears):
        wide, narrow = _module(network, first), _module(network, second)
        assert isinstance(wide, nn.Linear)
        assert isinstance(narrow, nn.Linear)
        same = first.rpartition(".")[0].rpartition(".")[0] == second.rpartition(".")[0].rpartition(".")[0] or (
            first.rpartition(".")[0] == second.rpartition(".")[0]
        )
        if not same or wide.out_features != narrow.in_features or wide.out_features <= narrow.out_features:
            continue
        width = wide.out_features
        between = [
            name
            for order, name in by_order
            if found.observations[first].order <= order < end
            and found.observations[name].shape[1] == width
            and found.observations[name].shape[2:] == found.observations[first].shape[2:]
        ]
        chosen.append(between[-1])
    return tuple(chosen)


def attention_heads(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """The heads of every attention module whose heads can be told apart."""
    return tuple(name for name, seen in found.readable().items() if isinstance(seen.lens, Heads))


def scores(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """The last vector that the network gives: class scores or an embedding."""
    vectors = [(seen.order, name) for name, seen in found.readable().items() if len(seen.shape) == 2]
    return (max(vectors)[1],) if vectors else ()


def _module(network: nn.Module, layer: str) -> nn.Module:
    return network.get_submodule(layer.partition("#")[0])


def _is_transformer(network: nn.Module, found: Survey) -> bool:
    return _token_grids(found) > 0 and bool(every_block(network, found))


def _token_grids(found: Survey) -> int:
    """On how many grids tokens lie, where tokens are most of what is readable; else 0."""
    readable = [seen for seen in found.readable().values() if len(seen.shape) == 4]
    tokens = [seen for seen in readable if seen.layout is not None and seen.layout.sequence is not None]
    return len({seen.shape[2:] for seen in tokens}) if 1 < len(tokens) > len(readable) / 2 else 0


def _last_of_each(steps: list[tuple[str, tuple[int, ...]]]) -> tuple[str, ...]:
    """Of steps one after the other, the last before the shape changes."""
    following = [*(shape for _, shape in steps[1:]), ()]
    return tuple(name for (name, shape), after in zip(steps, following, strict=False) if shape != after)


def _is_patch_embedding(module: nn.Module) -> bool:
    convs = [each for each in module.modules() if isinstance(each, nn.Conv2d)]
    return len(convs) == 1 and convs[0].kernel_size == convs[0].stride and convs[0].stride[0] > 2


def _why_not(found: Survey) -> str:
    """The commonest reason why layers cannot be read, as a sentence."""
    problems = Counter(seen.problem for seen in found.observations.values() if seen.calls and seen.problem)
    if not problems:
        return ""
    problem, _ = problems.most_common(1)[0]
    first = next(name for name, seen in found.observations.items() if seen.problem == problem)
    return f" '{first}' and others cannot be read: {problem}."


# --- stages -------------------------------------------------------------------------------------------------------


def _ends_along(network: nn.Module, found: Survey) -> tuple[str, ...]:
    """The last layers before the maps' size or number changes, poolings aside.

    Found by walking the network's trunk: a module that holds several stages is opened, a smaller one is one step.
    """
    trunk = _maps_along(network, found, inside_vectors=False) or _maps_along(network, found, inside_vectors=True)
    return _last_of_each(trunk)


def _maps_along(network: nn.Module, found: Survey, *, inside_vectors: bool) -> list[tuple[str, tuple[int, ...]]]:
    """The trunk's steps that give maps, with their shapes; inside a module that wraps it all, which gives a vector.

    The calls of a module that is called several times are steps where they are in no other step.
    """
    trunk = set(_trunk(network, "", found.observations, inside_vectors))
    steps = {name: seen for name, seen in found.observations.items() if name in trunk or "#" in name}
    along = [
        (seen.order, name)
        for name, seen in steps.items()
        if seen.is_map and not isinstance(_module(network, name), _POOLINGS)
        if not any(other.holds(seen) for other in steps.values())
    ]
    return [(name, steps[name].shape) for _, name in sorted(along)]


def _trunk(module: nn.Module, name: str, observations: dict[str, Observation], inside_vectors: bool) -> Iterator[str]:
    """The modules that are called once along the network, none inside another."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if path not in observations or observations[path].calls > 1:
            continue  # it stands at an earlier place too, or is called at several
        sizes = _num_map_sizes(path, observations)
        if observations[path].unreadable or sizes > 2 or (inside_vectors and sizes and not observations[path].is_map):
            yield from _trunk(child, path, observations, inside_vectors)
        else:
            yield path


def _num_map_sizes(name: str, observations: dict[str, Observation]) -> int:
    """How many sizes the maps inside a module have: two where it halves them, more where it is several stages."""
    whole = observations[name]
    return len(
        {seen.shape[2:] for seen in observations.values() if seen.is_map and (seen is whole or whole.holds(seen))}
    )
