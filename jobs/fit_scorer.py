"""Fits the packaged scorer to annotated photographs: what it takes to judge captions with nothing from outside.

python -m jobs.fit_scorer --photographs ANNOTATED --output learned.safetensors

ANNOTATED holds a folder a source, each with `images/` and `regions.jsonl`: a JSON line a region with `image`, `names`
and `phrases`. Every photograph passes EfficientNet-Lite2 once, about a tenth of a second on a CPU core, and every
distinct text the sentence encoder; the regression itself takes seconds. The card beside the map that ships
(`mami_core/metrics/scorers/README.md`) says what that one was fitted to, and how good it is.
"""

import json
import logging
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned
from jobs.engine.progress import Progress
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle
from mami_core.errors import ConfigError, ImageSourceError, StorageRefusedError
from mami_core.images import LocalFiles, batches, list_images
from mami_core.images.held_out import places
from mami_core.learning.scorer_fit import fit_joint, targets
from mami_core.metrics.scorers.packaged import CLASSIFIER, INPUT_SIZE, colour_shares, look, look_of
from mami_core.metrics.sentences import load_sentences
from mami_core.subjects import load_subject

logger = logging.getLogger(__name__)

_BATCH, _FEWEST = 32, 2
_SEEN_S = 8.0
"""Photographs a second that one CPU core shows to the classifier, for --dry-run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitScorerJob:
    """Fit the map between images and sentences to annotated photographs."""

    ADDRESSES: ClassVar = ("photographs", "output")

    photographs: str
    """A folder with a folder a source, each with images/ and regions.jsonl."""
    output: str
    """The safetensors file to write, local or s3://."""
    held_out: float = 0.3
    """Share of the photographs, by a hash of their names, that are left out, to judge with afterwards."""
    texts_per_photograph: int = 2
    """Phrases of a photograph that are read, at most, besides its names."""

    def __post_init__(self) -> None:
        settle(self)
        if Path(self.output).is_dir():
            raise ConfigError(f"{self.output} is a folder: expected the file to write, such as learned.safetensors.")


def plan(job: FitScorerJob) -> str:
    """What `run` would do."""
    said, images, _ = chosen(job)
    size = sum(images["size"].to_pylist())
    steps = [
        Step(name="photographs", items=images.num_rows, bytes_read=size, seconds=images.num_rows / _SEEN_S),
        Step(name="texts", items=sum(len(text) for texts in said.values() for text in texts), requests=0, seconds=None),
        Step(name="map", bytes_written=10e6, seconds=10.0),
    ]
    return planned(f"Fitting the scorer to {images.num_rows:,} photographs", steps, into=job.output)


def chosen(job: FitScorerJob) -> tuple[dict[str, list[list[str]]], pa.Table, int]:
    """What is said of each photograph, the photographs that are fitted to, and how many are held out."""
    said = read_annotations(Path(job.photographs), job.texts_per_photograph)
    listed = list_images(job.photographs, LocalFiles())
    annotated = listed.filter([key in said for key in listed["key"].to_pylist()])
    images = annotated.filter(pa.array(places(annotated["key"].to_pylist()) >= job.held_out))
    return said, images, annotated.num_rows - images.num_rows


def run(job: FitScorerJob) -> None:
    """Look at every photograph, read every text, fit, write."""
    said, images, num_held = chosen(job)
    storage, name = _place(job.output)
    keys = dict(zip(images["image"].to_pylist(), images["key"].to_pylist(), strict=True))
    sentences, seen = load_sentences(), look_at(images)
    if len(seen.images) < _FEWEST:
        raise ImageSourceError(
            f"{job.photographs}: expected SOURCE/images and SOURCE/regions.jsonl with {_FEWEST} photographs or more to "
            f"fit to, found {len(seen.images)}."
        )
    wanted, centre = targets([said[keys[number]] for number in seen.images], seen.colours, sentences)
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


def read_annotations(folder: Path, num_texts: int) -> dict[str, list[list[str]]]:
    """What is said of each photograph, by its name below the folder: its phrases and its names."""
    phrases, names = defaultdict(list), defaultdict(list)
    for file in sorted(folder.glob("*/regions.jsonl")):
        for line in file.read_text().splitlines():
            region = json.loads(line)
            key = f"{file.parent.name}/{region['image']}"
            phrases[key] += region["phrases"]
            names[key] += region["names"]
    found = {key: [list(dict.fromkeys(phrases[key]))[:num_texts], list(dict.fromkeys(names[key]))] for key in phrases}
    return {key: groups for key, groups in found.items() if any(groups)}


def class_names() -> list[str]:
    """The names of the classifier's classes, in their order."""
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


if __name__ == "__main__":
    sys.exit(runtime.main(FitScorerJob, run, plan=plan))
