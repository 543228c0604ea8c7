"""Fits the packaged scorer to annotated photographs: what it takes to judge captions with nothing from outside.

python -m jobs.fit_scorer --photographs ANNOTATED --output learned.safetensors

ANNOTATED holds a folder a source, each with `images/` and `regions.jsonl`: a JSON line a region with `image`, `names`
and `phrases`. Every photograph passes EfficientNet-Lite2 once, every distinct text the sentence encoder once; the
regression itself takes seconds. The map that ships was fitted by the same functions, from features that were computed
before: docs/trust.md says on what, and how good it is.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import torch
from safetensors.torch import save

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned
from jobs.engine.progress import Progress
from jobs.storage.places import settle
from mami_core.errors import ImageSourceError
from mami_core.images import LocalFiles, batches, list_images
from mami_core.images.held_out import places
from mami_core.learning.scorer_fit import fit_joint, targets
from mami_core.metrics.scorers.packaged import CLASSIFIER, INPUT_SIZE, colour_shares, look, look_of
from mami_core.metrics.sentences import load_sentences
from mami_core.subjects import load_subject

_BATCH = 32
_SEEN_S = 8.0
"""Photographs a second that one CPU core shows to the classifier, for --dry-run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitScorerJob:
    """Fit the map between images and sentences to annotated photographs."""

    ADDRESSES: ClassVar = ("photographs", "output")

    photographs: str
    """A folder with a folder a source, each with images/ and regions.jsonl."""
    output: str
    """The safetensors file to write."""
    held_out: float = 0.3
    """Share of the photographs, by a hash of their names, that are left out, to judge with afterwards."""
    texts_per_photograph: int = 2
    """Phrases of a photograph that are read, at most, besides its names."""

    def __post_init__(self) -> None:
        settle(self)


def plan(job: FitScorerJob) -> str:
    """What `run` would do."""
    said, images = chosen(job)
    size = sum(images["size"].to_pylist())
    steps = [
        Step(name="photographs", items=images.num_rows, bytes_read=size, seconds=images.num_rows / _SEEN_S),
        Step(name="texts", items=sum(len(text) for texts in said.values() for text in texts), requests=0, seconds=None),
        Step(name="map", bytes_written=10e6, seconds=10.0),
    ]
    return planned(f"Fitting the scorer to {images.num_rows:,} photographs", steps, into=job.output)


def chosen(job: FitScorerJob) -> tuple[dict[str, list[list[str]]], pa.Table]:
    """What is said of each photograph, and the photographs that are fitted to.

    Raises:
        ImageSourceError: there are none.
    """
    said = read_annotations(Path(job.photographs), job.texts_per_photograph)
    listed = list_images(job.photographs, LocalFiles())
    keys = listed["key"].to_pylist()
    images = listed.filter(
        [key in said and place >= job.held_out for key, place in zip(keys, places(keys), strict=True)]
    )
    if not images.num_rows:
        raise ImageSourceError(f"{job.photographs}: expected SOURCE/images and SOURCE/regions.jsonl, found none.")
    return said, images


def run(job: FitScorerJob) -> None:
    """Look at every photograph, read every text, fit, write."""
    said, images = chosen(job)
    keys = dict(zip(images["image"].to_pylist(), images["key"].to_pylist(), strict=True))
    subject, sentences = load_subject(CLASSIFIER, input_size=INPUT_SIZE), load_sentences()
    numbers, features, probabilities, colours = [], [], [], []
    stream = batches(images, LocalFiles(), sizes=(INPUT_SIZE,), crop=1.0, batch_size=_BATCH, on_error=lambda *_: None)
    with torch.inference_mode(), Progress("photographs", total=images.num_rows, things="photographs") as progress:
        for batch in stream:
            pixels = batch.pixels[0][: batch.num_valid]
            head, seen = look(subject, pixels)
            numbers += batch.images[: batch.num_valid].tolist()
            features.append(torch.cat([head, look_of(pixels)], dim=1))
            probabilities.append(seen)
            colours.append(colour_shares(torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 32).flatten(2).mT))
            progress.done += batch.num_valid
    wanted, centre = targets([said[keys[number]] for number in numbers], torch.cat(colours), sentences)
    joint = fit_joint(
        torch.cat(features),
        torch.cat(probabilities),
        wanted,
        classes=sentences.embed(class_names()),
        text_centre=centre,
    )
    tensors = {name: getattr(joint, name).half() for name in joint.__dataclass_fields__}
    Path(job.output).write_bytes(save(tensors))
    runtime.show(f"{job.output}: fitted to {len(numbers):,} photographs.")


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
