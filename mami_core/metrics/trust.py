"""Captions × activations → trust: does the caption alone foretell which held-out images drive the neuron?

An image–text scorer says of every held-out image how well it fits the caption; that is held against the neuron's real
activations. Pearson's correlation and average precision notice wrong labels where AUC and recall do not (Oikarinen et
al., arXiv 2506.05774).

All sums are of integers, so nothing is ever rounded: any split of the images, merged in any order, gives the same
bits. Activations are kept in half precision; vectors are rounded to multiples of 2⁻¹⁰, so that their products are exact
in float32, whatever the shape of the matrices and the device.

Axes: U units, N images, D numbers of a vector.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float16, Float64, Int16, Int32, Int64
from torch import Tensor, nn

FEWEST_IMAGES = 10
"""With fewer held-out images nobody judges."""
STRONG_SHARE = 0.05
"""The share of the held-out images that count as driving a neuron: those of its highest activations above zero."""

_HALF_STEP = 24
"""Half-precision numbers are multiples of 2⁻²⁴."""
_LIMB = 20
_UNITS_AT_ONCE, _IMAGES_AT_ONCE = 256, 2048


def fixed_point(vectors: Tensor) -> Int16[Tensor, "rows size"]:
    """Vectors of length 1 in their direction, in steps of 2⁻¹⁰; what is not finite is nothing."""
    vectors = vectors.double().nan_to_num(0.0, 0.0, 0.0)
    return (nn.functional.normalize(vectors, dim=1) * 2**10).round().to(torch.int16)


def predictions(texts_UD: Int16[Tensor, "units size"], images_ND: Int16[Tensor, "images size"]) -> Int32[Tensor, "u n"]:
    """How well each image fits each text: the cosine, in steps of 2⁻²⁰ and without error."""
    return (texts_UD.float() @ images_ND.float().T).int()  # sums stay below 2²⁴: exact in any order


@dataclass(slots=True, eq=False)
class Sums:
    """What a correlation over images needs to know of each unit: a fold whose merge is exact, in any order.

    The five sums of a correlation (activations, predictions, both squared, their product) and the number of images.
    Activations are taken in two limbs of 20 bits, which makes ten: so products fit 64 bits, for up to 2²² images.
    """

    totals: Int64[Tensor, "units 10"]

    @staticmethod
    def empty(num_units: int) -> "Sums":
        """No image seen yet."""
        return Sums(torch.zeros(num_units, 10, dtype=torch.int64))

    def update(self, activations_UN: Float16[Tensor, "units images"], p_UN: Int32[Tensor, "units images"]) -> "Sums":
        """Add images, in place: each unit's activation and prediction on each."""
        whole = (activations_UN.double() * 2**_HALF_STEP).long()
        high, low, p = whole >> _LIMB, whole & (2**_LIMB - 1), p_UN.long()
        parts = (p, p * p, high, low, high * high, high * low, low * low, high * p, low * p)
        self.totals[:, 0] += p.shape[1]
        self.totals[:, 1:] += torch.stack([part.sum(1) for part in parts], dim=1)
        return self

    def merge(self, other: "Sums") -> "Sums":
        """Add, in place, what another fold saw of the same units on other images."""
        self.totals += other.totals
        return self

    def correlation(self) -> Float64[Tensor, " units"]:
        """Pearson's r of each unit; NaN where its activation or prediction is the same on all images."""
        return torch.tensor([_correlation(*row) for row in self.totals.tolist()], dtype=torch.float64)


def _correlation(n: int, p: int, pp: int, h: int, l: int, hh: int, hl: int, ll: int, hp: int, lp: int) -> float:  # noqa: E741
    a, ap = (h << _LIMB) + l, (hp << _LIMB) + lp
    aa = (hh << 2 * _LIMB) + (hl << _LIMB + 1) + ll
    spread = (n * aa - a * a) * (n * pp - p * p)
    return (n * ap - a * p) / math.sqrt(spread) if spread else math.nan


