"""One GPU, torch alone: python -m tests.benchmarks.gpu. Nothing is downloaded: networks have random weights.

Every stage and the whole path, over JPEG files, in each precision: what it does a second, beside its floor (the bare
forward passes over pixels that are on the GPU already; the beam's matrix products; the decoder alone) and beside the
plain way on a part of the work. The last column says how far the results are from those in float32.
"""

import argparse
import functools
import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import torch
from torch import Tensor

import mami_core
from mami_core import pipeline
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.language_model import LanguageModel
from mami_core.contracts import Beam
from mami_core.exemplars.search import SearchConfig
from mami_core.features import Encoder
from mami_core.images import LocalFiles
from mami_core.learning.checkpoint import Trained, load
from mami_core.pipeline import LabelConfig
from mami_core.subjects import Subject, load_subject
from mami_core.subjects.precision import products
from tests.benchmarks.decoding import K, networks, plainly
from tests.benchmarks.gpu_images import features, images, search
from tests.benchmarks.gpu_setting import (
    HEADER,
    PRECISIONS,
    Line,
    Setting,
    encoder_in,
    once,
    setting_of,
    timed,
)
from tests.benchmarks.products import Recorder


def main() -> None:
    """Print the table; with OUT in the environment, write the lines there too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", help="cpu tries the program out; its figures mean nothing")
    parser.add_argument("--small", action="store_true", help="minutes become seconds")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("stages", nargs="*", default=list(STAGES))
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU here. --device cpu --small tries the program out.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n{HEADER}", flush=True)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        setting = setting_of(device, Path(folder), small=chosen.small, num_images=chosen.images)
        for stage in chosen.stages:
            try:
                for line in STAGES[stage](setting):
                    lines.append(asdict(line))
                    print(line, flush=True)
            except Exception:  # the other stages are worth having
                print(f"<!-- {stage} failed -->\n{traceback.format_exc()}", flush=True)
            if out := os.environ.get("OUT"):
                (Path(out) / "bench.json").write_text(json.dumps({"device": name, "lines": lines}, indent=1))


# --- captions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Captioning:
    """Who captions, and how."""

    captioner: Captioner
    language_model: LanguageModel | None
    config: DecodeConfig
    work: str


def captionings(setting: Setting) -> Iterator[Captioning]:
    """Captioners of random weights, whose captions all come to their fifteenth word; and the one that ships."""
    for num_features in (1024, 3904):
        captioner, language_model = networks(CaptionerConfig(num_features=num_features))
        work = f"{num_features} features, vocabulary 5,000, beam {setting.beam_size}"
        yield Captioning(captioner, language_model, DecodeConfig(beam_size=setting.beam_size), work)
    shipped = load(Path(mami_core.__file__).parent / "captioners" / "dissected")
    config = replace(shipped.decode or DecodeConfig(), beam_size=setting.beam_size)
    words = len(shipped.captioner.vocabulary)
    work = f"the captioner that ships: {shipped.captioner.config.num_features} features, vocabulary {words:,}, beam "
    yield Captioning(shipped.captioner, shipped.language_model, config, f"{work}{setting.beam_size}")


def captions(setting: Setting) -> Iterator[Line]:
    """Captions by mutual information; the floor is the run's matrix products alone."""
    for each in captionings(setting):
        captioner = each.captioner.to(setting.device)
        language_model = each.language_model and each.language_model.to(setting.device)
        vectors, present = some_neurons(captioner, setting.num_neurons)
        reference: list[str] = []
        for precision in PRECISIONS:
            config = replace(each.config, precision=precision)
            decoded = functools.partial(caption, captioner, language_model, vectors, present, config)
            found: list[str] = []

            def ours(decoded: Callable[[], list[list[Beam]]] = decoded, found: list[str] = found) -> None:
                found[:] = [beams[0].caption for beams in decoded()]

            seconds, peak = timed(ours, setting.device, rounds=1)
            some = min(setting.num_neurons, 512)
            with torch.inference_mode(), Recorder() as floor:
                caption(captioner, language_model, vectors[:some], present[:some], config)
            with products(precision):
                alone, _ = timed(floor.replay, setting.device, rounds=1)
            plain = float("nan")
            if language_model is not None and captioner.taught is None and precision == "float32":
                one_neuron = functools.partial(plainly, captioner, language_model, vectors[0].to(setting.device))
                plain = 1 / timed(one_neuron, setting.device, rounds=1)[0]
            reference = reference or list(found)
            equal = sum(one == other for one, other in zip(found, reference, strict=True)) / len(found)
            yield Line(
                stage="captions", precision=precision, work=f"{setting.num_neurons} neurons, {each.work}",
                rate=len(found) / seconds, floor=some / alone, plain=plain, peak_gib=peak,
                same=f"{equal:.1%} of captions equal",
            )  # fmt: skip


