"""Fits the packaged scorer to annotated photographs: what it takes to judge captions with nothing from outside.

python -m jobs.fit_scorer --photographs ANNOTATED --output learned.safetensors

Photographs are read as `jobs.annotate` reads them; with the same --held-out, the same ones are held out. Every
photograph passes EfficientNet-Lite2 once, and every distinct text the sentence encoder; the regression itself takes
seconds. The card beside the map that ships (`mami_core/metrics/scorers/README.md`) says what that one was fitted to,
and how good it is.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
import torch
import tyro
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from jobs.annotating.spec import all_photographs, is_held_out, sources_of
from jobs.engine import runtime
from jobs.engine.foretold import Step, planned
from jobs.engine.progress import Progress
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle
from mami_core import contracts
from mami_core.errors import ConfigError, ImageSourceError, StorageRefusedError
from mami_core.images import LocalFiles, batches
from mami_core.learning.dissected import Photograph
from mami_core.learning.scorer_fit import fit_joint, targets
from mami_core.metrics.scorers.packaged import CLASSIFIER, INPUT_SIZE, colour_shares, look, look_of
from mami_core.metrics.sentences import load_sentences
from mami_core.subjects import load_subject

logger = logging.getLogger(__name__)

_BATCH, _FEWEST = 32, 2
_SEEN_S, _READ_S, _FITTED_S, _MAP_BYTES = 8.0, 100.0, 10.0, 1.9e6
"""For --dry-run: photographs and texts a second of one CPU core, seconds for the regression, and what is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitScorerJob:
    """Fit the map between images and sentences to annotated photographs."""

    ADDRESSES: ClassVar = ("output",)

    photographs: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """A folder of annotated photographs, or FILE:IMAGES_FOLDER, as mami annotate takes them; once for each source."""
    output: str
    """The safetensors file to write, local or s3://."""
    held_out: float = 0.3
    """Share of the photographs, by a hash of their names, that are left out, to judge with afterwards."""
    texts_per_photograph: int = 2
    """Phrases of a photograph that are read, at most, besides its names."""

    def __post_init__(self) -> None:
        settle(self)
        if not self.photographs:
            raise ConfigError("Expected --photographs at least once.")
        if Path(self.output).is_dir():
            raise ConfigError(f"{self.output} is a folder: expected the file to write, such as learned.safetensors.")


def plan(job: FitScorerJob) -> str:
    """What `run` would do."""
    said, images, _ = chosen(job)
    size = sum(images["size"].to_pylist())
    num_texts = len({text for groups in said for group in groups for text in group})
    steps = [
        Step(name="photographs", items=images.num_rows, bytes_read=size, seconds=images.num_rows / _SEEN_S),
        Step(name="texts", items=num_texts, requests=0, seconds=num_texts / _READ_S),
        Step(name="map", bytes_written=_MAP_BYTES, seconds=_FITTED_S),
    ]
    return planned(f"Fitting the scorer to {images.num_rows:,} photographs", steps, into=job.output)


def chosen(job: FitScorerJob) -> tuple[list[list[list[str]]], pa.Table, int]:
    """What is said of each photograph that is fitted to, these photographs, and how many are held out."""
    told = [(each, _said(each, job.texts_per_photograph)) for each in all_photographs(sources_of(job.photographs), 0.0)]
    told = [(each, said) for each, said in told if any(said)]
    fitted = [(each, said) for each, said in told if not is_held_out(each.name, job.held_out)]
    rows = [
        {"image": number, "key": each.name, "path": str(each.path), "size": each.path.stat().st_size}
        for number, (each, _) in enumerate(fitted)
    ]
    nothing = dict.fromkeys(contracts.IMAGES.names)
    images = contracts.from_rows([nothing | row for row in rows], contracts.IMAGES)
    return [said for _, said in fitted], images, len(told) - len(fitted)


def _said(photograph: Photograph, num_texts: int) -> list[list[str]]:
    """Its phrases, and its names."""
    phrases = dict.fromkeys(text for said in photograph.annotations for text in said.phrases)
    names = dict.fromkeys(name for said in photograph.annotations for name in said.names)
    return [list(phrases)[:num_texts], list(names)]


def run(job: FitScorerJob) -> None:
    """Look at every photograph, read every text, fit, write."""
    said, images, num_held = chosen(job)
    storage, name = _place(job.output)
    sentences, seen = load_sentences(), look_at(images)
    if len(seen.images) < _FEWEST:
        raise ImageSourceError(
            f"{', '.join(job.photographs)}: expected {_FEWEST} photographs or more to fit to, of which something is "
            f"said, found {len(seen.images)}."
        )
    wanted, centre = targets([said[number] for number in seen.images], seen.colours, sentences)
    classes = sentences.embed(class_names())
    joint = fit_joint(seen.features, seen.probabilities, wanted, classes=classes, text_centre=centre)
    storage.write(name, save({field: getattr(joint, field).half() for field in joint.__dataclass_fields__}))
    runtime.show(f"{redact(job.output)}: fitted to {len(seen.images):,} photographs; {num_held:,} are held out.")


def _place(output: str) -> tuple[Storage, str]:
    """The file's folder, and its name there.

    Raises:
        ConfigError: nothing can be written there, which is better known before the work than after it.
    """
    folder, _, name = output.rpartition("/")
    storage = storage_for(folder or "/")
    try:
        storage.write(f"{name}.trial", b"")
        storage.delete(f"{name}.trial")
    except StorageRefusedError as error:
        raise ConfigError(str(error)) from error
    return storage, name


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the classifier and the eye for colours see in photographs."""

    images: list[int]
    """The photographs' numbers."""
    features: Float[Tensor, "photographs features"]
    probabilities: Float[Tensor, "photographs classes"]
    colours: Float[Tensor, "photographs colours"]


def look_at(images: pa.Table) -> Looked:
    """Every photograph once; one that cannot be read is left out, and the log says so."""
    subject = load_subject(CLASSIFIER, input_size=INPUT_SIZE)
    numbers, parts = [], []
    stream = batches(
        images,
        LocalFiles(),
        sizes=(INPUT_SIZE,),
        crop=1.0,
        batch_size=_BATCH,
        on_error=lambda _number, key, reason: logger.warning("Left out %s: %s", key, reason),
    )
    with torch.inference_mode(), Progress("photographs", total=images.num_rows, things="photographs") as progress:
        for batch in stream:
            pixels = batch.pixels[0][: batch.num_valid]
            head, seen = look(subject, pixels)
            thumbs = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 32)
            numbers += batch.images[: batch.num_valid].tolist()
            parts.append((torch.cat([head, look_of(pixels)], dim=1), seen, colour_shares(thumbs.flatten(2).mT)))
            progress.done += batch.num_valid
    features, probabilities, colours = map(torch.cat, zip(*parts, strict=True)) if parts else [torch.empty(0, 0)] * 3
    return Looked(images=numbers, features=features, probabilities=probabilities, colours=colours)


def class_names() -> list[str]:
    """The names of the classifier's classes, in their order."""
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


if __name__ == "__main__":
    sys.exit(runtime.main(FitScorerJob, run, plan=plan))
