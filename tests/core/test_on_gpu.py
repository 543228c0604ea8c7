"""What is promised on an accelerator: the same bits whatever stands beside, and next to the CPU's results."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from mami_core import kernels
from mami_core.captions import attention, lstm
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, Strategy, caption
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.taught import Taught
from mami_core.captions.vocabulary import Vocabulary
from mami_core.exemplars.search import SearchConfig
from mami_core.features import pool_batch
from mami_core.features.looks import look_maps
from mami_core.images import LocalFiles, decode, list_images
from mami_core.images.on_gpu import OnGpu
from mami_core.pipeline import LabelConfig, label
from mami_core.subjects import Precision
from tests import tiny
from tests.benchmarks.jpegs import write_jpegs
from tests.core.waiting import waiting_is_an_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]


def networks() -> tuple[Captioner, LanguageModel]:
    vocabulary = Vocabulary(tuple(f"word{number}" for number in range(996)))
    phrases = (" ".join(f"word{(first * step) % 996}" for step in range(1, 6)) for first in range(1, 996))
    taught = Taught.by(phrases, vocabulary, in_a_row=2)
    captioner = Captioner(CaptionerConfig(num_features=256, hidden=128, attention_size=128), vocabulary, taught)
    language_model = LanguageModel(LanguageModelConfig(hidden=128), vocabulary)
    with torch.no_grad():
        captioner.output.weight.mul_(20)
        language_model.output.weight.mul_(5)
    return captioner.eval().cuda(), language_model.eval().cuda()


def test_looks_are_those_of_the_cpu_in_any_batch() -> None:
    pixels = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    on_gpu, some = pixels.cuda(), pixels[7:12].cuda()
    together = look_maps(on_gpu)
    with waiting_is_an_error():
        alone = look_maps(some)
    assert alone.equal(together[7:12])
    assert (together.cpu() != look_maps(pixels)).float().mean() < 1e-4


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("strategy", ["rerank", "while_decoding"])
def test_captions_do_not_depend_on_the_shard(strategy: Strategy, precision: Precision) -> None:
    captioner, language_model = networks()
    features, present = torch.randn(600, 15, 256), torch.rand(600, 15) < 0.8
    present[:, 0] = True
    config = DecodeConfig(strategy=strategy, precision=precision)
    together = caption(captioner, language_model, features, present, config)
    for first, end in ((0, 100), (100, 101), (500, 600)):
        alone = caption(captioner, language_model, features[first:end], present[first:end], config)
        texts = [[each.caption for each in beams] for beams in alone]
        assert texts == [[each.caption for each in beams] for beams in together[first:end]]
        assert alone == together[first:end], "to the bit"
    smaller = caption(captioner, language_model, features, present, replace(config, batch_size=64))
    assert smaller == together


def test_captions_are_those_of_a_cpu() -> None:
    captioner, language_model = networks()
    features, present = torch.randn(100, 15, 256), torch.ones(100, 15, dtype=torch.bool)
    there = caption(captioner, language_model, features, present, DecodeConfig())
    here = caption(captioner.cpu(), language_model.cpu(), features, present, DecodeConfig())
    same = sum(one[0].caption == other[0].caption for one, other in zip(here, there, strict=True))
    assert same >= 98


def test_kernels_are_built_and_agree() -> None:
    wide = torch.randn(70, 50, 300, device="cuda")
    query, key, energy = wide[..., 10:138], torch.randn(70, 15, 128, device="cuda"), torch.randn(128, device="cuda")
    assert kernels.serve(query)
    present = torch.rand(70, 15, device="cuda") < 0.7
    present[:, 3] = True
    found = kernels.weights(query, attention._exp2(key), present, energy_A=energy)
    expected = (energy * torch.tanh(query[:, :, None] + key[:, None])).sum(-1)
    torch.testing.assert_close(found, attention.masked_softmax(expected, present), atol=1e-5, rtol=1e-3)
    gates, cell = torch.randn(3333, 512, device="cuda") * 3, torch.randn(3333, 128, device="cuda")
    hidden, now = lstm.update((gates, torch.zeros_like(gates)), cell)
    enter, forget, candidate, leave = gates.chunk(4, 1)
    expected = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    torch.testing.assert_close(now, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden, leave.sigmoid() * expected.tanh(), atol=1e-5, rtol=1e-4)


def test_features_do_not_depend_on_the_other_regions_and_images() -> None:
    levels = [(64, 56), (128, 28), (256, 14), (512, 7)]
    pyramid = [torch.randn(32, channels, side, side, device="cuda") for channels, side in levels]
    pyramid = [level.contiguous(memory_format=torch.channels_last) for level in pyramid]
    rows = torch.randint(0, 32, (1500,)).square() // 32
    regions = torch.rand(1500, 56, 56, device="cuda") > 0.9
    together = pool_batch(pyramid, regions, rows)
    here = pool_batch([level.cpu() for level in pyramid], regions.cpu(), rows)
    torch.testing.assert_close(together.cpu(), here, atol=1e-4, rtol=1e-4)
    order = torch.randperm(1500)
    assert pool_batch(pyramid, regions[order.cuda()], rows[order]).equal(together[order.cuda()])
    for row in (0, 7, 31):
        mine = (rows == row).nonzero()[:, 0]
        alone = [level[row : row + 1] for level in pyramid]
        assert pool_batch(alone, regions[mine.cuda()], torch.zeros_like(mine)).equal(together[mine.cuda()])


def photographs(folder: Path) -> Path:
    """JPEGs of several sizes and kinds, upright and not, and what the GPU's decoder cannot do."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        smooth = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        photo = Image.fromarray(smooth).resize((300 + 40 * (number % 3), 260), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        photo = photo.convert("L") if number == 5 else photo
        photo.save(folder / f"{number:02}.jpg", quality=90, exif=exif, progressive=number % 4 == 3)
    photo.convert("CMYK").save(folder / "12.jpg")
    photo.save(folder / "13.png")
    (folder / "14.jpg").write_bytes((folder / "00.jpg").read_bytes()[:3000])
    return folder


