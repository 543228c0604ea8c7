"""The whole path in one process, and the four stages that every job must agree with.

images → `search_images` → `exemplars_of` → `encode_images` → `caption_neurons` → labels

Each stage is a pure function of records and networks. A job calls the same functions on slices of the images or of
the neurons: whatever it computes is bit for bit what `label` computes here in one go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from mami_core import contracts, labels
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.errors import CheckpointError, ImageError
from mami_core.exemplars.pairs import Pairs, pairs_of
from mami_core.exemplars.region import pack, regions
from mami_core.exemplars.search import SearchConfig, search
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, check_finite, load_encoder, to_halves
from mami_core.images import HERE, Decoder, Files, batches
from mami_core.learning.checkpoint import Trained
from mami_core.regroup import assemble, features_table, regions_table
from mami_core.subjects import Subject, Trace, lean, match_layers

_PAIRS_AT_ONCE = 256
"""Regions of one image that are pooled together: bounds the memory where very many neurons share an exemplar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Everything, beside the networks and the images, that changes what a labels table says."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """How exemplars and thresholds are found."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How captions are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What the whole path gives."""

    labels: pa.Table
    """`contracts.LABELS`, by layer and unit."""
    exemplars: pa.Table
    """`contracts.EXEMPLARS`, in the same order."""
    regions: pa.Table
    """`contracts.REGIONS`, in the same order."""
    dropped: pa.Table
    """`contracts.DROPPED`."""


def encoder_of(trained: Trained) -> Encoder:
    """The encoder that the captioner was trained on, on the CPU.

    Raises:
        SubjectError: it cannot be had.
        CheckpointError: what goes by its name here gives other features.
    """
    encoder = load_encoder(trained.encoder)
    check_encoder(trained, encoder)
    return encoder


def check_encoder(trained: Trained, encoder: Encoder) -> None:
    """Refuse a captioner that was trained on another encoder's features.

    Raises:
        CheckpointError: naming both encoders.
    """
    if trained.encoder_id != encoder.id:
        raise CheckpointError(
            f"The captioner {trained.id} reads features of encoder {trained.encoder_id}, but "
            f"'{encoder.config.name}' is {encoder.id} here. Use the weights that the captioner was trained with, or "
            "train again."
        )


# --- exemplars ---------------------------------------------------------------------------------------------------


def search_images(
    subject: Subject,
    layers: Sequence[str],
    images: pa.Table,
    files: Files,
    config: SearchConfig,
    *,
    decoder: Decoder = HERE,
) -> tuple[dict[str, LayerState], pa.Table]:
    """What these images say of every unit of `layers`, and the images that were left out (`contracts.DROPPED`)."""
    keys = dict(zip(images["image"].to_pylist(), images["key"].to_pylist(), strict=True))
    dropped: dict[int, str] = {}
    stream = batches(
        images,
        files,
        sizes=(subject.input_size,),
        crop=subject.crop,
        batch_size=config.batch_size,
        decoder=decoder,
        on_error=lambda image, _key, reason: dropped.__setitem__(image, reason),
    )
    states = search(subject, layers, stream, config, on_bad=dropped.__setitem__)
    rows = [_dropped_image(subject.name, image, keys[image], dropped[image]) for image in sorted(dropped)]
    return states, contracts.from_rows(rows, contracts.DROPPED)


def _dropped_image(subject: str, image: int, key: str, reason: str) -> dict:
    return {
        "subject": subject,
        "stage": "exemplars",
        "kind": "image",
        "name": key,
        "image": image,
        "layer": None,
        "unit": None,
        "reason": reason,
    }


# --- features ----------------------------------------------------------------------------------------------------