def some_neurons(captioner: Captioner, count: int) -> tuple[Tensor, Tensor]:
    """Features as the captioner knows them, half of each exemplar's the neuron's own; all exemplars present."""
    generator = torch.Generator().manual_seed(0)
    own, each = (torch.randn(count, k, captioner.config.num_features, generator=generator) for k in (1, K))
    mean, scale = captioner.feature_mean.cpu(), captioner.feature_scale.cpu()
    return (mean + scale * (own + each) / 2**0.5).half(), torch.ones(count, K, dtype=torch.bool)


# --- all of it -------------------------------------------------------------------------------------------------------


def whole(setting: Setting) -> Iterator[Line]:
    """`pipeline.label`: JPEGs in, labels out; the networks are loaded already."""
    reference: pa.Table | None = None
    for precision in ("tf32", "bfloat16"):
        encoder = encoder_in(setting, "float32")
        captioner, language_model = networks(CaptionerConfig(num_features=encoder.num_features))
        trained = Trained(
            captioner=captioner, language_model=language_model, encoder=encoder.config, encoder_id=encoder.id
        )
        subject = load_subject(setting.subject, weights="random:0").to(setting.device)
        encoder = encoder_in(setting, precision)
        config = LabelConfig(
            search=SearchConfig(k=K, batch_size=setting.batch_size),
            decode=DecodeConfig(beam_size=setting.beam_size, precision="tf32"),
            precision=precision,
            decode_on="gpu" if setting.device.type == "cuda" else "cpu",
        )
        found: list[pa.Table] = []

        def ours(
            subject: Subject = subject, trained: Trained = trained, config: LabelConfig = config,
            found: list[pa.Table] = found, encoder: Encoder = encoder,
        ) -> None:  # fmt: skip
            whole = pipeline.label(subject, (), setting.table, LocalFiles(), trained, config, encoder=encoder)
            found[:] = [whole.labels]

        with stages_timed(setting.device) as stages:
            seconds, peak = timed(ours, setting.device, rounds=1)
        reference = reference or found[0]
        pairs = zip(found[0]["caption"].to_pylist(), reference["caption"].to_pylist(), strict=True)
        equal = sum(one == other for one, other in pairs) / found[0].num_rows
        yield Line(
            stage="the whole path", precision=precision,
            work=f"{found[0].num_rows} neurons of {setting.subject} over {setting.num_images} JPEGs; {seconds:.1f} s: "
            + ", ".join(f"{name} {taken:.2f}" for name, taken in stages.items()),
            rate=found[0].num_rows / seconds, peak_gib=peak, same=f"{equal:.1%} of captions as in tf32",
        )  # fmt: skip


@contextmanager
def stages_timed(device: torch.device) -> Iterator[dict[str, float]]:
    """The seconds that each stage of `pipeline.label` takes while inside; of the last run, if there are several."""
    seconds: dict[str, float] = {}

    def timing(name: str, stage: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            found: list[Any] = []
            seconds[name] = once(lambda: found.append(stage(*arguments, **named)), device)
            return found[0]

        return run

    with ExitStack() as changed:
        for name in ("lean", "search_images", "encode_images", "caption_neurons"):
            changed.enter_context(patch.object(pipeline, name, timing(name, getattr(pipeline, name))))
        yield seconds


STAGES: dict[str, Callable[[Setting], Iterator[Line]]] = {
    "images": images,
    "search": search,
    "features": features,
    "captions": captions,
    "whole": whole,
}

if __name__ == "__main__":
    main()
