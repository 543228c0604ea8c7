"""Photographs that people have annotated, whatever form the annotations have.

Three forms are read: folders with a `regions.jsonl` (one JSON line a region), COCO's JSON (Lin et al., 2014,
arXiv 1405.0312: polygons, run lengths, boxes, captions), and folders of one class each, as ImageNet has them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from mami_core.errors import DescriptionsError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What somebody said of a region of a photograph, or of all of it."""

    names: tuple[str, ...] = ()
    """What it shows, in the singular."""
    wordnet: str | None = None
    """The WordNet number of the first name's meaning, where it is known."""
    attributes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    """Sentences or parts of them, as people wrote them."""
    mask: tuple[Path, int | None] | None = None
    """A grey picture of the photograph's size and the value that marks the region; none for any value above 0."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in pixels."""
    polygons: tuple[tuple[float, ...], ...] = ()
    """x, y, x, y… in pixels."""
    part_of: str | None = None

    @property
    def is_placed(self) -> bool:
        """Whether it says where in the photograph it is true."""
        return self.mask is not None or self.box is not None or bool(self.polygons)

    def inside(self, width: int, height: int) -> Bool[np.ndarray, "height width"]:
        """The region's pixels in a photograph of this size; all of them where the annotation has no place."""
        if self.mask is not None:
            path, value = self.mask
            with Image.open(path) as picture:
                values = np.asarray(picture.convert("L") if picture.mode not in ("L", "P", "I;16") else picture)
            found = values > 0 if value is None else values == value
            if found.shape == (height, width):
                return found
            return np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST))
        canvas = Image.new("1", (width, height), 0 if self.is_placed else 1)
        draw = ImageDraw.Draw(canvas)
        for polygon in self.polygons:
            draw.polygon(polygon, fill=1)
        if self.box is not None and not self.polygons:
            draw.rectangle(self.box, fill=1)
        return np.asarray(canvas, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph with all that was said of it."""

    path: Path
    source: str
    """Where it comes from. Photographs of a source share a style, which must not be taken for what they show."""
    annotations: tuple[Annotation, ...]


def read_photographs(path: str | Path) -> tuple[Photograph, ...]:
    """The annotated photographs of one source, sorted by path. `source` is the folder's name.

    Args:
        path: A folder that holds `regions.jsonl`; a COCO file "ANNOTATIONS.json:IMAGES_FOLDER"; or a folder of
            photographs whose subfolder, or first part of the file name, is a WordNet number or a class name.

    Raises:
        DescriptionsError: naming the file and the line that is wrong, or what was expected here.
    """
    text = str(path)
    if ".json:" in text:
        file, _, folder = text.rpartition(":")
        found = _read_coco(Path(file), Path(folder))
    elif (Path(path) / "regions.jsonl").is_file():
        found = _read_regions(Path(path))
    elif Path(path).is_dir():
        found = _read_classes(Path(path))
    else:
        raise DescriptionsError(
            f"{path}: expected a folder with regions.jsonl, ANNOTATIONS.json:IMAGES_FOLDER in COCO's form, or a folder "
            "of photographs by class; there is none of them."
        )
    if not found:
        raise DescriptionsError(f"{path}: expected annotated photographs, found none.")
    return tuple(sorted(found, key=lambda photograph: str(photograph.path)))


def _read_regions(folder: Path) -> list[Photograph]:
    by_image: dict[str, list[Annotation]] = {}
    file = folder / "regions.jsonl"
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            by_image.setdefault(_inside(row["image"]), []).append(_region(row, folder))
        except (ValueError, KeyError, TypeError) as error:
            raise DescriptionsError(
                f"{file}, line {number}: expected a JSON object with an image: {error!r}"
            ) from error
    return [
        Photograph(path=folder / image, source=folder.name, annotations=tuple(said)) for image, said in by_image.items()
    ]


def _region(row: Mapping[str, Any], folder: Path) -> Annotation:
    mask = row.get("mask")
    return Annotation(
        names=tuple(row.get("names", ())),
        wordnet=row.get("wordnet"),
        attributes=tuple(row.get("attributes", ())),
        phrases=tuple(row.get("phrases", ())),
        mask=None if mask is None else (folder / _inside(mask["file"]), int(mask["value"])),
        box=None if row.get("box") is None else _box(row["box"]),
        part_of=row.get("part_of"),
    )


def _box(numbers: Iterable[Any]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(number) for number in numbers)
    return left, top, max(left, right), max(top, bottom)


def _inside(name: str) -> str:
    """A file's name from a data file may only name one below its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"'{name}' lies outside the folder")
    return name


def _read_coco(file: Path, folder: Path) -> list[Photograph]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DescriptionsError(f"{file}: expected COCO's JSON: {error}") from error
    missing = [
        name for name in ("images", "annotations") if not isinstance(data, dict) or not isinstance(data.get(name), list)
    ]
    if missing:
        raise DescriptionsError(f"{file}: expected COCO's JSON with the lists images and annotations; no {missing[0]}.")
    names = dict(_rows(file, data, "categories", lambda row: (row["id"], str(row["name"]))))
    files = dict(_rows(file, data, "images", lambda row: (row["id"], _inside(row["file_name"]))))
    said: dict[Any, list[Annotation]] = {}
    for image, annotation in _rows(file, data, "annotations", lambda row: (row["image_id"], _coco(row, names))):
        if image not in files:
            raise DescriptionsError(f"{file}: an annotation is of image {image!r}, which is not among the images.")
        said.setdefault(image, []).append(annotation)
    return [
        Photograph(path=folder / files[image], source=folder.name, annotations=tuple(of_one))
        for image, of_one in said.items()
    ]


def _rows(
    file: Path, data: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any]], tuple[Any, Any]]
) -> Iterator[tuple[Any, Any]]:
    """What each row of one of COCO's lists says; which row is wrong, and why, where one is."""
    for number, row in enumerate(data.get(name, ())):
        try:
            yield read(row)
        except KeyError as error:
            raise DescriptionsError(f"{file}, {name}[{number}]: expected {error} in {str(row)[:200]}.") from error
        except (ValueError, TypeError) as error:
            raise DescriptionsError(f"{file}, {name}[{number}]: {error}; it is {str(row)[:200]}.") from error


