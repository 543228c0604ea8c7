"""The encoder: a pretrained network whose feature pyramid describes what an exemplar shows."""

import copy
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from mami_core.errors import ConfigError, SubjectError
from mami_core.features.forms import NUM_FORMS, form_shares
from mami_core.features.looks import LOOKS_VERSION, NUM_LOOKS, SIDE, look_maps
from mami_core.features.pooling import NUM_PLACE, Pooling, place, pool_batch
from mami_core.subjects import LayerInfo, Precision, Subject, Trace, lean, list_layers, load_subject, match_layers
from mami_core.subjects.precision import products

Regions = Literal["mami", "milan"]

_MILAN_GRID = 224
_INPUT_SIZES = {"efficientnet_lite2": 256}
"""Where the size that the network was trained for (260) gives levels that do not halve (130, 65, 33, 17, 9)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Which network describes the exemplars, and how."""

    name: str = "efficientnet_lite2"
    """The network, by any name that a subject can have: "torchvision:resnet101" with the weights "IMAGENET1K_V1" is
    MILAN's and MAMI's."""
    weights: str | None = None
    """As for a subject: none for the network's own, or a local file."""
    preprocessing: str | None = None
    """The published weights whose preprocessing a weights file gets, such as "IMAGENET1K_V1"; as for a subject."""
    levels: tuple[str, ...] = ()
    """Layers that make the pyramid, finest first; none for one layer at each size of its maps (`default_levels`)."""
    input_size: int | None = None
    """Side of the encoder's input in pixels; none for the network's own (EfficientNet-Lite2: 256)."""
    pooling: Pooling = "area"
    """How a region meets a level: by area, so that none vanishes; or "bilinear", MILAN's way."""
    place: bool = False
    """Append where the region lies in its image and how large it is, five numbers (`pooling.place`)."""
    scene: bool = False
    """Append each level's mean over the whole image: what the region stands out from. Doubles the vector."""
    looks: bool = False
    """Append a level of what pixels tell by themselves: colours, edges, textures and shapes (`looks.look_maps`). The
    input must have 256 pixels a side."""
    forms: bool = False
    """Append what form the region has: how much of it are strips of each direction, and specks, five numbers
    (`forms.form_shares`)."""
    regions: Regions = "mami"
    """How regions are drawn: so that every exemplar has one, at the edge as in the middle; or MILAN's way ("milan"), on
    a grid of 224 cells and always with its pooling (`exemplars.region.milan_regions`)."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.pooling not in ("area", "bilinear"):
            raise ConfigError(f"An encoder's pooling is 'area' or 'bilinear', got '{self.pooling}'.")
        if self.regions not in get_args(Regions):
            raise ConfigError(f"An encoder's regions are one of {get_args(Regions)}, got '{self.regions}'.")
        if self.input_size is not None and self.input_size < 32:
            raise ConfigError(f"An encoder needs an input of at least 32 pixels, got {self.input_size}.")


def numbers_of_looks(config: EncoderConfig, num_features: int) -> range:
    """Which numbers of a vector of features are what pixels tell of the region, as `look_maps` has them."""
    channels = (num_features - _num_alone(config)) // (2 if config.scene else 1)
    return range(channels - (NUM_LOOKS if config.looks else 0), channels)


def numbers_of_forms(config: EncoderConfig, num_features: int) -> range:
    """Which are the shares of the region that have each form."""
    end = num_features - (NUM_PLACE if config.place else 0)
    return range(end - (NUM_FORMS if config.forms else 0), end)


def _num_alone(config: EncoderConfig) -> int:
    """Numbers that tell of the region alone, whatever the picture shows."""
    return (NUM_FORMS if config.forms else 0) + (NUM_PLACE if config.place else 0)


class Encoder:
    """A network that is ready to describe regions of images."""

    def __init__(
        self,
        subject: Subject,
        levels: Sequence[LayerInfo],
        config: EncoderConfig,
        *,
        precision: Precision = "float32",
    ) -> None:
        """Read `levels` of `subject`; `load_encoder` makes one from a configuration."""
        self.config = config
        self.levels = tuple(level.name for level in levels)
        self.level_channels = tuple(level.num_units for level in levels)
        if config.looks and subject.input_size != SIDE:
            raise ConfigError(
                f"looks: read off {SIDE} pixels a side, but the input of {subject.name} has {subject.input_size}. "
                f"Give it {SIDE} (--encoder-input-size {SIDE}), or leave looks out."
            )
        channels = sum(self.level_channels) + (NUM_LOOKS if config.looks else 0)
        self.num_features = channels * (2 if config.scene else 1) + _num_alone(config)
        self.input_size = subject.input_size
        self.size = subject.size
        self.crop = subject.crop
        self._finest = max(level.map_size[0] for level in levels if level.map_size)
        self._subject = lean(subject, self.levels, precision=precision)
        self.id = _encoder_id(self._subject, self.levels, config)

    @property
    def region_size(self) -> int:
        """Side of the grid that regions are drawn on."""
        return _MILAN_GRID if self.config.regions == "milan" else min(self._finest, (self.input_size + 1) // 2)

    def drawing(self, regions: Regions | None) -> "Encoder":
        """This encoder with regions drawn in another way; None for its own."""
        made = copy.copy(self)
        made.config = dataclasses.replace(self.config, regions=regions or self.config.regions)
        made.id = _encoder_id(self._subject, self.levels, made.config)
        return made

    def to(self, device: torch.device | str) -> "Encoder":
        """This encoder, its network moved to `device`."""
        self._subject.to(device)
        return self

    def level_of(self, column: int) -> str:
        """Which level a number of a feature vector comes from; "looks", "forms" or "place" where it is of none."""
        if self.config.place and column >= self.num_features - NUM_PLACE:
            return "place"
        if column in numbers_of_forms(self.config, self.num_features):
            return "forms"
        looks = numbers_of_looks(self.config, self.num_features)
        ends = itertools.accumulate((*self.level_channels, len(looks)))
        named = zip((*self.levels, "looks"), ends, strict=True)
        return next(level for level, end in named if column % looks.stop < end)

    @torch.inference_mode()
    def pyramid(self, pixels: UInt8[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The images' maps at each level, [B, C, S, S], from pixels on the encoder's device; looks come last."""
        with Trace(self._subject.network, self.levels, before_clamp=False) as outputs:
            self._subject.read(pixels, outputs.run)
            levels = [outputs[level] for level in self.levels]
        if self.config.looks:
            levels.append(look_maps(pixels).to(torch.float32, memory_format=torch.channels_last))
        return levels

    @torch.inference_mode()
    def pool(
        self, pyramid: Sequence[Tensor], regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"]
    ) -> Float[Tensor, "r features"]:
        """The features of one image's regions, from its row of the pyramid."""
        rows = torch.zeros(len(regions), dtype=torch.int64)
        return self.pool_batch([level[None] for level in pyramid], regions, rows)

    @torch.inference_mode()
    def pool_batch(
        self,
        pyramid: Sequence[Float[Tensor, "b _ _ _"]],
        regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"],
        rows: Int64[Tensor, " r"],
    ) -> Float[Tensor, "r features"]:
        """`pooling.pool_batch` as configured: the features of regions, each of the image of the batch in `rows`."""
        pooling = "bilinear" if self.config.regions == "milan" else self.config.pooling
        with products(self._subject.precision):
            parts = [pool_batch(pyramid, regions, rows, pooling=pooling)]
            if self.config.scene:
                num_images, size = len(pyramid[0]), self.region_size
                everywhere = regions.new_ones(1, size, size).expand(num_images, -1, -1)
                whole = pool_batch(pyramid, everywhere, torch.arange(num_images), pooling=pooling)
                parts.append(whole[rows.to(whole.device)])
        if self.config.forms:
            parts.append(form_shares(regions))
        if self.config.place:
            parts.append(place(regions))
        return torch.cat(parts, 1)


