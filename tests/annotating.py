"""Annotated photographs, a WordNet and a network that are tiny, for tests of what annotates neurons.

The photographs show red apples and blue dogs on grey noise; the network has a unit for each colour.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mami_core.subjects import Subject, subject_of

PLANTED = "python:tests.annotating:planted"
RED, BLUE, DEAD = 0, 1, 2
"""Units of the layer "colours", what drives them."""

_KINDS = {
    "entity": None,
    "animal": "entity",
    "dog": "animal",
    "cat": "animal",
    "edible fruit": "entity",
    "apple": "edible fruit",
    "domestic cat": "cat",
}
_COLOURS = {"apple": (225, 20, 25), "dog": (20, 40, 230)}


def write_wordnet(folder: Path) -> Path:
    """A WordNet of seven nouns, in WordNet's own format."""
    folder.mkdir(parents=True, exist_ok=True)
    at = {noun: 1000 + 100 * number for number, noun in enumerate(_KINDS)}
    data, index = ["  1 a licence"], ["  1 a licence"]
    for noun, kind in _KINDS.items():
        word = noun.replace(" ", "_")
        pointers = f"001 @ {at[kind]:08d} n 0000" if kind else "000"
        data.append(f"{at[noun]:08d} 03 n 01 {word} 0 {pointers} | what a {noun} is")
        index.append(f"{word} n 1 1 @ 1 0 {at[noun]:08d}")
    (folder / "data.noun").write_text("\n".join(data) + "\n")
    (folder / "index.noun").write_text("\n".join(index) + "\n")
    return folder


def write_photographs(folder: Path, count: int = 40) -> Path:
    """Every photograph shows an apple or a dog, in turn, with a mask and a sentence."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = []
    for number in range(count):
        rng = np.random.default_rng(number)
        name = ("apple", "dog")[number % 2]
        picture = Image.fromarray(rng.integers(90, 150, (64, 80, 1), np.uint8).repeat(3, 2))
        mask = Image.new("L", picture.size)
        left, top, size = (int(side) for side in rng.integers([10, 2, 18], [38, 30, 28]))
        box = (left, top, left + size, top + size)
        ImageDraw.Draw(picture).ellipse(box, fill=_COLOURS[name])
        ImageDraw.Draw(mask).ellipse(box, fill=7)
        file = f"images/{name}_{number:03d}.png"
        picture.save(folder / file)
        mask.save(folder / "masks" / f"{number:03d}.png")
        placed = {"image": file, "names": [name], "mask": {"file": f"masks/{number:03d}.png", "value": 7}}
        lines += [json.dumps(placed), json.dumps({"image": file, "phrases": [f"There is one {name}."]})]
    (folder / "regions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class Planted(nn.Module):
    """Units for red, for blue, and one that never fires."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.ReLU())
        self.scores = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.colours(x).mean((2, 3)))


def planted() -> Subject:
    """The network with the planted units."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        made = Planted()
        weight, bias = made.colours.get_parameter("0.weight"), made.colours.get_parameter("0.bias")
        weight.zero_()
        bias.fill_(-0.5)
        for unit, channel in ((RED, 0), (BLUE, 2)):
            weight[unit] = -1 / 9
            weight[unit, channel] = 1 / 9
        weight[3] = 1 / 27
        bias[3] = 0.1
    return subject_of(made, name="planted", input_size=64, default_layers=("colours",))


class Classifier(nn.Module):
    """A thousand class scores, and an activation that is used twice and stands behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 4, 3, stride=4)
        self.scores = nn.Linear(4, 1000)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.relu(self.relu(self.maps(x)).mean((2, 3))))


def classifier() -> Subject:
    """The network with class scores."""
    return subject_of(Classifier(), name="classifier", input_size=64)