def _coco(row: Mapping[str, Any], categories: Mapping[int, str]) -> Annotation:
    if "caption" in row:
        return Annotation(phrases=(str(row["caption"]),))
    left, top, width, height = row["bbox"]
    # Run lengths mark crowds; their box says where they are.
    outlines = row.get("segmentation")
    polygons = tuple(tuple(map(float, outline)) for outline in outlines) if isinstance(outlines, list) else ()
    box = _box((left, top, left + width, top + height))
    if row["category_id"] not in categories:
        raise ValueError(f"its category_id {row['category_id']!r} is not among the categories")
    return Annotation(names=(categories[row["category_id"]],), box=box, polygons=polygons)


def _read_classes(folder: Path) -> list[Photograph]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return [Photograph(path=path, source=folder.name, annotations=(_class_of(path, folder),)) for path in files]


def _class_of(path: Path, folder: Path) -> Annotation:
    """A photograph's class is the folder it lies in, or else how its name begins: "n01440764_tench.jpg"."""
    name = path.parent.name if path.parent != folder else path.stem
    number, _, rest = name.partition("_")
    if number[:1] == "n" and number[1:].isdecimal():
        return Annotation(names=(rest.replace("_", " ").lower(),) if rest else (), wordnet=number)
    return Annotation(names=(name.replace("_", " ").lower(),))


def words_said(phrases: Iterable[str], known: frozenset[str]) -> Iterator[str]:
    """The known names that occur in phrases, the longest at each place, in the singular or plural."""
    for phrase in phrases:
        words = "".join(letter if letter.isalnum() or letter in "-'" else " " for letter in phrase.lower()).split()
        at = 0
        while at < len(words):
            for length in (3, 2, 1):
                name = next((form for form in _forms(words[at : at + length]) if form in known), None)
                if name is not None:
                    yield name
                    at += length - 1
                    break
            at += 1


def _forms(words: list[str]) -> tuple[str, ...]:
    text = " ".join(words)
    return text, text.removesuffix("s"), text.removesuffix("es"), text.removesuffix("ies") + "y"
