"""What a labelling run costs on a cluster: bytes, requests and seconds of each work item, by arithmetic.

The items are those that `jobs.labelling.layout` makes for the run; only how long each takes is worked out here, from
`Rates`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.engine.items import Item
from jobs.labelling.layout import Layout, Shard

STATE_BYTES = 15 * 8 + 256 * 4
"""What a chunk's states say of a unit: 15 packed exemplars and a histogram of 256 bins."""
EXEMPLARS = 15
EXEMPLAR_ROW_BYTES, LABEL_ROW_BYTES = 700, 1_500
"""A row of the exemplars table with the images' names, and one of the labels table with five beams: Parquet, zstd."""
HELD_OUT_BYTES, SEEN_BYTES = 2, 2 * 384
"""A held-out image's activation of a unit in half precision, and what the packaged scorer sees in it."""
READERS = 8
"""Requests that a worker has open at once: as in `jobs.labelling.stages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast things go, and what they cost: assumptions and measurements, see docs/scale.md for which is which."""

    search_images_s: float = 1000.0
    """Images a second that a GPU searches, its CPUs decoding."""
    encode_images_s: float = 500.0
    """Images a second that pass subject and encoder."""
    captioned_neurons_s: float = 500.0
    """Neurons a second that a GPU captions with 50 beams."""
    seen_images_s: float = 1000.0
    """Held-out images a second that pass the scorer."""
    judged_pairs_s: float = 5e6
    """Pairs of a caption and a held-out image that a CPU holds against each other a second."""
    merged_states_s: float = 500_000.0
    """States of one unit that a CPU merges a second."""
    storage_bytes_s: float = 300e6
    """Bytes a second from or to storage for each worker."""
    request_s: float = 0.03
    """From a request to its first byte."""
    subject_s: float = 15.0
    """To load a subject, its weights and, the first time, the process."""
    image_bytes: int = 110_000
    images_per_request: float = 1.0
    """1 for files one by one; neighbours in a tar are read together."""
    feature_size: int = 3904
    """Numbers of an exemplar's features, two bytes each: ResNet-101's pyramid."""
    driver_items_s: float = 65.0
    """Items that Ray Data's driver hands out a second."""

    gpu_hour: float = 4.0
    """Dollars for a GPU with its share of a machine."""
    get: float = 4e-7
    put: float = 5e-6
    """Dollars a request."""
    gigabyte_month: float = 0.023


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one item, or a whole stage, takes."""

    seconds: float = 0.0
    """Of one worker."""
    gets: float = 0.0
    puts: float = 0.0
    bytes_read: float = 0.0
    bytes_written: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            seconds=self.seconds + other.seconds,
            gets=self.gets + other.gets,
            puts=self.puts + other.puts,
            bytes_read=self.bytes_read + other.bytes_read,
            bytes_written=self.bytes_written + other.bytes_written,
        )

    def dollars_for_requests(self, rates: Rates) -> float:
        """What the storage charges for the requests."""
        return self.gets * rates.get + self.puts * rates.put


class ItemCosts:
    """The cost of every item of a run, without what a worker pays once: see `on_arrival`."""

    def __init__(self, layout: Layout, rates: Rates) -> None:
        self.layout, self.rates = layout, rates
        self._shards: dict[str, list[Shard]] = {name: layout.shards(name) for name in layout.subjects}
        self._units = {name: sum(layers.values()) for name, layers in layout.subjects.items()}
        self._chunks = layout.chunks()

    def __call__(self, item: Item) -> Cost:
        """What the item takes."""
        return getattr(self, item.stage)(**item.payload)

    @staticmethod
    def loaded(item: Item) -> str:
        """What the item's worker keeps for the next one: its subject, or the scorer, which is the same for all."""
        return item.stage if item.stage in ("held_out", "trust") else item.payload["subject"]

    def on_arrival(self, item: Item) -> float:
        """Seconds of a worker that has not loaded this before, or something else since."""
        rates, chunks = self.rates, self.layout.num_chunks
        if item.stage == "captions":
            return 0.0
        if item.stage == "merge":  # looks into every chunk's header
            return chunks * rates.request_s / READERS
        if item.stage == "features":
            return rates.subject_s + self._reading(len(self._shards[item.payload["subject"]]), 0.0)
        if item.stage == "trust":  # the scorer, and what it saw in all images
            return rates.subject_s + self._reading(chunks, self._num_judging * SEEN_BYTES)
        return rates.subject_s

    def generate(self, subject: str, piece: int) -> Cost:
        """A chunk's latents pass the generator; writes its images."""
        count = self._num_images(piece)
        size = count * self.rates.image_bytes
        return Cost(seconds=count / self.rates.search_images_s + self._writing(size), puts=1, bytes_written=size)

    def exemplars(self, subject: str, piece: int) -> Cost:
        """One pass over a chunk's images; writes its states, and what the held-out ones do to every unit."""
        count = self._num_images(piece)
        watched = count * self.layout.held_out * HELD_OUT_BYTES
        written = self._units[subject] * (STATE_BYTES + watched)
        gets, size = self._images(count)
        busy = max(count / self.rates.search_images_s, size / self.rates.storage_bytes_s)
        seconds = busy + self._writing(written)
        puts = 2 if self.layout.judged else 1
        return Cost(seconds=seconds, gets=gets, puts=puts, bytes_read=size, bytes_written=written)

    def merge(self, subject: str, piece: int) -> Cost:
        """Reads a shard's range of every chunk's states."""
        units = self._num_units(subject, piece)
        chunks = self.layout.num_chunks
        size = chunks * units * STATE_BYTES
        seconds = self._reading(chunks, size) + chunks * units / self.rates.merged_states_s
        written = units * EXEMPLAR_ROW_BYTES
        return Cost(seconds=seconds, gets=chunks, puts=1, bytes_read=size, bytes_written=written)

    def features(self, subject: str, piece: int) -> Cost:
        """The chunk's images that are somebody's exemplars pass subject and encoder; writes all their vectors."""
        choosing = 1 - self.layout.held_out
        count, pairs = self._num_images(piece) * choosing, self._units[subject] * EXEMPLARS
        share = pairs / (self.layout.num_images * choosing)
        shown = count * (1 - math.exp(-share))  # as if exemplars fell on images by chance: an upper bound
        gets, size = self._images(shown)
        vectors = count * share * self._vector_bytes
        busy = max(shown / self.rates.encode_images_s, size / self.rates.storage_bytes_s)
        seconds = busy + self._writing(vectors)
        return Cost(seconds=seconds, gets=gets, puts=1, bytes_read=size, bytes_written=vectors)

    def captions(self, subject: str, piece: int) -> Cost:
        """Reads one row group of every chunk's features."""
        units = self._num_units(subject, piece)
        requests = 2 * self.layout.num_chunks + 1  # what a file holds, its row group; and the shard's exemplars
        size = units * EXEMPLARS * self._vector_bytes
        seconds = self._reading(requests, size) + units / self.rates.captioned_neurons_s
        written = units * LABEL_ROW_BYTES
        return Cost(seconds=seconds, gets=requests, puts=1, bytes_read=size, bytes_written=written)

    def held_out(self, piece: int) -> Cost:
        """A chunk's held-out images pass the scorer, once for all subjects."""
        count = self._num_images(piece) * self.layout.held_out
        gets, size = self._images(count)
        written = count * SEEN_BYTES
        busy = max(count / self.rates.seen_images_s, size / self.rates.storage_bytes_s)
        seconds = busy + self._writing(written)
        return Cost(seconds=seconds, gets=gets, puts=1, bytes_read=size, bytes_written=written)

    def trust(self, subject: str, piece: int) -> Cost:
        """Reads every chunk's activations of a shard's units, and all captions of its layer; judges two a neuron."""
        shard, judging = self._shards[subject][piece], self._num_judging
        units = shard.end - shard.first
        of_layer = math.ceil(self.layout.subjects[subject][shard.layer] / self.layout.neurons_per_item)
        requests = 2 * self.layout.num_chunks + 1 + of_layer  # what a file holds, its range; and the captions
        size = units * judging * HELD_OUT_BYTES
        seconds = self._reading(requests, size) + 2 * units * judging / self.rates.judged_pairs_s
        return Cost(seconds=seconds, gets=requests, puts=1, bytes_read=size, bytes_written=units * LABEL_ROW_BYTES)

    @property
    def _vector_bytes(self) -> int:
        return 2 * self.rates.feature_size

    @property
    def _num_judging(self) -> float:
        return self.layout.num_images * self.layout.held_out

    def _num_images(self, piece: int) -> int:
        first, end = self._chunks[piece]
        return end - first

    def _num_units(self, subject: str, piece: int) -> int:
        shard = self._shards[subject][piece]
        return shard.end - shard.first

    def _images(self, count: float) -> tuple[float, float]:
        """Requests and bytes."""
        return 3 + count / self.rates.images_per_request, count * self.rates.image_bytes

    def _writing(self, size: float) -> float:
        return self.rates.request_s + size / self.rates.storage_bytes_s

    def _reading(self, requests: float, size: float) -> float:
        return max(requests * self.rates.request_s / READERS, size / self.rates.storage_bytes_s)


def stored_bytes(costs: Mapping[str, Cost]) -> float:
    """What lies in the run's folder at the end, `_work/` included."""
    return sum(cost.bytes_written for cost in costs.values())