def decoded(folder: Path, numbers: slice) -> dict[int, list[Tensor] | str]:
    table = list_images(str(folder), LocalFiles())[numbers]
    found = OnGpu()(table, LocalFiles(), sizes=(96, 64), crop=0.875, batch_size=8)
    return {image: squares if isinstance(squares, list) else str(squares) for image, squares in found}


def test_an_images_pixels_depend_on_the_image_alone(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photographs")
    together = decoded(folder, slice(None))
    cut_off = together.pop(14)
    assert isinstance(cut_off, str), "the decoder would fill it up with what it has at hand"
    assert "truncated" in cut_off
    for number in range(14):
        (alone,) = decoded(folder, slice(number, number + 1)).values()
        for one, other in zip(alone, together[number], strict=True):
            assert isinstance(one, Tensor)
            assert isinstance(other, Tensor)
            assert one.equal(other)
        path = list_images(str(folder), LocalFiles())["path"][number].as_py()
        here = decode(Path(path).read_bytes(), sizes=(96, 64), crop=0.875)
        for one, other in zip(here, together[number], strict=True):
            apart = (one.float() - other.cpu().float()).abs()  # pyrefly: ignore
            assert apart.mean() < 2, (number, float(apart.mean()))


def test_pixels_are_the_same_while_the_gpu_is_busy(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "photographs", 64, processes=1)
    table = list_images(str(tmp_path / "photographs"), LocalFiles())

    def found(images: pa.Table) -> Iterator[tuple[int, Tensor]]:
        for image, squares in OnGpu()(images, LocalFiles(), sizes=(224,), crop=0.875, batch_size=256):
            assert isinstance(squares, list)
            yield image, squares[0]

    alone = {image: square.clone() for image, square in found(table)}
    busy = torch.randn(4096, 4096, device="cuda")
    for image, square in found(pa.concat_tables([table] * 20)):
        busy = (busy @ busy).clamp_(-1, 1)
        assert square.equal(alone[image])


@pytest.mark.parametrize("decode_on", ["cpu", "gpu"])
def test_labels_are_those_of_a_cpu(tmp_path: Path, decode_on: Literal["cpu", "gpu"]) -> None:
    folder = tiny.write_photographs(tmp_path / "photographs", 24)
    images = list_images(str(folder), LocalFiles())
    config = LabelConfig(search=SearchConfig(k=4, batch_size=8), precision="float32", decode_on=decode_on)
    here = label(tiny.network(), (), images, LocalFiles(), tiny.captioner(), replace(config, decode_on="cpu"))
    there = label(tiny.network().to("cuda"), (), images, LocalFiles(), tiny.captioner(), config)
    pairs = list(zip(here.exemplars["images"].to_pylist(), there.exemplars["images"].to_pylist(), strict=True))
    assert sum(one == other for one, other in pairs) >= 0.8 * len(pairs)
    captions = zip(here.labels["caption"].to_pylist(), there.labels["caption"].to_pylist(), strict=True)
    assert sum(one == other for one, other in captions) >= 0.7 * len(pairs)
