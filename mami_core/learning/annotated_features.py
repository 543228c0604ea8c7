"""Annotated neurons → features: as of a labelled network's exemplars, but from given pictures and regions."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mami_core import contracts
from mami_core.errors import ContractError
from mami_core.features import Encoder, check_finite, from_halves, to_halves
from mami_core.learning.descriptions import AnnotatedNeurons, Sighting
from mami_core.learning.training import Examples


def encode_annotated(
    annotated: AnnotatedNeurons,
    encoder: Encoder,
    images: Sequence[int],
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda _: None,
) -> pa.Table:
    """The features of every exemplar that shows one of the distinct `images` (`contracts.features_schema`).

    Each image passes the encoder once, in batches of one fixed size, so that any split of the images gives the same.
    """
    found: list[tuple[int, int, int]] = []
    vectors: list[tuple[Tensor, Tensor]] = []
    for batch in _batched(annotated.sightings(images), batch_size):
        pixels = torch.zeros(batch_size, 3, encoder.input_size, encoder.input_size, dtype=torch.uint8)
        for row, sighting in enumerate(batch):
            pixels[row] = _resized(annotated.pictures.pixels(sighting.image), encoder.input_size)
        shown = [(row, neuron, rank) for row, sighting in enumerate(batch) for neuron, rank in sighting.exemplars]
        masks = [annotated.pictures.region(neuron, rank) for _, neuron, rank in shown]
        everywhere = encoder.config.regions != "milan"  # in MILAN an empty mask gives zeros
        regions = torch.stack([_region(mask, encoder.region_size, everywhere) for mask in masks]).to(device)
        rows = torch.tensor([row for row, _, _ in shown])
        features = encoder.pool_batch(encoder.pyramid(pixels.to(device)), regions, rows)
        vectors.append(to_halves(features.cpu()))
        found += [(neuron, rank, batch[row].image) for row, neuron, rank in shown]
        progress(len(batch))
    return _table(annotated, found, vectors, encoder)


def _batched(sightings: Iterator[Sighting], size: int) -> Iterator[list[Sighting]]:
    batch: list[Sighting] = []
    for sighting in sightings:
        batch.append(sighting)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _resized(pixels: UInt8[np.ndarray, "3 h w"], size: int) -> UInt8[Tensor, "3 {size} {size}"]:
    """Annotated pictures are squares already: nothing is cut off."""
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    resized = picture.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _region(mask: UInt8[np.ndarray, "h w"], size: int, everywhere: bool = True) -> Float[Tensor, "{size} {size}"]:
    """The share of each cell that lies in the region. An empty mask may stand for the whole image, or for nothing."""
    inside = torch.from_numpy((mask > 0).astype(np.float32))
    if not bool(inside.any()):
        return torch.full((size, size), float(everywhere))
    if inside.shape == (size, size):
        return inside
    down, across = (_shares(side, size) for side in inside.shape)
    return down @ inside @ across.T


@functools.lru_cache(maxsize=16)
def _shares(source: int, target: int) -> Float[Tensor, "target source"]:
    """Which share of each of `target` equal cells each of `source` equal cells of the same line covers."""
    ends_source, ends_target = torch.arange(source + 1) * target, torch.arange(target + 1) * source
    first = torch.maximum(ends_target[:-1, None], ends_source[:-1])
    last = torch.minimum(ends_target[1:, None], ends_source[1:])
    return (last - first).clamp_min(0).float() / source


def _table(
    annotated: AnnotatedNeurons,
    found: list[tuple[int, int, int]],
    vectors: list[tuple[Tensor, Tensor]],
    encoder: Encoder,
) -> pa.Table:
    schema = contracts.features_schema(encoder.num_features)
    nothing = (torch.zeros(0, encoder.num_features, dtype=torch.float16), torch.zeros(0, dtype=torch.int8))
    numbers, exponents = map(torch.cat, zip(nothing, *vectors, strict=True))
    check_finite(numbers, exponents, encoder, lambda row: f"image {found[row][2]} of the annotated neurons")
    order = sorted(range(len(found)), key=found.__getitem__)
    rows = [found[number] for number in order]
    columns = {
        "layer": [annotated.neurons[neuron].layer for neuron, _, _ in rows],
        "unit": [annotated.neurons[neuron].unit for neuron, _, _ in rows],
        "rank": [rank for _, rank, _ in rows],
        "image": [image for _, _, image in rows],
        "vector": [row.tobytes() for row in numbers.numpy()[order]],
        "exponent": exponents.numpy()[order],
        "region": [None] * len(rows),
    }
    return pa.table(columns, schema=schema)


def examples_of(annotated: AnnotatedNeurons, features: pa.Table) -> Examples:
    """Annotated neurons with the features of all their exemplars, in any order.

    Raises:
        ContractError: the features are not exactly those of the neurons' exemplars.
    """
    width = features.schema.field("vector").type.byte_width // 2
    vectors = np.zeros((*annotated.images.shape, width), np.float16)
    present, exponents = np.zeros(annotated.images.shape, bool), np.zeros(annotated.images.shape, np.int8)
    places: dict[tuple[str, int], int] = {neuron: position for position, neuron in enumerate(annotated.neurons)}
    keys = zip(features["layer"].to_pylist(), features["unit"].to_pylist(), strict=True)
    positions = np.array([places.get(key, -1) for key in keys], np.int64)
    ranks, images = features["rank"].to_numpy(), features["image"].to_numpy()
    known = len(positions) == 0 or bool((positions >= 0).all() and (annotated.images[positions, ranks] == images).all())
    if known:
        present[positions, ranks] = True
    if not known or not np.array_equal(present, annotated.images >= 0) or len(positions) != present.sum():
        raise ContractError(
            f"expected features of the {int((annotated.images >= 0).sum())} exemplars of {len(annotated)} annotated "
            f"neurons, found {features.num_rows} that do not match them. Start a new output folder."
        )
    for start in range(0, features.num_rows, 4096):
        some = slice(start, start + 4096)
        joined = b"".join(features["vector"].slice(start, 4096).to_pylist())
        vectors[positions[some], ranks[some]] = np.frombuffer(joined, np.float16).reshape(-1, width)
    exponents[positions, ranks] = features["exponent"].to_numpy()
    return Examples(
        neurons=annotated.neurons,
        descriptions=annotated.descriptions,
        features=from_halves(torch.from_numpy(vectors), torch.from_numpy(exponents)),
        present=torch.from_numpy(present),
        read_shown=annotated.read_shown,
    )
