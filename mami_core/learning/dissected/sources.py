"""Annotated photographs, whatever form the annotations have.

Read are folders with a `regions.jsonl` (one JSON line a region), COCO's JSON (Lin et al., 2014, arXiv 1405.0312:
polygons, run lengths, boxes, captions), folders with masks of class numbers, sentences alone as Flickr8k has them, and
folders of one class each, as ImageNet has them.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mami_core.errors import DescriptionsError
from mami_core.learning.dissected.photographs import Annotation, Photograph, mask_values

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_NO_CLASS = (0, 255)
"""What masks of class numbers have where there is no class."""


def read_photographs(path: str | Path) -> tuple[Photograph, ...]:
    """The annotated photographs of one source, sorted by path. `source` is the folder's name.

    Args:
        path: A folder that holds `regions.jsonl`; a folder that holds `classes.json` (a class number → its name), and
            `masks/` with a picture of class numbers for each of `images/`; COCO's "ANNOTATIONS.json:IMAGES_FOLDER";
            "SENTENCES.csv:IMAGES_FOLDER" (with the columns image and caption) or "SENTENCES.json:IMAGES_FOLDER" (an
            image's name → its sentences); or a folder of photographs whose subfolder, or first part of the file name,
            is a WordNet number or a class name.

    Raises:
        DescriptionsError: naming the file and the line that is wrong, or what was expected here.
    """
    file, images = in_two(str(path))
    folder = Path(images)
    if file:
        found = _read_file(Path(file), folder)
    elif (folder / "regions.jsonl").is_file():
        found = _read_regions(folder)
    elif (folder / "classes.json").is_file():
        found = _read_masks(folder)
    elif folder.is_dir():
        found = _read_classes(folder)
    else:
        raise DescriptionsError(
            f"{path}: expected a folder with regions.jsonl or classes.json, a folder of photographs by class, "
            "ANNOTATIONS.json:IMAGES_FOLDER in COCO's form, or SENTENCES.csv:IMAGES_FOLDER; there is none of them."
        )
    if not found:
        raise DescriptionsError(f"{path}: expected annotated photographs, found none.")
    return tuple(sorted(found, key=lambda photograph: str(photograph.path)))


def in_two(path: str) -> tuple[str, str]:
    """The file of a source that is "FILE:IMAGES_FOLDER", and the folder; a folder alone has no file."""
    if ".json:" not in path and ".csv:" not in path:
        return "", path
    file, _, folder = path.rpartition(":")
    return file, folder


def _read_regions(folder: Path) -> list[Photograph]:
    by_image: dict[str, list[Annotation]] = {}
    file = folder / "regions.jsonl"
    for number, line in enumerate(io.StringIO(file.read_text(encoding="utf-8")), 1):
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


def _read_masks(folder: Path) -> list[Photograph]:
    """Class 0 and 255, and such as have no name, are no class. Each mask is looked at for the classes that it holds."""
    try:
        names = {int(number): str(name) for number, name in _json(folder / "classes.json").items()}
    except (ValueError, AttributeError) as error:
        raise DescriptionsError(f"{folder / 'classes.json'}: expected {{class number: name}}: {error}") from error
    found = []
    for path in _pictures(folder / "images"):
        mask = (folder / "masks" / path.relative_to(folder / "images")).with_suffix(".png")
        if mask.is_file():
            numbers = [n for n in np.unique(mask_values(mask)).tolist() if n not in _NO_CLASS and names.get(n)]
            said = tuple(Annotation(names=(names[number],), mask=(mask, number)) for number in numbers)
            found.append(Photograph(path=path, source=folder.name, annotations=said))
    return found


def _read_file(file: Path, folder: Path) -> list[Photograph]:
    if file.suffix == ".json":
        data = _json(file)
        if not isinstance(data, dict) or {"images", "annotations"} & data.keys():
            return _read_coco(file, data, folder)
        wrong = next((image for image, said in data.items() if not isinstance(said, list)), None)
        if wrong is not None:
            raise DescriptionsError(f"{file}: expected a list of sentences of {wrong}, found {data[wrong]!r}.")
        rows = [(image, text) for image, said in data.items() for text in said]
    else:
        try:
            text = io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")
            lines = csv.DictReader(text, strict=True)
            rows = [(line["image"], line["caption"]) for line in lines]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise DescriptionsError(f"{file}: expected CSV with the columns image and caption: {error!r}") from error
    said: dict[str, list[str]] = {}
    for image, text in rows:
        if not isinstance(text, str) or not text.strip():
            raise DescriptionsError(f"{file}: expected a sentence of {image}, found {text!r}.")
        said.setdefault(image, []).append(text)
    try:
        paths = {image: folder / _inside(image) for image in said}
    except ValueError as error:
        raise DescriptionsError(f"{file}: {error}") from error
    return [
        Photograph(path=paths[image], source=folder.name, annotations=(Annotation(phrases=tuple(texts)),))
        for image, texts in said.items()
    ]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DescriptionsError(f"{file}: expected JSON: {error}") from error


def _read_coco(file: Path, data: Any, folder: Path) -> list[Photograph]:
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
    return [
        Photograph(path=path, source=folder.name, annotations=(_class_of(path, folder),)) for path in _pictures(folder)
    ]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _class_of(path: Path, folder: Path) -> Annotation:
    """A photograph's class is the folder it lies in, or else how its name begins: "n01440764_tench.jpg"."""
    name = path.parent.name if path.parent != folder else path.stem
    number, _, rest = name.partition("_")
    if number[:1] == "n" and number[1:].isdecimal():
        return Annotation(names=(rest.replace("_", " ").lower(),) if rest else (), wordnet=number)
    return Annotation(names=(name.replace("_", " ").lower(),))
