"""One pass of a subject over images: the strongest images and the threshold of every unit of several layers.

Search any part of the images, in any order and any batches, and merge the states: the result is the same, to the bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mami_core.errors import ConfigError
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.topk import MAX_IMAGE, NO_IMAGE
from mami_core.images import ImageBatch
from mami_core.subjects import Subject, describe_layers, match_layers
from mami_core.subjects.reading.lenses import Seen

_BATCHES_UNREPORTED = 64
"""How many batches a GPU goes on before it is asked which images were bad: asking makes the host wait."""

OnBad = Callable[[int, str], None]
"""Is told the number of an image that was left out, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What is kept of every unit."""

    k: int = 15
    """Exemplars a unit, at most."""
    quantile: float = 0.99
    """The share of all positions of all images that do not exceed a unit's threshold."""
    batch_size: int = 32
    """Images that the subject sees at once."""

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if self.k < 1 or self.batch_size < 1:
            raise ConfigError(f"expected k and batch_size of at least 1, got {self.k} and {self.batch_size}.")
        if not 0 < self.quantile < 1:
            raise ConfigError(f"expected a quantile between 0 and 1, such as 0.99, got {self.quantile}.")


def search(
    subject: Subject,
    layers: Sequence[str],
    batches: Iterable[ImageBatch],
    config: SearchConfig | None = None,
    *,
    on_bad: OnBad,
) -> dict[str, LayerState]:
    """The state of every layer after one pass over the images. See `Search` to watch it on its way."""
    running = Search(subject, layers, config, on_bad=on_bad)
    for _ in running.over(batches):
        pass
    return running.states


class Search:
    """A search on its way.

    ::

        running = Search(subject, ["layer3", "layer4"], on_bad=report)
        for num_images in running.over(batches):
            ...  # as many images are done
        running.states["layer4"].topk.images()

    An image whose highest activation is not a finite number in any of the layers is left out of all of them.
    """

    def __init__(
        self, subject: Subject, layers: Sequence[str], config: SearchConfig | None = None, *, on_bad: OnBad
    ) -> None:
        """Start with no image seen.

        Args:
            subject: On the device where the work is to be done.
            layers: Names or patterns; none for the subject's default layers.
            config: What to keep.
            on_bad: Is told of every image that is left out, its own number and why.

        Raises:
            SubjectError: a layer that the subject does not have, or that cannot be read.
        """
        config = config or SearchConfig()
        self.subject = subject
        self.device = subject.device
        self.states = {
            info.name: LayerState.empty(info.num_units, config.k, self.device)
            for info in describe_layers(subject, match_layers(subject, layers))
        }
        self.num_images = 0
        self._on_bad = on_bad
        self._unreported: list[tuple[Tensor, Tensor]] = []

    def over(self, batches: Iterable[ImageBatch]) -> Iterator[int]:
        """Search these images; after every batch, how many images were seen so far."""
        for batch in batches:
            self.update(batch)
            yield self.num_images
        self.report()

    @torch.inference_mode()
    def update(self, batch: ImageBatch) -> None:
        """Add one batch. Call `report` after the last one."""
        if batch.images.max() > MAX_IMAGE:
            raise ConfigError(f"image numbers go up to {MAX_IMAGE}, got {batch.images.max()}.")
        images = batch.images.to(self.device, non_blocking=True)
        maps = self._activations(_given(batch, self.subject))
        peaks = {layer: _peak(seen) for layer, seen in maps.items() if isinstance(seen, Tensor)}
        finite = torch.stack([_finite(seen, peaks.get(layer)) for layer, seen in maps.items()])
        images = images.where(finite.all(0), NO_IMAGE)
        for layer, state in self.states.items():
            seen = maps[layer]
            if isinstance(seen, Seen):  # too many units to be there at once
                for some, part in seen.blocks():
                    state.update_some(some, _peak(part), part, images)
                state.histogram.saw(math.prod(seen.shape[2:]) * len(images))
                continue
            state.topk.update(peaks[layer], images)
            state.histogram.update(seen, images != NO_IMAGE)
        self._note(batch, finite)

    def _activations(self, given: Tensor) -> dict[str, Tensor | Seen]:
        given = given.to(self.device, non_blocking=True)
        with self.subject.trace(list(self.states)) as outputs:
            self.subject.read(given, outputs.run)
            return dict(outputs)

    def _note(self, batch: ImageBatch, finite: Bool[Tensor, "layers batch"]) -> None:
        self.num_images += batch.num_valid
        self._unreported.append((batch.images, finite))
        if not finite.is_cuda or len(self._unreported) == _BATCHES_UNREPORTED:
            self.report()

    def report(self) -> None:
        """Tell `on_bad` of the images left out since the last time."""
        noted, self._unreported = self._unreported, []
        for images, finite in noted:
            for image, in_layers in zip(images.tolist(), finite.T.tolist(), strict=True):
                if image != NO_IMAGE and not all(in_layers):
                    self._on_bad(image, _reason(self.states, in_layers))


def _reason(layers: Mapping[str, LayerState], finite: list[bool]) -> str:
    bad = [layer for layer, fine in zip(layers, finite, strict=True) if not fine]
    return f"activations that are not finite numbers in {', '.join(bad)}"


def _given(batch: ImageBatch, subject: Subject) -> Tensor:
    """What the subject takes: the latents, or the pixels of its size."""
    if subject.latent_shape:
        return batch.pixels[0]
    size = subject.size
    shapes = [tuple(pixels.shape[2:]) for pixels in batch.pixels]
    if (size.height, size.width) not in shapes:
        raise ConfigError(f"the subject sees images of {size.height} x {size.width} pixels, the batch has {shapes}.")
    return batch.pixels[shapes.index((size.height, size.width))]


def _finite(seen: Tensor | Seen, peaks: Tensor | None) -> Bool[Tensor, " batch"]:
    """Which images have nothing but finite numbers in a layer."""
    return seen.finite if isinstance(seen, Seen) else (seen if peaks is None else peaks).isfinite().flatten(1).all(1)


def _peak(maps: Float[Tensor, "batch units *grid"]) -> Float[Tensor, "batch units"]:
    """The highest activation of each unit on each image; NaN where any is."""
    return maps.amax((2, 3)) if maps.ndim == 4 else maps
