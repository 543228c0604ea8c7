"""Refuses units that never give numbers, before any work: each would cost the search every image."""

from collections.abc import Sequence

import torch

from mami_core.errors import SubjectError
from mami_core.subjects.precision import products
from mami_core.subjects.reading.lenses import highest
from mami_core.subjects.subject import Subject


@torch.inference_mode()
@products("float32")
def require_finite(subject: Subject, layers: Sequence[str]) -> None:
    """Refuse layers with units that give NaN or infinity for noise and for a plain image too.

    Raises:
        SubjectError: naming the layer and the first such unit.
    """
    noise = subject.example()
    with subject.trace(layers) as maps:
        maps.run(torch.cat([noise, torch.zeros_like(noise)]))
        never = {layer: (~highest(maps[layer]).isfinite()).all(0) for layer in layers}
    for layer, units in never.items():
        if units.any():
            first = int(units.nonzero()[0]) + subject.first_units.get(layer, 0)
            raise SubjectError(
                f"Layer '{layer}' of {subject.name}: {int(units.sum())} of its units, the first of them {first}, never "
                "give a number (NaN or infinity for noise and for a plain image). Mend the weights, or leave out the "
                f"unit: '{layer}[FIRST:END]' takes some."
            )
