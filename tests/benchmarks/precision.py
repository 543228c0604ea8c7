"""What each precision does to labels of real networks over real photographs: python -m tests.benchmarks.precision.

Everything is compared with float32 on the same device. A CPU has no TF32: there, what goes into every convolution and
matrix product is rounded to the ten bits that TF32 keeps, to nearest, and the sums stay float32. A GPU does so in most
of them only (not in depthwise convolutions, for one), so this is what TF32 does at most.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mami_core import pipeline
from mami_core.captioners import shipped
from mami_core.captions.decode import DecodeConfig
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, load_encoder
from mami_core.images import HERE, LocalFiles, list_images
from mami_core.labels import unpack_regions
from mami_core.learning import checkpoint
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import LabelConfig
from mami_core.regroup import assemble
from mami_core.subjects import Precision, Subject, lean, load_subject
from tests.benchmarks.gpu_setting import PRECISIONS

HEADER = """\
| subject | precision | exemplars kept | thresholds apart, median; 99 % below | regions, IoU | features, cosine | \
captions equal, decoded in float32 | and in this precision |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""
SUBJECTS = {
    "efficientnet_lite0": None,
    "torchvision:mobilenet_v2": "torchvision_mobilenet_v2.safetensors",
    "torchvision:squeezenet1_0": "torchvision_squeezenet1_0.safetensors",
}
K = 15
aten = torch.ops.aten
_LOST_BITS = 13
"""Of a float32's mantissa, in TF32."""


class TenBits(TorchDispatchMode):
    """TF32 on a CPU: the factors of every product are rounded before it."""

    factors: Mapping[Any, tuple[int, ...]] = {
        aten.conv2d.default: (0, 1),
        aten.conv2d.padding: (0, 1),
        aten.linear.default: (0, 1),
        aten.matmul.default: (0, 1),
        aten.mm.default: (0, 1),
        aten.bmm.default: (0, 1),
        aten.addmm.default: (1, 2),
        aten.baddbmm.default: (1, 2),
        aten.convolution.default: (0, 1),
        torch.ops.mkldnn._reorder_linear_weight.default: (0,),
        torch.ops.mkldnn._linear_pointwise.default: (0,),
    }
    """Which arguments they are."""

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        rounded = self.factors.get(func, ())
        return func(*(ten_bits(each) if place in rounded else each for place, each in enumerate(args)), **kwargs or {})


def ten_bits(numbers: Tensor) -> Tensor:
    """The nearest numbers that TF32 has."""
    if numbers.dtype != torch.float32:
        return numbers
    bits = numbers.view(torch.int32)
    return ((bits + (1 << (_LOST_BITS - 1))) >> _LOST_BITS << _LOST_BITS).view(torch.float32)


@dataclass(frozen=True, eq=False)
class Labelled:
    """One subject over the images, in one precision."""

    exemplars: pa.Table
    features: pa.Table
    of_reference: pa.Table
    """Features and regions of the exemplars that float32 found."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What is labelled, and on what."""

    published: Subject
    images: pa.Table
    trained: Trained
    device: torch.device
    most_units: int
    """Of a layer."""

    def lines(self) -> Iterator[str]:
        """One a precision."""
        reference = self._labelled("float32", None)
        captions = self._captions(reference, "float32")
        for precision in PRECISIONS[1:]:
            found = self._labelled(precision, reference)
            thresholds = _apart(found.exemplars, reference.exemplars)
            cells = (
                f"{_share_kept(found.exemplars, reference.exemplars):.1%}",
                f"{np.median(thresholds):.1e}; {np.quantile(thresholds, 0.99):.1e}",
                f"{_overlap(found.of_reference, reference.features):.4f}",
                f"{_cosine(found, reference):.6f}",
                *(f"{_share_equal(self._captions(found, each), captions):.1%}" for each in ("float32", precision)),
            )
            yield f"| {self.published.name} | {precision} | " + " | ".join(cells) + " |"

    def _labelled(self, precision: Precision, reference: Labelled | None) -> Labelled:
        subject = lean(self.published, self.published.default_layers, precision=precision).to(self.device)
        encoder = load_encoder(self.trained.encoder, precision=precision).to(self.device)
        with self._computing_in(precision):
            exemplars = self._searched(subject)
            features = self._encoded(subject, encoder, exemplars)
            same = features if reference is None else self._encoded(subject, encoder, reference.exemplars)
        return Labelled(exemplars, features, same)

    def _computing_in(self, precision: Precision) -> AbstractContextManager[object]:
        return TenBits() if precision == "tf32" and self.device.type == "cpu" else nullcontext()

    def _searched(self, subject: Subject) -> pa.Table:
        layers = subject.default_layers
        states, _ = pipeline.search_images(subject, layers, self.images, LocalFiles(), SearchConfig(k=K), decoder=HERE)
        tables = (exemplars_table(subject.name, *each, self.images["key"]) for each in states.items())
        return pa.concat_tables(table.slice(0, self.most_units) for table in tables)

    def _encoded(self, subject: Subject, encoder: Encoder, exemplars: pa.Table) -> pa.Table:
        return pipeline.encode_images(subject, encoder, exemplars, self.images, LocalFiles(), batch_size=32)

    def _captions(self, labelled: Labelled, precision: Precision) -> list[str | None]:
        decode = (self.trained.decode or DecodeConfig()).changed(precision=precision)
        config = LabelConfig(decode=decode)
        with self._computing_in(precision):
            table = pipeline.caption_neurons(self.trained, labelled.exemplars, labelled.features, config, run="")
        return table["caption"].to_pylist()


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


def _cosine(found: Labelled, reference: Labelled) -> float:
    """Of the same exemplars' features."""
    (one, present), (other, _) = (
        assemble(reference.exemplars, each, K) for each in (found.of_reference, reference.features)
    )
    return float(torch.nn.functional.cosine_similarity(one[present].float(), other[present].float()).mean())


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
    device = torch.device(chosen.device)
    trained = checkpoint.load(shipped()).to(device)
    print(f"{images.num_rows} photographs, torch {torch.__version__}, {os.cpu_count()} CPUs\n\n{HEADER}", flush=True)
    for name in chosen.subjects:
        subject = load_subject(name, weights=SUBJECTS[name] and str(chosen.weights / SUBJECTS[name]))
        for line in Setting(subject, images, trained, device, chosen.units).lines():
            print(line, flush=True)


if __name__ == "__main__":
    main()
