"""Photographs in sheets, and the exemplars of neurons as blocks of small pictures."""

import functools
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from jobs.engine.items import Item, Output
from jobs.engine.within import tell
from jobs.reporting.layout import BLOCK_COLUMNS, BLOCK_ROWS, GROUP, PER_ITEM, PER_SHEET, SHEET, Album
from jobs.reporting.sources import Source, image_rows
from jobs.storage import Storage
from mami_core import contracts
from mami_core.errors import ImageError
from mami_core.exemplars.picture import outlined
from mami_core.images import InThreads

PHOTOGRAPH, TILE, BLOCK = 224, 96, 3
"""Sides: of a photograph and of a tile, in pixels; of a neuron's block, in tiles."""
TILES = BLOCK**2
_QUALITY, _TILE_QUALITY = 74, 88
_TILES = pa.schema([pa.field("image", pa.int64(), nullable=False), pa.field("tile", pa.binary(), nullable=False)])
_KEPT = 64  # files of tiles, 2 MB each

Pixels = UInt8[np.ndarray, "side side 3"]


class Photographs:
    """Some images of an album → their photographs in sheets, and tiles from which blocks are made."""

    def __init__(self, sources: Sequence[Source], albums: Sequence[Album]) -> None:
        self.sources, self.albums = sources, albums

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads and decodes each image once. One that cannot be read any more leaves its place empty."""
        album, part = self.albums[item.payload["album"]], item.payload["part"]
        numbers = read_numbers(storage, album)[part * PER_ITEM : (part + 1) * PER_ITEM]
        found = dict(self._decoded(self.sources[album.sources[0]], numbers))
        objects = {
            album.sheet_key(part * PER_ITEM // PER_SHEET + sheet): _sheet(numbers[start : start + PER_SHEET], found)
            for sheet, start in enumerate(range(0, len(numbers), PER_SHEET))
        }
        tiles = {image: _encoded(squares[1], "JPEG", _TILE_QUALITY) for image, squares in found.items()}
        table = pa.table({"image": list(tiles), "tile": list(tiles.values())}, schema=_TILES)
        objects[item.key] = contracts.to_parquet(table, _TILES, compression="none")
        return Output(objects, {"images": len(numbers), "unreadable": len(numbers) - len(found)})

    @staticmethod
    def _decoded(source: Source, numbers: Int64[np.ndarray, " images"]) -> Iterator[tuple[int, list[Pixels]]]:
        rows = image_rows(source, numbers)
        decoded = InThreads(2)(rows, source.storage, sizes=(PHOTOGRAPH, TILE), crop=source.crop, batch_size=PER_SHEET)
        for image, squares in decoded:
            tell("images", 1, of=len(numbers))
            if not isinstance(squares, ImageError):
                yield image, [square.permute(1, 2, 0).numpy() for square in squares]


def read_numbers(storage: Storage, album: Album) -> Int64[np.ndarray, " images"]:
    """The numbers of the album's images, ascending."""
    return np.load(io.BytesIO(storage.read(album.numbers_key)))


def _sheet(numbers: Int64[np.ndarray, " images"], found: Mapping[int, list[Pixels]]) -> bytes:
    side = PHOTOGRAPH
    pixels = np.full((SHEET * side, SHEET * side, 3), 128, np.uint8)
    for place, image in enumerate(numbers.tolist()):
        if image in found:
            y, x = divmod(place, SHEET)
            pixels[y * side : (y + 1) * side, x * side : (x + 1) * side] = found[image][0]
    return _encoded(pixels, "WEBP", _QUALITY)


def _encoded(pixels: UInt8[np.ndarray, "height width 3"], kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=quality)
    return buffer.getvalue()


class Tiles:
    """An album's tiles by image number, read when they are first wanted."""

    def __init__(self, storage: Storage, album: Album) -> None:
        self._storage, self._album = storage, album
        self.numbers = read_numbers(storage, album)
        self._part = functools.lru_cache(_KEPT)(self._read)

    def _read(self, part: int) -> dict[int, bytes]:
        key = self._album.tiles_key(part)
        table = contracts.from_parquet(self._storage.read(key), _TILES, where=key)
        return dict(zip(table["image"].to_pylist(), table["tile"].to_pylist(), strict=True))

    def of(self, image: int) -> Pixels | None:
        """The tile of an image; None where it could not be read."""
        data = self._part(self._place(image) // PER_ITEM).get(image)
        return None if data is None else np.asarray(Image.open(io.BytesIO(data)))

    def photograph(self, image: int) -> list[int] | None:
        """Album, sheet and place of the photograph; None where there is none."""
        place = self._place(image)
        there = image in self._part(place // PER_ITEM)
        return [self._album.number, place // PER_SHEET, place % PER_SHEET] if there else None

    def _place(self, image: int) -> int:
        return int(np.searchsorted(self.numbers, image))


def blocks(
    exemplars: Sequence[Sequence[int]], regions: Sequence[Bool[np.ndarray, "_ cells cells"]], tiles: Tiles
) -> bytes:
    """The strongest exemplars of up to `GROUP` neurons, regions outlined: one picture."""
    side = BLOCK * TILE
    pixels = np.full((BLOCK_ROWS * side, BLOCK_COLUMNS * side, 3), 128, np.uint8)
    assert len(exemplars) <= GROUP
    for place, (images, grids) in enumerate(zip(exemplars, regions, strict=True)):
        top, left = (at * side for at in divmod(place, BLOCK_COLUMNS))
        for rank, (image, grid) in enumerate(zip(images[:TILES], grids[:TILES], strict=True)):
            tile = tiles.of(image)
            if tile is not None:
                y, x = (at * TILE for at in divmod(rank, BLOCK))
                pixels[top + y : top + y + TILE, left + x : left + x + TILE] = outlined(tile, grid)
    return _encoded(pixels, "WEBP", _QUALITY)
