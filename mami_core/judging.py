"""Labels × held-out images → labels that say how far they can be trusted.

`part` → `watch_images` (what the images do to the neurons) and `see_images` (what a scorer sees in them) →
`judge_labels`; and where asked `rerank_labels` before it. Pure functions, like those of `mami_core.pipeline`: a job
calls them on slices and gets the same bits.

Axes: U neurons, N images, D numbers of a scorer's vector, B beams.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float16, Int16, Int64
from safetensors.torch import load, save
from torch import Tensor

from mami_core import contracts
from mami_core.errors import ConfigError
from mami_core.exemplars.given import batches_for
from mami_core.exemplars.watch import Watched, watch
from mami_core.images import HERE, Decoder, Files, batches
from mami_core.images.held_out import places
from mami_core.metrics import trust
from mami_core.metrics.scorers import Scorer
from mami_core.subjects import Subject

Neuron = tuple[str, int]
"""A layer and a unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustConfig:
    """How captions are judged."""

    held_out: float = 0.2
    """The share of the images, by a hash of their names, that choose no exemplars and judge the captions instead."""
    rerank: bool = False
    """Whether the beams are put into the order of their trust. One half of the held-out images then chooses the
    caption, and the other half judges it."""

    def __post_init__(self) -> None:
        """Refuse what leaves nobody to judge, or nothing to choose from."""
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is a share of the images between 0 and 1, such as 0.2; got {self.held_out}.")


def part(images: pa.Table, config: TrustConfig | None) -> tuple[pa.Table, pa.Table]:
    """The images that choose exemplars, and those that are held out; with no `config`, all of them choose."""
    if config is None:
        return images, images.slice(0, 0)
    held_out = places(images["key"].to_pylist()) < config.held_out
    return images.filter(pa.array(~held_out)), images.filter(pa.array(held_out))


def watch_images(
    subject: Subject,
    layers: Sequence[str],
    held_out: pa.Table,
    files: Files,
    *,
    batch_size: int,
    decoder: Decoder = HERE,
) -> tuple[Watched, dict[int, str]]:
    """What these images do to every unit of `layers`; and the images that cannot be used, each with the reason."""
    dropped: dict[int, str] = {}
    stream = batches_for(
        subject,
        held_out,
        files,
        batch_size=batch_size,
        decoder=decoder,
        on_error=lambda image, _key, reason: dropped.__setitem__(image, reason),
    )
    return watch(subject, layers, stream, on_bad=dropped.__setitem__), dropped


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a scorer sees in some images."""

    images: Int64[Tensor, " images"]
    """The images' numbers."""
    vectors: Int16[Tensor, "images size"]
    """See `trust.fixed_point`."""
    chooses: Bool[Tensor, " images"]
    """Which of them choose among the beams, and so judge no caption."""

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        return save({"images": self.images, "vectors": self.vectors, "chooses": self.chooses})

    @staticmethod
    def from_bytes(data: bytes) -> "Seen":
        """What `to_bytes` wrote."""
        return Seen(**load(data))

    @staticmethod
    def joined(parts: Sequence["Seen"]) -> "Seen":
        """Of several groups of images."""
        columns = zip(*((each.images, each.vectors, each.chooses) for each in parts), strict=True)
        return Seen(*map(torch.cat, columns))


def see_images(
    scorer: Scorer, held_out: pa.Table, files: Files, config: TrustConfig, *, batch_size: int, decoder: Decoder = HERE
) -> Seen:
    """What the scorer sees in each of these images; those that cannot be decoded are left out."""
    stream = batches(
        held_out,
        files,
        sizes=(scorer.input_size,),
        crop=scorer.crop,
        batch_size=batch_size,
        decoder=decoder,
        on_error=lambda *_: None,  # the subject's pass over the same images has said so
    )
    numbers, vectors = [torch.empty(0, dtype=torch.int64)], []
    for batch in stream:
        numbers.append(batch.images[: batch.num_valid])
        vectors.append(trust.fixed_point(scorer.see(batch.pixels[0]).cpu()[: batch.num_valid]))
    size = vectors[0].shape[1] if vectors else scorer.read([""]).shape[1]
    images = torch.cat(numbers)
    place_of = dict(zip(held_out["image"].to_pylist(), places(held_out["key"].to_pylist()).tolist(), strict=True))
    half = config.held_out / 2 if config.rerank else 0.0
    chooses = torch.tensor([place_of[image] < half for image in images.tolist()], dtype=torch.bool)
    return Seen(images, torch.cat([torch.empty(0, size, dtype=torch.int16), *vectors]), chooses)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What some images do to some neurons, beside what the scorer sees in the same images."""

    activations: Float16[Tensor, "neurons images"]
    vectors: Int16[Tensor, "images size"]
    chooses: Bool[Tensor, " images"]

    @staticmethod
    def of(images: Int64[Tensor, " some"], activations: Float16[Tensor, "neurons some"], seen: Seen) -> "Evidence":
        """Of the images that both could use, in the order of their numbers."""
        _, ours, theirs = np.intersect1d(images.numpy(), seen.images.numpy(), assume_unique=True, return_indices=True)
        return Evidence(activations[:, ours], seen.vectors[theirs], seen.chooses[theirs])

    def part(self, *, choosing: bool) -> "Evidence":
        """Of the images that choose among the beams, or of those that judge."""
        some = self.chooses == choosing
        return Evidence(self.activations[:, some], self.vectors[some], self.chooses[some])

    def trust(self, rows: Sequence[int], texts: Int16[Tensor, "texts size"]) -> trust.Trust:
        """Of one text for each of these rows; a row may come several times."""
        return trust.trust(self.activations[list(rows)], texts, self.vectors)


class _Read:
    """Texts as the scorer reads them, each once."""

    def __init__(self, scorer: Scorer, texts: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(texts))
        self._rows = {text: row for row, text in enumerate(distinct)}
        self._vectors = trust.fixed_point(scorer.read(distinct)) if distinct else torch.empty(0, 1, dtype=torch.int16)

    def __call__(self, texts: Sequence[str]) -> Int16[Tensor, "texts size"]:
        return self._vectors[[self._rows[text] for text in texts]]


def rerank_labels(labels: pa.Table, evidence: Evidence, scorer: Scorer) -> pa.Table:
    """The labels with each neuron's beams in the order of their trust, by the images that choose; equals stay put."""
    rows = labels.to_pylist()
    offered = [(place, beam["caption"]) for place, row in enumerate(rows) for beam in row["beams"]]
    if not offered:
        return labels
    places_, texts = zip(*offered, strict=True)
    found = iter(evidence.part(choosing=True).trust(places_, _Read(scorer, texts)(texts)).correlation.tolist())
    for row in rows:
        of_beams = [next(found) for _ in row["beams"]]
        order = sorted(
            range(len(of_beams)), key=lambda beam: -of_beams[beam] if of_beams[beam] == of_beams[beam] else 2
        )
        row["beams"] = [row["beams"][beam] for beam in order]
        row.update(row["beams"][0] if row["beams"] else {})
    return contracts.from_rows(rows, contracts.LABELS)


