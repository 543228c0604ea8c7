"""Features of annotated neurons: the same for any split, and those of a plain loop."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from mami_core import contracts
from mami_core.captions.evidence import Phrase
from mami_core.errors import ContractError
from mami_core.features import Encoder, EncoderConfig, load_encoder
from mami_core.learning.annotated_features import _region, encode_annotated, examples_of
from mami_core.learning.descriptions import AnnotatedNeurons, Neuron, Shown


class Noise:
    """Implements `Pictures`: other pixels for every image, a disc somewhere for every exemplar."""

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        return np.random.default_rng(image).integers(0, 256, (3, 64, 64), dtype=np.uint8)

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        centre = np.random.default_rng((neuron, rank)).uniform(5, 43, 2)
        away = np.hypot(*(np.mgrid[:48, :48] - centre[:, None, None]))
        return (away < 3 + 4 * rank).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return load_encoder(EncoderConfig(name="torchvision:resnet18", weights="random:0", input_size=64))


@pytest.fixture(scope="module")
def annotated() -> AnnotatedNeurons:
    """Five neurons that share seven images, some with fewer than three exemplars."""
    images = np.array([[0, 1, 2], [2, 3, -1], [4, 0, 5], [6, -1, -1], [1, 2, 6]])
    return AnnotatedNeurons(
        neurons=tuple(Neuron("layer1" if unit < 3 else "layer2", 10 * unit) for unit in range(5)),
        descriptions=tuple((f"number {unit}",) for unit in range(5)),
        images=images,
        pictures=Noise(),
        read_shown=lambda: Shown((Phrase("dogs", "noun"),), np.arange(15, dtype=np.uint8).reshape(5, 3, 1)),
    )


@pytest.fixture(scope="module")
def whole(encoder: Encoder, annotated: AnnotatedNeurons) -> pa.Table:
    return encode_annotated(annotated, encoder, range(7), batch_size=4)


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3], [4, 5, 6]], [[6], [], [5, 1, 3], [0, 2, 4]]])
def test_any_split_of_the_images_gives_the_same_bits(
    parts: list[list[int]], encoder: Encoder, annotated: AnnotatedNeurons, whole: pa.Table
) -> None:
    tables = [encode_annotated(annotated, encoder, images, batch_size=4) for images in parts]
    for table in tables:
        contracts.check(table.schema, contracts.features_schema(encoder.num_features), where="the test")
    order = [("layer", "ascending"), ("unit", "ascending"), ("rank", "ascending")]
    assert pa.concat_tables(tables).sort_by(order).equals(whole.sort_by(order))
    assert whole.num_rows == 12


def test_features_are_those_of_a_plain_loop(encoder: Encoder, annotated: AnnotatedNeurons, whole: pa.Table) -> None:
    examples = examples_of(annotated, whole)
    assert examples.present.tolist() == (annotated.images >= 0).tolist()
    assert not examples.features[~examples.present].any()
    assert examples.read_shown is not None
    assert examples.read_shown().truth[3, 2] == 11
    for neuron, rank in zip(*np.nonzero(annotated.images >= 0), strict=True):
        pixels = torch.from_numpy(annotated.pictures.pixels(int(annotated.images[neuron, rank])))
        mask = torch.from_numpy(annotated.pictures.region(int(neuron), int(rank))).float()
        torch.testing.assert_close(
            examples.features[neuron, rank].float(), plain(encoder, pixels, mask), rtol=2e-2, atol=2e-3
        )


def plain(encoder: Encoder, pixels: Tensor, mask: Tensor) -> Tensor:
    """Each level averaged under the mask; its share of each position from a grid that both divide (192 = 4 · 48)."""
    fine = mask.repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None]
    means = []
    for level in encoder.pyramid(pixels[None]):
        weights = F.avg_pool2d(fine, fine.shape[-1] // level.shape[-1])[0, 0]
        means.append((level[0] * weights).sum((1, 2)) / weights.sum())
    return torch.cat(means)


def test_missing_or_foreign_features_are_refused(annotated: AnnotatedNeurons, whole: pa.Table) -> None:
    swapped = whole.set_column(3, whole.schema.field("image"), pa.array(np.roll(whole["image"].to_numpy(), 1)))
    unknown = whole.set_column(1, whole.schema.field("unit"), pa.array(whole["unit"].to_numpy() + 1))
    twice = pa.concat_tables([whole, whole.slice(0, 1)])
    for table in (whole.slice(1), whole.slice(0, 0), swapped, unknown, twice):
        with pytest.raises(ContractError, match="12 exemplars of 5"):
            examples_of(annotated, table)


def test_the_order_of_the_rows_does_not_matter(annotated: AnnotatedNeurons, whole: pa.Table) -> None:
    shuffled = whole.take(np.random.default_rng(0).permutation(12))
    one, other = examples_of(annotated, whole), examples_of(annotated, shuffled)
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.present, other.present)


def test_a_region_of_any_shape_is_averaged_by_area_and_an_empty_one_stands_for_the_whole_image() -> None:
    mask = np.zeros((3, 10), np.uint8)
    mask[0, :5] = 255
    expected = torch.tensor([[1, 0], [0, 0]]) * 2 / 3
    torch.testing.assert_close(_region(mask, 2), expected)
    torch.testing.assert_close(_region(mask, 60).mean(), torch.tensor(1 / 6))
    assert torch.equal(_region(np.zeros((3, 10), np.uint8), 4), torch.ones(4, 4))
