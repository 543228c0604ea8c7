"""What a labelling run consists of, and where each thing lies in its folder.

    generate    of a generator, a chunk of latents → its images      generated/part-….parquet
    exemplars   an image chunk → what it says of every unit          _work/exemplars/SUBJECT/part-….safetensors
    merge       a range of units → their exemplars, from all chunks  exemplars/SUBJECT/LAYER/part-….parquet
    features    an image chunk → features of the exemplars in it     _work/features/SUBJECT/part-….parquet
    held_out    an image chunk → what a scorer sees in it            _work/held_out/part-….safetensors
    captions    a range of units → their captions                    _work/captions/SUBJECT/LAYER/part-….parquet
                               and their exemplars' regions          regions/SUBJECT/LAYER/part-….parquet
    trust       a range of units → their labels                      labels/SUBJECT/LAYER/part-….parquet

An image chunk of the first stage also says what its held-out images do to every unit (_work/watched/SUBJECT/…). Where
nobody judges, `held_out` and `trust` are left out, and the captions are the labels.

It is said here and nowhere else.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.engine.items import Item, part_name
from jobs.storage import safe_name

IMAGES = "images/part-00000-of-00001.parquet"
DROPPED = "dropped/part-00000-of-00001.parquet"
README = "README-the-table-is-in-labels.txt"
"""For people. Readers of Parquet folders that are given the whole run fall over this file, and name it."""
README_TEXT = """The table is in labels/: of every neuron the caption, its scores and the names of its exemplars.

    pandas.read_parquet("labels")
    mami_core.labels.read(".")                            the same, with types that know nulls
    duckdb, polars: read_parquet("labels/**/*.parquet")

