"""What a report consists of, and where each thing lies in its folder.

    index.html                        written last: where it is, the report is whole
    site/…                            what draws it
    data/overview.js
    data/SOURCE/PART.js               of a part's neurons what the gallery needs
    data/SOURCE/PART/GROUP.js, .webp  of 32 neurons everything, and their strongest exemplars in one picture
    photographs/ALBUM/SHEET.webp      16 photographs
    _work/…                           what was needed to make it

A part is a shard of the run's labels. Names are numbers, because a page from disk cannot follow every file name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from jobs.engine.items import Item
from jobs.reporting.sources import Source, images_shown
from jobs.storage import safe_name

INDEX, OVERVIEW = "index.html", "data/overview.js"

SHEET = 4
"""Photographs along each side of a sheet."""
PER_SHEET = SHEET**2
PER_ITEM = 32 * PER_SHEET
"""Photographs in a work item, and tiles in a file."""
GROUP = 32
"""Neurons whose details are one file, and whose blocks are one picture."""
BLOCK_COLUMNS, BLOCK_ROWS = 4, 8
"""How their blocks lie in it."""


@dataclass(frozen=True, slots=True)
class Album:
    """The photographs of all sources that see the same square of the same images."""

    number: int
    sources: tuple[int, ...]

    @property
    def numbers_key(self) -> str:
        """The images' numbers, ascending: a photograph's place in the album is the place of its number."""
        return f"_work/albums/{self.number}.npy"

    def tiles_key(self, part: int) -> str:
        """Small pictures of `PER_ITEM` photographs."""
        return f"_work/tiles/{self.number}/{part:05d}.parquet"

    def sheet_key(self, sheet: int) -> str:
        """`PER_SHEET` photographs."""
        return f"photographs/{self.number}/{sheet:05d}.webp"


def albums_of(sources: Sequence[Source]) -> list[Album]:
    """The albums that these sources need."""
    seen: dict[tuple[str, float], list[int]] = {}
    for number, source in enumerate(sources):
        seen.setdefault((source.url, source.crop), []).append(number)
    return [Album(number, tuple(members)) for number, members in enumerate(seen.values())]


def numbers_of(album: Album, sources: Sequence[Source]) -> Int64[np.ndarray, " images"]:
    """The images of an album."""
    return images_shown([sources[number] for number in album.sources])


def part_key(source: int, piece: int) -> str:
    """The data of one part's neurons, as the page asks for it."""
    return f"{source}/{piece:05d}"


def group_key(source: int, piece: int, group: int) -> str:
    """The details of some of them."""
    return f"{part_key(source, piece)}/{group:03d}"


def vectors_key(source: Source, piece: int) -> str:
    """What the neurons of one part look like as directions: in the run's folder, since it belongs to the run."""
    return f"_work/vectors/{safe_name(source.subject)}/{source.shards[piece].part}.npy"


# --- who makes them -----------------------------------------------------------------------------------------------


def photograph_items(album: Album, num_images: int) -> list[Item]:
    """The photographs of an album, some hundred an item."""
    count = math.ceil(num_images / PER_ITEM)
    stage = f"photographs/{album.number}"
    return [
        Item(stage, part, count, album.tiles_key(part), {"album": album.number, "part": part}) for part in range(count)
    ]


def vector_items(number: int, source: Source) -> list[Item]:
    """The directions of a source's neurons, part by part."""
    count = len(source.shards)
    payloads = [{"source": number, "piece": piece} for piece in range(count)]
    stage = f"vectors/{safe_name(source.subject)}"
    return [Item(stage, at["piece"], count, vectors_key(source, at["piece"]), at) for at in payloads]


def neuron_items(sources: Sequence[Source]) -> list[Item]:
    """The pages' data, part by part."""
    places = [(number, piece) for number, source in enumerate(sources) for piece in range(len(source.shards))]
    return [
        Item("neurons", index, len(places), f"data/{part_key(*place)}.js", {"source": place[0], "piece": place[1]})
        for index, place in enumerate(places)
    ]


def overview_items() -> list[Item]:
    """The first page, last."""
    return [Item("overview", 0, 1, INDEX)]
