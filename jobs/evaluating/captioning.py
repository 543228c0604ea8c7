"""Captions made now, of annotated neurons that the captioner was not trained on: in this process, without Ray."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jobs.engine.progress import Progress
from jobs.evaluating.scored import Found, Means, compared_of, found_of
from jobs.storage import redact
from jobs.storage.networks import load_captioner, load_encoder
from jobs.training.annotated import GENERATED, Source
from jobs.training.described import Captioned
from mami_core.captions.decode import DecodeConfig, caption, check_networks
from mami_core.errors import CheckpointError, DescriptionsError
from mami_core.learning.annotated_features import encode_annotated, examples_of
from mami_core.learning.checkpoint import Trained
from mami_core.learning.descriptions import AnnotatedNeurons, Pictures
from mami_core.learning.targets import SplitConfig, split
from mami_core.learning.training import Examples
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.described import description_measures
from mami_core.metrics.measures import Rows

logger = logging.getLogger(__name__)

_AT_ONCE = 64
"""Neurons that are captioned between two signs of progress."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ToCaption:
    """Annotated neurons that a captioner is to caption, none of which it was trained on."""

    name: str
    trained: Trained
    annotated: AnnotatedNeurons
    """The neurons to caption."""
    training: list[tuple[str, ...]]
    """What people said of the neurons that constant captions are chosen from."""
    note: str
    """Which neurons these are."""
    decode: DecodeConfig
    identity: dict[str, Any]
    """What the captions follow from, as JSON values."""

    @staticmethod
    def of(
        url: str, neurons: str, decode: Callable[[DecodeConfig | None], DecodeConfig], *, images: str | None = None
    ) -> "ToCaption":
        """The annotated neurons in the folder `neurons`, or those that the project makes ("generated").

        `decode` says how captions are chosen, given the captioner's own way if it has one; `images` are those that the
        folder's ids.csv numbers, where it has no pictures.

        Of the neurons that the captioner was trained on, only its test part is captioned; of others, all.

        Raises:
            CheckpointError: if the captioner cannot be restored.
            DescriptionsError: if the neurons cannot be read, or none of them is left to test on.
        """
        trained = load_captioner(url)
        source = dataclasses.replace(_source(neurons, trained.notes), images=images)
        logger.info("Opening the annotated neurons (%s)", redact(neurons))
        annotated = source.open()
        identity = source.identity(annotated)
        test, train, note = _parts(annotated, trained, identity["digest"])
        how = decode(trained.decode)
        check_networks(trained.captioner, trained.language_model, how)
        return ToCaption(
            name=neurons if neurons == GENERATED else Path(neurons).name,
            trained=trained,
            annotated=only(annotated, test),
            training=[annotated.descriptions[position] for position in train],
            note=note,
            decode=how,
            identity={
                "captioner": trained.id,
                "neurons": identity,
                "scored": len(test),
                "decode": how.identity(),
            },
        )

    def found(self, means: Means) -> Found:
        """Captions, then scores.

        Raises:
            CheckpointError: if the captioner does not fit this machine's encoder.
        """
        captioned = self._captioned(means.device)
        compared = compared_of(captioned, means)
        about = Rows(subject=captioned.subject, captioner=captioned.captioner, seed=means.seed)
        return found_of(description_measures(compared, about), captioned, compared)

    def _captioned(self, device: str) -> Captioned:
        trained, encoder = self.trained.to(device), load_encoder(self.trained).to(device)
        images = np.unique(self.annotated.images[self.annotated.images >= 0]).tolist()
        with Progress("features", total=len(images), things="images") as bar:
            table = encode_annotated(
                self.annotated, encoder, images, device=device, progress=lambda n: _advance(bar, n)
            )
        return Captioned(
            subject=self.name,
            captioner=trained.id,
            neurons=_caption(trained, examples_of(self.annotated, table), self.decode),
            training=self.training,
            notes=[self.note],
        )


def only(annotated: AnnotatedNeurons, positions: Sequence[int]) -> AnnotatedNeurons:
    """Some of the annotated neurons; images keep their numbers."""
    return dataclasses.replace(
        annotated,
        neurons=tuple(annotated.neurons[position] for position in positions),
        descriptions=tuple(annotated.descriptions[position] for position in positions),
        images=annotated.images[list(positions)],
        pictures=_PicturesOfSome(annotated.pictures, tuple(positions)),
        read_shown=None,  # scores ask for none of it
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _PicturesOfSome:
    """Implements `Pictures` for some of the neurons."""

    pictures: Pictures
    positions: tuple[int, ...]

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        return self.pictures.pixels(image)

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        return self.pictures.region(self.positions[neuron], rank)


def _source(neurons: str, notes: dict[str, Any]) -> Source:
    """Generated neurons are made as for the captioner's training, if it was trained on such."""
    made = notes.get("neurons", {})
    if neurons != GENERATED or made.get("kind") != GENERATED:
        return Source(name=neurons)
    return Source(name=GENERATED, num_neurons=made["num_neurons"], seed=made["seed"])


def _parts(annotated: AnnotatedNeurons, trained: Trained, digest: str) -> tuple[list[int], list[int], str]:
    """The positions of the neurons to caption and of those to choose a constant from, and what to say of it."""
    learned_from, positions = trained.notes.get("neurons", {}).get("digest"), list(range(len(annotated)))
    if digest != learned_from:
        note = (
            "The captioner was trained on other neurons, or on another choice of them"
            if learned_from
            else "What the captioner was trained on is not known: these neurons may be among it"
        )
        return positions, positions, f"{note}. All of them are scored, and the constant was chosen on them."
    parts = split(annotated.neurons, _split_config(trained))
    if not parts["test"]:
        raise DescriptionsError("The captioner was trained without a test part: no neuron is left that it did not see.")
    note = f"Scored is the test part: {len(parts['test']):,} neurons of {len(annotated):,}, none of them trained on."
    return parts["test"], parts["train"], note


def _split_config(trained: Trained) -> SplitConfig:
    try:
        stated = dict(trained.notes["split"])
        return SplitConfig(test_layers=tuple(stated.pop("test_layers")), **stated)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"captioner {trained.id}: its notes do not say which neurons it was trained on. Train it again."
        ) from error


def _caption(trained: Trained, examples: Examples, decode: DecodeConfig) -> list[DescribedNeuron]:
    described = []
    with Progress("captions", total=len(examples.neurons), things="neurons") as bar:
        for start in range(0, len(examples.neurons), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            vectors, present = examples.features[some], examples.present[some]
            found = caption(trained.captioner, trained.language_model, vectors, present, decode)
            for row, beams in enumerate(found, start=start):
                layer, unit = examples.neurons[row]
                said = examples.descriptions[row]
                described.append(DescribedNeuron(layer=layer, unit=unit, caption=beams[0].caption, descriptions=said))
            _advance(bar, len(found))
    return described


def _advance(bar: Progress, number: int) -> None:
    for _ in range(number):
        bar.advance()