exemplars/ has the exemplars by image number, regions/ where in each a neuron is active, images/ where each image's
bytes are, dropped/ what is missing and why. _PLAN.json says what the run is; _MANIFEST.json, written last, what it
made. _work/ holds what lies between: with it the run is resumed, and its report shows attention and similar neurons.
"""

_MOST_ITEMS, _FEWEST_IMAGES, _MOST_IMAGES = 256, 128, 16384
"""Image items of a subject by default: at most so many, unless each would have more than the most images."""
_MOST_ITEMS_IN_ALL, _FEWEST_ITEMS = 4096, 32
"""Image items of all subjects together, and of each where there are very many: see docs/scale.md."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of one layer's units: what one part of the exemplars and labels tables holds."""

    layer: str
    first: int
    end: int
    part: str
    """Its path below the subject's folder, without the ending."""
    row: int
    """Of its first unit in what image chunks say of the layer: another number where not all units are labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The pieces of a run. They follow from the plan, whatever the order in which its settings were given."""

    subjects: Mapping[str, Mapping[str, int]]
    """The subjects by name: their layers, each with its number of units."""
    first_units: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of layers of which only some units are labelled, the first."""
    num_images: int
    images_per_item: int
    neurons_per_item: int
    held_out: float = 0.0
    """The share of the images that judge the captions; 0 where nobody judges."""
    generated: bool = False
    """Whether the images are made, by the one subject there then is."""

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Layout":
        """The pieces of the run with this configuration, as its plan holds it."""
        return Layout(
            subjects={
                name: dict(sorted(subject["layers"].items())) for name, subject in sorted(config["subjects"].items())
            },
            first_units={
                name: subject["first_units"] for name, subject in config["subjects"].items() if "first_units" in subject
            },
            num_images=config["images"]["count"],
            images_per_item=config["images_per_item"],
            neurons_per_item=config["neurons_per_item"],
            held_out=config["trust"]["held_out"] if config.get("trust") else 0.0,
            generated="latents" in config["images"],
        )

    @property
    def judged(self) -> bool:
        """Whether held-out images judge the captions."""
        return self.held_out > 0

    def chunks(self) -> list[tuple[int, int]]:
        """The image chunks: first image and end."""
        starts = range(0, self.num_images, self.images_per_item)
        return [(start, min(start + self.images_per_item, self.num_images)) for start in starts]

    @property
    def num_chunks(self) -> int:
        """How many image chunks there are."""
        return math.ceil(self.num_images / self.images_per_item)

    def units(self, subject: str, layer: str) -> range:
        """The numbers of a layer's units that are labelled; none of a layer that is not."""
        first = self.first_units.get(subject, {}).get(layer, 0)
        return range(first, first + self.subjects[subject].get(layer, 0))

    def shards(self, subject: str) -> list[Shard]:
        """A subject's units, by layer, in ranges of the run's size."""
        return [shard for layer in self.subjects[subject] for shard in self._shards_of(subject, layer)]

    def _shards_of(self, subject: str, layer: str) -> list[Shard]:
        units, size = self.units(subject, layer), self.neurons_per_item
        starts = range(0, len(units), size)
        folder = safe_name(layer)
        return [
            Shard(
                layer=layer,
                first=units.start + start,
                end=min(units.start + start + size, units.stop),
                part=f"{folder}/{part_name(number, len(starts))}",
                row=start,
            )
            for number, start in enumerate(starts)
        ]

    # Where they lie

    def generated_key(self, chunk: int) -> str:
        """The images that the generator makes of a chunk of latents."""
        return f"generated/{part_name(chunk, self.num_chunks)}.parquet"

    def states_key(self, subject: str, chunk: int) -> str:
        """What an image chunk says of every unit."""
        return f"_work/exemplars/{self._part(subject, chunk)}.safetensors"

    def watched_key(self, subject: str, chunk: int) -> str:
        """What the held-out images of a chunk do to every unit."""
        return f"_work/watched/{self._part(subject, chunk)}.safetensors"

    def seen_key(self, chunk: int) -> str:
        """What the scorer sees in the held-out images of a chunk, whatever the subject."""
        return f"_work/held_out/{part_name(chunk, self.num_chunks)}.safetensors"

    def features_key(self, subject: str, chunk: int) -> str:
        """The features of all exemplars in an image chunk, one row group a shard."""
        return f"_work/features/{self._part(subject, chunk)}.parquet"

    def dropped_key(self, subject: str, chunk: int) -> str:
        """The images of a chunk that were left out; absent where none was."""
        return f"{self.dropped_folder(subject)}/{part_name(chunk, self.num_chunks)}.parquet"

    @staticmethod
    def dropped_folder(subject: str) -> str:
        """Where the images that were left out are written down, chunk by chunk."""
        return f"_work/dropped/{safe_name(subject)}"

    @staticmethod
    def exemplars_key(subject: str, shard: Shard) -> str:
        """A part of the exemplars table."""
        return f"exemplars/{safe_name(subject)}/{shard.part}.parquet"

    def captions_key(self, subject: str, shard: Shard) -> str:
        """A part of the labels table before it is judged."""
        labels = self.labels_key(subject, shard)
        return f"_work/captions/{labels.removeprefix('labels/')}" if self.judged else labels

    @staticmethod
    def labels_key(subject: str, shard: Shard) -> str:
        """A part of the labels table."""
        return f"labels/{safe_name(subject)}/{shard.part}.parquet"

    @staticmethod
    def regions_key(subject: str, shard: Shard) -> str:
        """A part of the regions table."""
        return f"regions/{safe_name(subject)}/{shard.part}.parquet"

    def finished_keys(self) -> list[str]:
        """Every file that a finished run promises."""
        places = [(subject, shard) for subject in self.subjects for shard in self.shards(subject)]
        keys = [key(*place) for key in (self.exemplars_key, self.regions_key, self.labels_key) for place in places]
        made = [self.generated_key(chunk) for chunk in range(self.num_chunks)] if self.generated else []
        return [*keys, *made, DROPPED, IMAGES]

    def _part(self, subject: str, chunk: int) -> str:
        return f"{safe_name(subject)}/{part_name(chunk, self.num_chunks)}"

    # Who makes them. Subject by subject, because a worker then loads each of them only once.

    def stages(self) -> dict[str, list[Item]]:
        """The work items of every stage, in the order of the stages."""
        stages = {
            **(
                {"generate": self._chunk_items("generate", lambda _, chunk: self.generated_key(chunk))}
                if self.generated
                else {}
            ),
            "exemplars": self._chunk_items("exemplars", self.states_key),
            "merge": self._shard_items("merge", self.exemplars_key),
            "features": self._chunk_items("features", self.features_key),
        }
        if self.judged:
            chunks = range(self.num_chunks)
            stages["held_out"] = [
                Item("held_out", chunk, len(chunks), self.seen_key(chunk), {"piece": chunk}) for chunk in chunks
            ]
        stages["captions"] = self._shard_items("captions", self.captions_key)
        if self.judged:
            stages["trust"] = self._shard_items("trust", self.labels_key)
        return stages

    def _chunk_items(self, stage: str, key: Callable[[str, int], str]) -> list[Item]:
        pieces = range(self.num_chunks)
        return _items(stage, [(subject, piece, key(subject, piece)) for subject in self.subjects for piece in pieces])

    def _shard_items(self, stage: str, key: Callable[[str, Shard], str]) -> list[Item]:
        return _items(
            stage,
            [
                (subject, piece, key(subject, shard))
                for subject in self.subjects
                for piece, shard in enumerate(self.shards(subject))
            ],
        )


def _items(stage: str, places: list[tuple[str, int, str]]) -> list[Item]:
    return [
        Item(stage, index, len(places), key, {"subject": subject, "piece": piece})
        for index, (subject, piece, key) in enumerate(places)
    ]


def default_images_per_item(num_images: int, batch_size: int, num_subjects: int) -> int:
    """Whole batches, so that no padded one is computed in between."""
    num_items = min(max(_MOST_ITEMS_IN_ALL // num_subjects, _FEWEST_ITEMS), _MOST_ITEMS)
    wanted = min(max(num_images / num_items, _FEWEST_IMAGES), _MOST_IMAGES)
    return batch_size * math.ceil(wanted / batch_size)
