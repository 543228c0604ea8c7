"""NVIDIA's JPEG decoder on a stream of our own.

torchvision's operator has a stream with the priority of everything else: while a network runs, each picture waits for
some of its kernels, which takes several times as long as decoding. It is still what brings the library along.
"""

import ctypes
import functools
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mami_core.images import jpeg_operators

logger = logging.getLogger(__name__)

_HARDWARE = 3  # nvjpegBackend_t
_RGB = 3  # nvjpegOutputFormat_t: planes one after the other
_MOST_COMPONENTS = 4


class _Image(ctypes.Structure):
    """nvjpegImage_t: where each plane goes, and how many bytes its lines have."""

    _fields_ = (("channel", ctypes.c_void_p * _MOST_COMPONENTS), ("pitch", ctypes.c_size_t * _MOST_COMPONENTS))


class Decoder:
    """The decoder's state on one GPU; one list of files at a time."""

    def __init__(self, library: ctypes.CDLL, quick: ctypes.CDLL | None = None) -> None:
        """`quick` is the same library, called without letting other threads run meanwhile.

        Reading a header takes microseconds, and a thread that has let others run waits for its turn for longer.
        """
        self._library, self._quick = library, quick or library
        self._lock = threading.Lock()
        self._handle, self._state, self._header = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("CreateEx", ctypes.c_int(_HARDWARE), None, None, ctypes.c_uint(0), ctypes.byref(self._handle))
        self._call("JpegStateCreate", self._handle, ctypes.byref(self._state))
        self._call("JpegStreamCreate", self._handle, ctypes.byref(self._header))

    def _call(self, name: str, *arguments: object) -> None:
        _check(name, getattr(self._library, f"nvjpeg{name}")(*arguments))

    def decode(self, files: Sequence[Tensor], pixels: Sequence[Tensor], stream: torch.cuda.Stream) -> list[bool]:
        """Fills `pixels`, [3, height, width] each, on the stream, and waits; which files it is able to decode.

        Raises:
            RuntimeError: the decoder gives up on one of them.
        """
        with self._lock:
            able = [self._is_able(file, planes) for file, planes in zip(files, pixels, strict=True)]
            some = [pair for pair, fine in zip(zip(files, pixels, strict=True), able, strict=True) if fine]
            if not some:
                return able
            count = len(some)
            images = (_Image * count)()
            for image, (_, planes) in zip(images, some, strict=True):
                place, (_, height, width) = planes.data_ptr(), planes.shape
                image.channel[:] = [place, place + height * width, place + 2 * height * width, None]
                image.pitch[:] = [width, width, width, 0]
            places = (ctypes.c_void_p * count)(*[file.data_ptr() for file, _ in some])
            sizes = (ctypes.c_size_t * count)(*[file.numel() for file, _ in some])
            self._call("DecodeBatchedInitialize", self._handle, self._state, count, 1, _RGB)
            self._call(
                "DecodeBatched", self._handle, self._state, places, sizes, images, ctypes.c_void_p(stream.cuda_stream)
            )
            done = torch.cuda.Event()
            done.record(stream)
            done.synchronize()  # the state holds what is on its way
            return able

    def _is_able(self, file: Tensor, planes: Tensor) -> bool:
        """Whether it decodes the file, and has read the size in its header that the planes have: it writes so much."""
        place, size, answer = ctypes.c_void_p(file.data_ptr()), ctypes.c_size_t(file.numel()), ctypes.c_int(-1)
        if self._quick.nvjpegJpegStreamParseHeader(self._handle, place, size, self._header):
            return False
        width, height = ctypes.c_uint(), ctypes.c_uint()
        found = self._quick.nvjpegJpegStreamGetFrameDimensions(self._header, ctypes.byref(width), ctypes.byref(height))
        _check("JpegStreamGetFrameDimensions", found)
        if (height.value, width.value) != tuple(planes.shape[1:]):
            return False
        found = self._quick.nvjpegDecodeBatchedSupported(self._handle, self._header, ctypes.byref(answer))
        _check("DecodeBatchedSupported", found)
        return answer.value == 0


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"nvjpeg{name} gave {status}")


@functools.cache
def decoder_on(device: torch.device, number: int) -> Decoder | None:
    """One of this GPU's decoders, told apart by number; None where it has none, or its library is not to be found."""
    jpeg_operators.load()
    try:
        with torch.cuda.device(device):
            path = _library()
            return Decoder(ctypes.CDLL(path), ctypes.PyDLL(path))
    except (OSError, RuntimeError) as error:  # it is only about speed
        logger.info("JPEGs are not decoded by nvJPEG itself: %s", error)
        return None


def _library() -> str:
    """The file of the library that torchvision has loaded."""
    if path := _path_in(Path("/proc/self/maps").read_text()):
        return path
    raise OSError("torchvision has loaded no nvJPEG")


def _path_in(maps: str) -> str | None:
    """The library's path among a process's maps: five words, and a path that may hold spaces, or none."""
    paths = (words[5] for words in (line.split(maxsplit=5) for line in maps.splitlines()) if len(words) == 6)
    return next((path for path in paths if "libnvjpeg" in Path(path).name), None)
