"""The whole path in one process, and the stages that every job must agree with.

images → `search_images` → `exemplars_of` → `encode_images` → `caption_neurons` → `judging.judge` → labels

Each stage is a pure function of records and networks. A job calls the same functions on slices of the images or of
the neurons: whatever it computes is bit for bit what `label` computes here in one go.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from mami_core import contracts, judging, labels
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.device import Arriving, to_device
from mami_core.errors import CheckpointError, ConfigError
from mami_core.exemplars.given import batches_for, vanished
from mami_core.exemplars.pairs import pairs_of
from mami_core.exemplars.reading import RegionReader, most_regions_first
from mami_core.exemplars.region import milan_regions, pack, regions
from mami_core.exemplars.search import SearchConfig, search
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, Regions, check_finite, load_encoder, to_halves
from mami_core.images import HERE, Decoder, Files
from mami_core.images.on_gpu import OnGpu
from mami_core.judging import TrustConfig
from mami_core.learning.checkpoint import Trained
from mami_core.metrics.scorers import Scorer
from mami_core.regroup import assemble, features_table, regions_table
from mami_core.subjects import Precision, Subject, generate, lean, match_layers

_PAIRS_AT_ONCE = 4096
"""Regions of a batch that are worked on together: bounds the memory where very many neurons share an exemplar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Everything, beside the networks and the images, that changes what a labels table says."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """How exemplars and thresholds are found."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How captions are chosen."""
    regions: Regions | None = None
    """How regions are drawn; by default as for what the captioner was trained on."""
    trust: TrustConfig | None = None
    """How captions are judged; none, and all images choose exemplars and nobody judges."""
    precision: Precision = "tf32"
    """In which subject and encoder compute. On a CPU tf32 is float32."""
    decode_on: Literal["cpu", "gpu"] = "cpu"
    """What decodes and resizes JPEGs; "gpu" is an NVIDIA one, whose decoder rounds otherwise."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, choices in (("precision", get_args(Precision)), ("decode_on", ("cpu", "gpu"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {choices}, not {getattr(self, name)!r}.")


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


def encoder_of(trained: Trained, *, precision: Precision = "float32") -> Encoder:
    """The encoder that the captioner was trained on, on the CPU, computing in `precision`.

    Raises:
        SubjectError: it cannot be had.
        CheckpointError: what goes by its name here gives other features.
    """
    encoder = load_encoder(trained.encoder, precision=precision)
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


# --- generated images --------------------------------------------------------------------------------------------


def generate_images(
    subject: Subject, latents: Float[Tensor, "n ..."], *, first: int = 0, batch_size: int
) -> list[pa.Table]:
    """What a generator makes from these latents, the first of which has the number `first`: `contracts.GENERATED`.

    One table a batch. An image's bits do not depend on the others: batches have one size, the last one filled up.
    """
    tables = []
    for start in range(0, len(latents), batch_size):
        some = latents[start : start + batch_size]
        filled = torch.zeros(batch_size, *some.shape[1:]).index_copy_(0, torch.arange(len(some)), some)
        pictures = generate(subject, filled)[: len(some)].permute(0, 2, 3, 1).cpu().numpy()
        rows = [
            {"key": f"latent {first + start + row}", "image": _png(picture), "latent": latent.numpy().tobytes()}
            for row, (picture, latent) in enumerate(zip(pictures, some, strict=True))
        ]
        tables.append(contracts.from_rows(rows, contracts.GENERATED))
    return tables


def _png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


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
    dropped: dict[int, str] = {}
    stream = batches_for(
        subject,
        images,
        files,
        batch_size=config.batch_size,
        decoder=decoder,
        pinned=subject.device.type == "cuda",
        on_error=lambda image, _key, reason: dropped.__setitem__(image, reason),
    )
    states = search(subject, layers, stream, config, on_bad=dropped.__setitem__)
    return states, dropped_images(subject.name, "exemplars", images, dropped)


def dropped_images(subject: str, stage: str, images: pa.Table, dropped: Mapping[int, str]) -> pa.Table:
    """The images of a table that were left out, each with the reason (`contracts.DROPPED`)."""
    keys = dict(zip(images["image"].to_pylist(), images["key"].to_pylist(), strict=True))
    about = {"subject": subject, "stage": stage, "kind": "image", "layer": None, "unit": None}
    rows = [about | {"name": keys[image], "image": image, "reason": dropped[image]} for image in sorted(dropped)]
    return contracts.from_rows(rows, contracts.DROPPED)


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
    kept = (
        torch.empty(len(pairs.images), encoder.num_features, dtype=torch.float16),
        torch.empty(len(pairs.images), dtype=torch.int8),
        torch.empty(len(pairs.images), contracts.REGION_SIDE**2 // 8, dtype=torch.uint8),
    )
    stream = batches_for(
        subject,
        shown,
        files,
        beside=(encoder.size,),
        batch_size=batch_size,
        decoder=decoder,
        pinned=subject.device.type == "cuda",
        on_error=vanished,
    )
    device = subject.device
    draw = milan_regions if encoder.config.regions == "milan" else regions
    reader, order_of_table = RegionReader(pairs, device, draw, first_units=subject.first_units), pairs.by_neuron()
    place = np.empty_like(order_of_table)
    place[order_of_table] = np.arange(len(place))
    with torch.inference_mode(), subject.trace(pairs.layer_names) as maps, Arriving() as arriving:
        for batch in stream:
            order, here, rows = most_regions_first(pairs, batch.images[: batch.num_valid].numpy())
            small, large = (_in_order(pixels.to(device, non_blocking=True), order) for pixels in batch.pixels)
            subject.read(small, maps.run)
            pyramid = encoder.pyramid(large)
            for first in range(here.start, here.stop, _PAIRS_AT_ONCE):
                some = slice(first, min(first + _PAIRS_AT_ONCE, here.stop))
                of_pairs = rows[first - here.start :][: some.stop - first]
                found, places = reader.read(maps, some, of_pairs, (encoder.region_size, contracts.REGION_SIDE))
                features = encoder.pool_batch(pyramid, found[0], torch.from_numpy(of_pairs[places]))
                arriving.put((*to_halves(features), pack(found[1])), partial(_keep, kept, place[first + places]))
    vectors, exponents, packed = kept
    pairs = pairs.take(order_of_table)
    check_finite(vectors, exponents, encoder, lambda row: _name_of(int(pairs.images[row]), images))
    return features_table(pairs, vectors, exponents, packed, encoder.num_features)


def _keep(kept: tuple[Tensor, ...], places: np.ndarray, found: Sequence[Tensor]) -> None:
    for whole, part in zip(kept, found, strict=True):
        whole[torch.from_numpy(places)] = part


def _name_of(image: int, images: pa.Table) -> str:
    return f"image {image} ({images.filter(pc.equal(images['image'], image))['key'][0].as_py()})"


def _in_order(pixels: Tensor, order: np.ndarray) -> Tensor:
    """The images, or latents, in another order; what fills the batch stays at its end."""
    every = np.concatenate([order, np.arange(len(order), len(pixels))])
    if pixels.is_floating_point():
        return pixels[to_device(every, pixels.device)]
    return pixels.permute(0, 2, 3, 1)[to_device(every, pixels.device)].permute(0, 3, 1, 2)


# --- captions ----------------------------------------------------------------------------------------------------


def caption_neurons(
    trained: Trained,
    exemplars: pa.Table,
    features: pa.Table,
    config: LabelConfig,
    *,
    run: str,
    weights: str | None = None,
    told: Callable[[int], None] = lambda count: None,
) -> pa.Table:
    """The labels of the neurons in `exemplars`, from the features of all their exemplars (in any order).

    `run` and `weights` are what the labels say of the run, and of the subject's weights. `told` hears of so many
    neurons more each time that some have been searched.

    Raises:
        ContractError: the features are not exactly those of the exemplars.
    """
    vectors, present = assemble(exemplars, features, config.search.k)
    alive = present.any(1).nonzero().squeeze(1)
    beams: list[list[contracts.Beam]] = [[] for _ in range(exemplars.num_rows)]
    networks = trained.captioner, trained.language_model
    if len(alive) < len(present):
        vectors, present = vectors[alive], present[alive]
    found = caption(*networks, vectors, present, config.decode, told=told)
    for row, proposals in zip(alive.tolist(), found, strict=True):
        beams[row] = proposals
    return labels.table(exemplars, beams, captioner=trained.id, run=run, weights=weights)


# --- all of it ---------------------------------------------------------------------------------------------------


def label(
    subject: Subject,
    layers: Sequence[str],
    images: pa.Table,
    files: Files,
    trained: Trained,
    config: LabelConfig,
    *,
    encoder: Encoder | None = None,
    scorer: Scorer | None = None,
    run: str = "",
) -> Labelled:
    """Labels for every unit of some layers, from images to captions and the trust in them, in this process.

    Args:
        subject: The network to explain, on the device where all of it is to be done.
        layers: Names or patterns; none for the subject's default layers.
        images: `contracts.IMAGES`, numbered from 0.
        files: Where the images are.
        trained: The captioner.
        config: Everything else that changes a label.
        encoder: What `encoder_of` gave, where several subjects are labelled; by default it is loaded.
        scorer: Who judges the captions, where `config.trust` says that somebody does.
        run: What the labels say of their run.

    Raises:
        ConfigError: a scorer without `config.trust`, or the other way round.
        SubjectError: a layer that the subject does not have, or an encoder that cannot be had.
        CheckpointError: the captioner was trained on another encoder.
    """
    if (scorer is None) != (config.trust is None):
        raise ConfigError("Trust takes both: config.trust, and a scorer that judges.")
    encoder = encoder or encoder_of(trained, precision=config.precision)
    encoder = encoder.drawing(config.regions).to(subject.device)
    trained = trained.to(subject.device)
    layers = match_layers(subject, layers)
    subject = lean(subject, layers, precision=config.precision)
    decoder = OnGpu(str(subject.device)) if config.decode_on == "gpu" else HERE
    choosing, held_out = judging.part(images, config.trust)
    states, dropped = search_images(subject, layers, choosing, files, config.search, decoder=decoder)
    exemplars = pa.concat_tables(
        exemplars_table(
            subject.name,
            layer,
            state,
            images["key"],
            quantile=config.search.quantile,
            first_unit=subject.first_units.get(layer, 0),
        )
        for layer, state in states.items()
    )
    batch_size = config.search.batch_size
    features = encode_images(subject, encoder, exemplars, images, files, batch_size=batch_size, decoder=decoder)
    found = caption_neurons(trained, exemplars, features, config, run=run, weights=subject.weights_id)
    if scorer is not None and config.trust is not None:
        watched, lost = judging.watch_images(subject, layers, held_out, files, batch_size=batch_size)
        seen = judging.see_images(scorer, held_out, files, config.trust, batch_size=batch_size)
        dropped = pa.concat_tables([dropped, dropped_images(subject.name, "trust", held_out, lost)])
        found = judging.judge(found, watched, seen, scorer, config.trust)
    return Labelled(
        labels=found,
        exemplars=exemplars,
        regions=regions_table(exemplars, features),
        dropped=dropped,
    )