def average_precision(
    activations_UN: Float16[Tensor, "units images"], p_UN: Int32[Tensor, "units images"]
) -> Float64[Tensor, " units"]:
    """Of each unit: the precision with which the highest predictions find its strong images, averaged over these.

    Strong are `STRONG_SHARE` of the images, those of the highest activation, if above zero; of equal ones the first.
    NaN where there is none. Images of equal prediction are found together.
    """
    count = max(1, round(STRONG_SHARE * activations_UN.shape[1]))
    strongest, images_UK = activations_UN.float().sort(dim=1, descending=True, stable=True)
    strong_UK = strongest[:, :count] > 0
    absent = torch.iinfo(torch.int32).min  # sorts below every prediction
    own_UK = p_UN.gather(1, images_UK[:, :count]).where(strong_UK, absent).sort(dim=1).values
    found = count - torch.searchsorted(own_UK, own_UK)
    looked_at = p_UN.shape[1] - torch.searchsorted(p_UN.sort(dim=1).values, own_UK)
    precisions = (found / looked_at.double()).where(own_UK != absent, 0.0).tolist()
    numbers = strong_UK.sum(1).tolist()
    means = [math.fsum(row) / number if number else math.nan for row, number in zip(precisions, numbers, strict=True)]
    return torch.tensor(means, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Trust:
    """How well texts foretell units, one number a unit; NaN where nothing can be said."""

    correlation: Float64[Tensor, " units"]
    auprc: Float64[Tensor, " units"]


def trust(
    activations_UN: Float16[Tensor, "units images"],
    texts_UD: Int16[Tensor, "units size"],
    images_ND: Int16[Tensor, "images size"],
) -> Trust:
    """How well each unit's text (see `fixed_point`) foretells its activations on these images."""
    blocks = zip(activations_UN.split(_UNITS_AT_ONCE), texts_UD.split(_UNITS_AT_ONCE), strict=True)
    found = [_of_block(activations, predictions(texts, images_ND)) for activations, texts in blocks]
    correlations, precisions = zip(*found, strict=True) if found else ((torch.empty(0).double(),),) * 2
    return Trust(torch.cat(correlations), torch.cat(precisions))


def _of_block(activations_UN: Tensor, p_UN: Tensor) -> tuple[Tensor, Tensor]:
    if activations_UN.shape[1] < FEWEST_IMAGES:
        nothing = torch.full((len(activations_UN),), math.nan, dtype=torch.float64)
        return nothing, nothing
    sums = Sums.empty(len(activations_UN))
    for some in zip(activations_UN.split(_IMAGES_AT_ONCE, 1), p_UN.split(_IMAGES_AT_ONCE, 1), strict=True):
        sums.update(*some)
    return sums.correlation(), average_precision(activations_UN, p_UN)


def common(activations_UN: Float16[Tensor, "units images"]) -> Float64[Tensor, " images"]:
    """What drives these units together: on each image the mean of how many standard deviations each is above its own.

    Some images drive a whole layer, busy ones for instance, and say nothing of a single unit.
    """
    return _standardised(activations_UN).mean(0)


def beyond(
    activations_UN: Float16[Tensor, "units images"],
    texts_UD: Int16[Tensor, "units size"],
    images_ND: Int16[Tensor, "images size"],
    common_N: Float64[Tensor, " images"],
) -> Float64[Tensor, " units"]:
    """Pearson's correlation of each unit's text with what drives it more than the `common` of its layer.

    NaN where nothing varies, or with fewer than `FEWEST_IMAGES`.
    """
    if activations_UN.shape[1] < FEWEST_IMAGES or not len(activations_UN):
        return torch.full((len(activations_UN),), math.nan, dtype=torch.float64)
    found = []
    for activations, texts in zip(activations_UN.split(_UNITS_AT_ONCE), texts_UD.split(_UNITS_AT_ONCE), strict=True):
        own = _standardised(_standardised(activations) - common_N)
        product = (own * _standardised(predictions(texts, images_ND))).mean(1)
        varies = own.any(1) & (activations != activations[:, :1]).any(1)
        found.append(product.where(varies, math.nan))
    return torch.cat(found)


def _standardised(rows: Tensor) -> Float64[Tensor, "rows images"]:
    """Each row's numbers less its mean, by its standard deviation; nothing where nothing varies."""
    rows = rows.double()
    away = rows - rows.mean(1, keepdim=True)
    return away / away.square().mean(1, keepdim=True).sqrt().where((rows != rows[:, :1]).any(1, keepdim=True), math.inf)


def another(units: Sequence[int]) -> dict[int, int]:
    """For each unit of a layer another one of them, whose caption it is tried with; none for a single unit.

    They are ordered by a hash of their numbers, and each takes the next: nobody keeps its own, and what comes out
    depends on nothing else.
    """
    cycle = sorted(units, key=lambda unit: hashlib.blake2b(b"unit %d" % unit, digest_size=8).digest())
    return dict(zip(cycle, cycle[1:] + cycle[:1], strict=True)) if len(cycle) > 1 else {}
