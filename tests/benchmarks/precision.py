"""What each precision does to labels of real networks over real photographs: python -m tests.benchmarks.precision.

Everything is compared with float32 on the same device. On a CPU, what goes into every product of the networks is
rounded to the ten bits that TF32 keeps; the captioner's own products are not.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from mami_core import pipeline
from mami_core.captioners import shipped
from mami_core.captions.decode import DecodeConfig
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.table import exemplars_table
from mami_core.features import load_encoder
from mami_core.images import HERE, LocalFiles, list_images
from mami_core.labels import unpack_regions
from mami_core.learning import checkpoint
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import LabelConfig
from mami_core.subjects import Precision, Subject, lean, load_subject
from tests.benchmarks.gpu_setting import PRECISIONS

HEADER = """\
| subject | precision | exemplars kept | thresholds apart (median, 99 % below) | regions, IoU | features, cosine | \
captions equal (decoded in float32; in this precision) |
| --- | --- | ---: | ---: | ---: | ---: | ---: |"""
SUBJECTS = {
    "efficientnet_lite2": None,
    "torchvision:squeezenet1_0": "torchvision_squeezenet1_0.safetensors",
    "torchvision:mobilenet_v2": "torchvision_mobilenet_v2.safetensors",
}
_LOST_BITS = 13
"""Of a float32's mantissa, in TF32."""


class Compared:
    """One subject over some images, in every precision."""

    def __init__(
        self, published: Subject, images: pa.Table, trained: Trained, device: torch.device, most_units: int
    ) -> None:
        self._published, self._images, self._device, self._most_units = published, images, device, most_units
        self._trained = trained.to(device)

    def lines(self) -> Iterator[str]:
        """One a precision."""
        reference = self._searched("float32")
        encoded = self._encoded("float32", reference)
        captions = self._captions(reference, encoded, "float32")
        for precision in PRECISIONS[1:]:
            found = self._searched(precision)
            same_exemplars = self._encoded(precision, reference)
            features = self._encoded(precision, found)
            decoded: Sequence[Precision] = ("float32", precision)
            equal = [_share_equal(self._captions(found, features, each), captions) for each in decoded]
            thresholds = _apart(found, reference)
            cells = (
                f"{_share_kept(found, reference):.1%}",
                f"{np.median(thresholds):.2g}, {np.quantile(thresholds, 0.99):.2g}",
                f"{_overlap(same_exemplars, encoded):.4f}",
                f"{_cosine(same_exemplars, encoded):.6f}",
                "; ".join(f"{share:.1%}" for share in equal),
            )
            yield f"| {self._published.name} | {precision} | " + " | ".join(cells) + " |"

    def _subject(self, precision: Precision) -> Subject:
        subject = lean(self._published, self._published.default_layers, precision=precision).to(self._device)
        self._round(subject, precision)
        return subject

    def _round(self, subject: Subject, precision: Precision) -> None:
        if precision == "tf32" and self._device.type == "cpu":
            for module in subject.network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.weight.data = _ten_bits(module.weight.data)
                    module.register_forward_pre_hook(lambda _module, inputs: tuple(map(_ten_bits, inputs)))

    def _searched(self, precision: Precision) -> pa.Table:
        subject, config = self._subject(precision), SearchConfig()
        layers = subject.default_layers
        states, _ = pipeline.search_images(subject, layers, self._images, LocalFiles(), config, decoder=HERE)
        tables = (exemplars_table(subject.name, *each, self._images["key"]) for each in states.items())
        return pa.concat_tables(table.slice(0, self._most_units) for table in tables)

    def _encoded(self, precision: Precision, exemplars: pa.Table) -> pa.Table:
        encoder = load_encoder(self._trained.encoder, precision=precision).to(self._device)
        self._round(encoder._subject, precision)
        subject = self._subject(precision)
        return pipeline.encode_images(subject, encoder, exemplars, self._images, LocalFiles(), batch_size=32)

    def _captions(self, exemplars: pa.Table, features: pa.Table, precision: Precision) -> list[str | None]:
        decode = self._trained.decode or DecodeConfig()
        config = LabelConfig(decode=decode.changed(precision=precision))
        table = pipeline.caption_neurons(self._trained, exemplars, features, config, run="")
        return table["caption"].to_pylist()


def _ten_bits(numbers: Tensor) -> Tensor:
    bits = numbers.float().view(torch.int32)
    return ((bits + (1 << (_LOST_BITS - 1))) >> _LOST_BITS << _LOST_BITS).view(torch.float32)


def _share_kept(found: pa.Table, reference: pa.Table) -> float:
    pairs = zip(found["images"].to_pylist(), reference["images"].to_pylist(), strict=True)
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs if other]))


def _apart(found: pa.Table, reference: pa.Table) -> np.ndarray:
    """Thresholds' differences as shares of themselves, where there is one."""
    one, other = found["threshold"].to_numpy(), reference["threshold"].to_numpy()
    return np.abs(one - other)[other > 0] / other[other > 0]


def _overlap(found: pa.Table, reference: pa.Table) -> float:
    one, other = (unpack_regions(table["region"].to_pylist()) for table in (found, reference))
    both, any_ = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return float((both[any_ > 0] / any_[any_ > 0]).mean())


def _cosine(found: pa.Table, reference: pa.Table) -> float:
    one, other = (
        torch.frombuffer(bytearray(b"".join(table["vector"].to_pylist())), dtype=torch.float16)
        .view(table.num_rows, -1)
        .float()
        for table in (found, reference)
    )
    return float(torch.nn.functional.cosine_similarity(one, other).mean())


def _share_equal(found: list[str | None], reference: list[str | None]) -> float:
    return float(np.mean([one == other for one, other in zip(found, reference, strict=True)]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path, help="folder of torchvision's weights")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--units", type=int, default=256, help="of a layer, at most")
    parser.add_argument("--subjects", nargs="*", default=list(SUBJECTS))
    chosen = parser.parse_args()
    images = list_images(str(chosen.photographs), LocalFiles()).slice(0, chosen.images)
    trained = checkpoint.load(shipped())
    print(f"{images.num_rows} photographs, torch {torch.__version__}, {os.cpu_count()} CPUs\n\n{HEADER}", flush=True)
    for name in chosen.subjects:
        weights = SUBJECTS[name] and str(chosen.weights / SUBJECTS[name])
        subject = load_subject(name, weights=weights)
        for line in Compared(subject, images, trained, torch.device(chosen.device), chosen.units).lines():
            print(line, flush=True)


if __name__ == "__main__":
    main()
