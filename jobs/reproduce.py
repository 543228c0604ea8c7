"""Makes the captioner that comes with the project again, from the photographs that it was taught by.

python -m jobs.reproduce --data DATA --output CAPTIONER

The photographs are not part of the project; mami_core/captioners/dissected/README.md says which they are. It needs
mami[detect], which finds faces and text in them. Running the command again resumes.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from jobs import annotate, train
from jobs.annotate import AnnotateJob
from jobs.engine import runtime
from jobs.storage.places import settle
from jobs.train import TrainJob
from mami_core.errors import ConfigError

LAYERS = (
    *("_bn0", "_blocks.[036]", "_blocks.1[049]", "_blocks.20", "_bn1", "_fc"),
    *("_blocks.6._bn1", "_blocks.11._bn1", "_blocks.1[56]._bn1"),
)
"""From the first layer to the class scores: the ends of some blocks, and inside four of them, where units are many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """Annotate neurons and train the captioner that comes with the project."""

    ADDRESSES: ClassVar = ("data", "output")

    data: str
    """A folder that holds annotated/ (folders with a regions.jsonl), images/imagenet1k_sample/ and text/wordnet.zip."""
    output: str
    """Folder for the annotated neurons (about 5 GB) and the captioner."""
    small: bool = False
    """One photograph in twenty, two layers of one network, one epoch: to see in minutes that it works. What comes out
    says little."""

    def __post_init__(self) -> None:
        settle(self)
        if "://" in self.output:
            raise ConfigError(f"{self.output}: expected a folder on this machine, which training reads.")


def run(reproduction: Reproduction) -> None:
    """Both jobs, one after the other."""
    annotate.run(_neurons(reproduction))
    output = Path(reproduction.output)
    training = captioner(str(output / "annotated"), str(output / "captioner"))
    train.run(replace(training, max_epochs=1) if reproduction.small else training)


def _neurons(reproduction: Reproduction) -> AnnotateJob:
    data = Path(reproduction.data)
    if not (data / "text" / "wordnet.zip").is_file():
        raise ConfigError(
            f"{data}: expected text/wordnet.zip, annotated/ and images/imagenet1k_sample/ in this folder."
        )
    job = neurons(data, str(Path(reproduction.output) / "annotated"))
    if not reproduction.small:
        return job
    return replace(job, held_out=0.95, subject=job.subject[:1], layers=("_bn0", "_blocks.19"), parts=1, concepts=1)


def plan(reproduction: Reproduction) -> str:
    """What `run` would do."""
    made = annotate.plan(_neurons(reproduction))
    time = "minutes" if reproduction.small else "35 minutes"
    return f"{made}\n\nThen a captioner is trained on them: {time} on two CPU cores, into {reproduction.output}."


def neurons(data: Path, output: str) -> AnnotateJob:
    """What the captioner is taught by: python -m jobs.reproduce.

    30 minutes on two CPU cores for 5,262 photographs and two networks of 5,800 units: 49,954 neurons, five gigabytes.
    """
    sources = [*sorted((data / "annotated").iterdir()), data / "images" / "imagenet1k_sample"]
    return AnnotateJob(
        photographs=tuple(str(source) for source in sources if source.is_dir()),
        wordnet=str(data / "text" / "wordnet.zip"),
        subject=("efficientnet_lite1", "efficientnet_lite2"),
        layers=LAYERS,
        output=output,
        held_out=0.3,
        detect=("faces", "text"),
        parts=5,
        concepts=3,
        concepts_per_word=3.0,
    )


def captioner(annotated: str, output: str) -> TrainJob:
    """The captioner's shape and training, 35 minutes on two CPU cores, of which features take 6.

    Expected, over the photographs that were held out, of the class-score units of MobileNetV2 / SqueezeNet: .77 / .62
    named, the class's median rank among 1,000 names 3 / 34.5. Of other units docs/captions.md says what people found.
    """
    return TrainJob(
        output=output,
        neurons=annotated,
        place=True,
        scene=True,
        looks=True,
        forms=True,
        attentions=("bahdanau",),
        num_ranks=15,
        hidden=256,
        embedding=96,
        attention_size=128,
        dropout=0.3,
        exemplar_dropout=0.3,
        language_layers=1,
        learning_rate=2e-3,
        decay=True,
        max_epochs=7,
        min_count=3,
        validation=0.03,
        test=0.02,
    )


if __name__ == "__main__":
    sys.exit(runtime.main(Reproduction, run, plan=plan))