def encode_images(
    subject: Subject,
    encoder: Encoder,
    exemplars: pa.Table,
    images: pa.Table,
    files: Files,
    *,
    batch_size: int,
    decoder: Decoder = HERE,
) -> pa.Table:
    """The features of every exemplar that one of `images` shows, as `contracts.features_schema`.

    Each image passes the subject and the encoder once, however many neurons it is an exemplar of; all their regions
    are pooled together. Rows are in the order of `exemplars`, then by rank.

    Raises:
        ImageError: an image that could be read when the exemplars were searched cannot be read any more, or the
            encoder gives something else than numbers for it.
    """
    pairs = pairs_of(exemplars, images["image"].to_numpy())
    shown = images.filter(pc.is_in(images["image"], pa.array(np.unique(pairs.images))))
    vectors = torch.empty(len(pairs.images), encoder.num_features, dtype=torch.float16)
    exponents = torch.empty(len(pairs.images), dtype=torch.int8)
    packed = torch.empty(len(pairs.images), contracts.REGION_SIDE**2 // 8, dtype=torch.uint8)
    stream = batches(
        shown,
        files,
        sizes=(subject.input_size, encoder.input_size),
        crop=subject.crop,
        batch_size=batch_size,
        decoder=decoder,
        on_error=_vanished,
    )
    device = next(subject.network.parameters()).device
    with torch.inference_mode(), Trace(subject.network, pairs.layer_names) as maps:
        # What the device needs to know of the pairs goes there once.
        units = torch.from_numpy(pairs.units.astype(np.int64)).to(device)
        thresholds = torch.from_numpy(pairs.thresholds).to(device)
        for batch in stream:
            small, large = (pixels.to(device, non_blocking=True) for pixels in batch.pixels)
            subject.network(subject.normalise(small))
            pyramid = encoder.pyramid(large)
            seen = _Regions(maps, pairs, units, thresholds)
            shares = [pairs.of_image(image) for image in batch.images[: batch.num_valid].tolist()]
            found = [
                part
                for row, here in enumerate(shares)
                for part in _read_off([level[row] for level in pyramid], seen, row, here, encoder)
            ]
            # The images of a batch follow each other in `pairs`. One copy a batch: a GPU waits for each.
            whole = slice(shares[0].start, shares[-1].stop)
            vectors[whole], exponents[whole] = to_halves(torch.cat([features for features, _ in found]))
            packed[whole] = torch.cat([where for _, where in found]).cpu()
    check_finite(vectors, encoder, lambda row: _name_of(int(pairs.images[row]), images))
    return features_table(pairs, vectors, exponents, packed, encoder.num_features)


def _name_of(image: int, images: pa.Table) -> str:
    return f"image {image} ({images.filter(pc.equal(images['image'], image))['key'][0].as_py()})"


def _vanished(image: int, key: str, reason: str) -> None:
    raise ImageError(f"image {image} ({key}) was readable when exemplars were searched, but now: {reason}")


def _read_off(
    levels: Sequence[Tensor], seen: "_Regions", row: int, here: slice, encoder: Encoder
) -> Iterator[tuple[Float[Tensor, "pairs features"], UInt8[Tensor, "pairs bytes"]]]:
    """The features and the packed regions of one image's pairs, some at a time."""
    for start in range(here.start, here.stop, _PAIRS_AT_ONCE):
        block = slice(start, min(start + _PAIRS_AT_ONCE, here.stop))
        features = encoder.pool(levels, seen.of_image(row, block, encoder.region_size))
        yield features, pack(seen.of_image(row, block, contracts.REGION_SIDE))


@dataclass(frozen=True, slots=True)
class _Regions:
    """The regions of exemplars, read off the maps that the subject has just given."""

    maps: Trace
    pairs: Pairs
    units: Int64[Tensor, " pairs"]
    thresholds: Float[Tensor, " pairs"]

    def of_image(self, row: int, here: slice, size: int) -> Bool[Tensor, "pairs {size} {size}"]:
        """Of some pairs of the batch's image `row`, layer by layer: an image's pairs are sorted by layer already."""
        layers = self.pairs.layers[here]
        starts = np.flatnonzero(np.diff(layers, prepend=-1))
        parts = []
        for first, last in zip(starts, [*starts[1:], len(layers)], strict=True):
            some = slice(here.start + first, here.start + last)
            grids = self.maps[self.pairs.layer_names[layers[first]]][row][self.units[some]].float()
            grids = grids if grids.ndim == 3 else grids[:, None, None]
            parts.append(regions(grids, self.thresholds[some], size))
        return torch.cat(parts)


# --- captions ----------------------------------------------------------------------------------------------------


def caption_neurons(
    trained: Trained,
    exemplars: pa.Table,
    features: pa.Table,
    config: LabelConfig,
    *,
    run: str,
) -> pa.Table:
    """The labels of the neurons in `exemplars`, from the features of all their exemplars (in any order).

    Raises:
        ContractError: the features are not exactly those of the exemplars.
    """
    vectors, present = assemble(exemplars, features, config.search.k)
    alive = present.any(1).nonzero().squeeze(1)
    beams: list[list[contracts.Beam]] = [[] for _ in range(exemplars.num_rows)]
    found = caption(trained.captioner, trained.language_model, vectors[alive], present[alive], config.decode)
    for row, proposals in zip(alive.tolist(), found, strict=True):
        beams[row] = proposals
    return labels.table(exemplars, beams, captioner=trained.id, run=run)


# --- all of it ---------------------------------------------------------------------------------------------------


def label(
    subject: Subject,
    layers: Sequence[str],
    images: pa.Table,
    files: Files,
    trained: Trained,
    config: LabelConfig,
    *,
    run: str = "",
) -> Labelled:
    """Labels for every unit of some layers, from images to captions, in this process.

    Args:
        subject: The network to explain.
        layers: Names or patterns; none for the subject's default layers.
        images: `contracts.IMAGES`, numbered from 0.
        files: Where the images are.
        trained: The captioner.
        config: Everything else that changes a label.
        run: What the labels say of their run.

    Raises:
        SubjectError: a layer that the subject does not have, or an encoder that cannot be had.
        CheckpointError: the captioner was trained on another encoder.
    """
    encoder = encoder_of(trained)
    layers = match_layers(subject, layers)
    subject = lean(subject, layers)
    states, dropped = search_images(subject, layers, images, files, config.search)
    exemplars = pa.concat_tables(
        exemplars_table(subject.name, layer, state, images["key"], quantile=config.search.quantile)
        for layer, state in states.items()
    )
    features = encode_images(subject, encoder, exemplars, images, files, batch_size=config.search.batch_size)
    return Labelled(
        labels=caption_neurons(trained, exemplars, features, config, run=run),
        exemplars=exemplars,
        regions=regions_table(exemplars, features),
        dropped=dropped,
    )
