"""Where in a photograph a named thing is, as a classifier sees it.

By class activation maps (Zhou et al., 2016, arXiv 1512.04150).
"""

import functools

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.features.looks import GRID
from mami_core.learning.dissected.maps import Locate
from mami_core.learning.dissected.reading import at_size
from mami_core.subjects import Subject, Trace, list_layers

NUM_CLASSES = 1000


class Locator:
    """A classifier of ImageNet's classes that ends in maps, their mean, and one linear layer."""

    def __init__(self, subject: Subject) -> None:
        """Take the last linear layer, and the last maps with as many channels as it reads.

        Raises:
            SubjectError: the subject has another end.
        """
        layers = list_layers(subject)
        linear = [(name, module) for name, module in subject.network.named_modules() if isinstance(module, nn.Linear)]
        _, last = linear[-1] if linear else ("", None)
        maps = [
            info.name for info in layers if last is not None and info.map_size and info.num_units == last.in_features
        ]
        if last is None or last.out_features != NUM_CLASSES or not maps:
            raise SubjectError(
                f"'{subject.name}' cannot say where a class is: expected a classifier of {NUM_CLASSES} classes "
                "whose last maps are averaged and read by one linear layer, such as efficientnet_lite2."
            )
        self._subject, self._layer = subject, maps[-1]
        self._weight = last.weight.detach()

    def locate(self, pixels: UInt8[np.ndarray, "3 s s"]) -> Locate:
        """For one photograph: classes → the highest of their activation maps, its range stretched to 0 … 1.

        The classifier sees the photograph when it is asked for the first time: most have every name in its place.
        """
        maps = functools.cache(lambda: self._maps(pixels))
        return lambda classes: _stretched(maps(), self._weight[list(classes)])

    @torch.inference_mode()
    def _maps(self, pixels: UInt8[np.ndarray, "3 s s"]) -> Float[Tensor, "c h w"]:
        square = torch.from_numpy(np.array(pixels))[None].to(self._weight.device)
        with Trace(self._subject.network, [self._layer], before_clamp=False) as outputs:
            self._subject.read(at_size(square, self._subject.input_size), outputs.run)
            return outputs[self._layer][0].float().clamp(min=0)  # as the mean reads them


def _stretched(maps: Float[Tensor, "c h w"], weights: Float[Tensor, "classes c"]) -> Float[np.ndarray, "g g"]:
    scores = torch.einsum("chw,kc->khw", maps, weights).amax(0).cpu().numpy()
    low, high = scores.min(), scores.max()
    cells = (scores - low) / max(float(high - low), 1e-6)
    return np.asarray(Image.fromarray(cells.astype(np.float32)).resize((GRID, GRID), Image.Resampling.BILINEAR))