def load_encoder(config: EncoderConfig, *, precision: Precision = "float32") -> Encoder:
    """The encoder that `config` describes, on the CPU, computing in `precision`.

    Raises:
        SubjectError: an unknown network, weights that cannot be had, or levels that are no maps.
    """
    size = config.input_size or _INPUT_SIZES.get(config.name)
    subject = load_subject(config.name, weights=config.weights, preprocessing=config.preprocessing, input_size=size)
    infos = {info.name: info for info in list_layers(subject)}
    names = match_layers(subject, config.levels) if config.levels else default_levels(subject, infos)
    levels = [infos[name] for name in names]
    vectors = [level.name for level in levels if level.map_size is None]
    if vectors:
        raise SubjectError(f"Encoder levels must give maps; {', '.join(vectors)} of {config.name} give vectors.")
    return Encoder(subject, levels, config, precision=precision)


def default_levels(subject: Subject, infos: dict[str, LayerInfo]) -> tuple[str, ...]:
    """One layer at each size of the maps: the last of the ends of the subject's stages with that size.

    For ResNets conv1 and layer1 to layer4, as MILAN reads them. EfficientNet-Lite's last block and head are left out:
    a linear classifier of the 30 things and stuffs in COCO photographs is right for 66.7 % of the regions with the
    levels that end in the stage before, for 66.2 % with the last block and 63.2 % with the head in its place.
    """
    stages = subject.stages or subject.default_layers
    layers = stages[:-2] if subject.name.startswith("efficientnet_lite") else stages
    by_size = {infos[layer].map_size: layer for layer in layers if infos[layer].map_size is not None}
    return tuple(layer for layer in layers if layer in by_size.values())


def _encoder_id(subject: Subject, levels: Sequence[str], config: EncoderConfig) -> str:
    """16 hexadecimal digits that change with anything that changes the features, and with nothing else."""
    parts = {
        "version": 1,
        "name": subject.name,
        "weights": subject.weights_id,
        "levels": list(levels),
        "input_size": subject.input_size,
        "mean": subject.mean,
        "std": subject.std,
        "pooling": config.pooling,
    }
    # Named only where they are asked for: what was encoded before they could be keeps its id.
    parts |= {name: True for name in ("place", "scene", "forms") if getattr(config, name)}
    parts |= {"looks": LOOKS_VERSION} if config.looks else {}
    parts |= {"regions": config.regions} if config.regions != "mami" else {}
    parts |= {"interpolation": subject.interpolation} if subject.interpolation != "bilinear" else {}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
