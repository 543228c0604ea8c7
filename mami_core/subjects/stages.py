"""Where the stages of a network end: the layers to read when nobody names any."""

from collections.abc import Iterator

from torch import nn

from mami_core.errors import SubjectError
from mami_core.subjects.survey import Observation, survey_blank

_POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def stage_ends(network: nn.Module, input_size: int) -> tuple[str, ...]:
    """The ends of the network's stages: the last layers before the maps' size or number changes, poolings aside.

    Found by walking the network's trunk: a module that holds several stages is opened, a smaller one is one step.

    Raises:
        SubjectError: no module gives maps.
    """
    observations = survey_blank(network, input_size)
    trunk = [
        (name, seen.shape)
        for name, module in _trunk(network, "", observations)
        if _is_map(seen := observations[name]) and not isinstance(module, _POOLINGS)
    ]
    if not trunk:
        raise SubjectError(f"The network {type(network).__name__} has no layer with maps. Name the layers to read.")
    following = [shape for _, shape in trunk[1:]] + [()]
    return tuple(name for (name, shape), after in zip(trunk, following, strict=True) if shape != after)


def _is_map(seen: Observation) -> bool:
    return not seen.unreadable and len(seen.shape) == 4 and seen.shape[2] > 1


def _trunk(module: nn.Module, name: str, observations: dict[str, Observation]) -> Iterator[tuple[str, nn.Module]]:
    """The modules one after the other along the network, none inside another."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if path not in observations:
            continue  # a module that stands at an earlier place too
        if observations[path].calls == 0 or _num_map_sizes(path, observations) > 2:
            yield from _trunk(child, path, observations)
        else:
            yield path, child


def _num_map_sizes(name: str, observations: dict[str, Observation]) -> int:
    """How many sizes the maps inside a module have: two where it halves them, more where it is several stages."""
    inside = (seen for path, seen in observations.items() if path == name or path.startswith(f"{name}."))
    return len({seen.shape[2:] for seen in inside if _is_map(seen)})