def captions_of(labels: pa.Table) -> dict[Neuron, str]:
    """The caption of every neuron that has one."""
    alive = labels.filter(pc.is_valid(labels["caption"]))
    neurons = zip(alive["layer"].to_pylist(), alive["unit"].to_pylist(), strict=True)
    return dict(zip(neurons, alive["caption"].to_pylist(), strict=True))


def judge_labels(labels: pa.Table, captions: Mapping[Neuron, str], evidence: Evidence, scorer: Scorer) -> pa.Table:
    """The labels with their trust, by the images that judge.

    Args:
        labels: One row a neuron, in the evidence's order.
        captions: By layer and unit, of every neuron of these labels' layers that has a caption: other neurons' are
            what trust is compared with.
        evidence: What is known of these neurons.
        scorer: Reads the captions.
    """
    neurons = list(zip(labels["layer"].to_pylist(), labels["unit"].to_pylist(), strict=True))
    own = [captions.get(neuron) for neuron in neurons]
    other = of_another(neurons, captions)
    read = _Read(scorer, [text for text in (*own, *other) if text is not None])
    judges = evidence.part(choosing=False)

    def of(texts: Sequence[str | None]) -> tuple[list[float | None], list[float | None]]:
        rows = [row for row, text in enumerate(texts) if text is not None]
        columns: tuple[list, list] = ([None] * len(texts), [None] * len(texts))
        if rows:
            found = judges.trust(rows, read([text for text in texts if text is not None]))
            for column, values in zip(columns, (found.correlation, found.auprc), strict=True):
                for row, value in zip(rows, values.tolist(), strict=True):
                    column[row] = None if math.isnan(value) else value
        return columns

    (correlation, auprc), (shuffled, _) = of(own), of(other)
    added = {
        "trust": correlation,
        "trust_auprc": auprc,
        "trust_shuffled": shuffled,
        "scorer": [None if text is None else scorer.name for text in own],
    }
    for name, values in added.items():
        field = contracts.LABELS.field(name)
        labels = labels.set_column(contracts.LABELS.get_field_index(name), field, pa.array(values, field.type))
    return labels.cast(contracts.LABELS)


def of_another(neurons: Sequence[Neuron], captions: Mapping[Neuron, str]) -> list[str | None]:
    """For each neuron the caption of another one of its layer, always the same; None where there is none."""
    layers: dict[str, list[int]] = {}
    for layer, unit in captions:
        layers.setdefault(layer, []).append(unit)
    cycles = {layer: trust.another(units) for layer, units in layers.items()}
    others = [(layer, cycles[layer].get(unit) if layer in cycles else None) for layer, unit in neurons]
    return [None if unit is None else captions[layer, unit] for layer, unit in others]


def judge(labels: pa.Table, watched: Watched, seen: Seen, scorer: Scorer, config: TrustConfig) -> pa.Table:
    """The labels of whole layers, by layer and unit, with their trust; where asked, the beams are ordered by it."""
    parts, evidence = [], []
    for layer, activations in watched.activations.items():
        parts.append(labels.filter(pc.equal(labels["layer"], layer)))
        evidence.append(Evidence.of(watched.images, activations, seen))
    if config.rerank:
        parts = [rerank_labels(*each, scorer) for each in zip(parts, evidence, strict=True)]
    captions = captions_of(pa.concat_tables(parts))
    judged = [judge_labels(part, captions, each, scorer) for part, each in zip(parts, evidence, strict=True)]
    return pa.concat_tables(judged)
