"""Images read by processes of their own, for a GPU that decodes more than one interpreter reads.

To read a file and its header takes an interpreter about as long as a GPU takes to decode it, and the threads of one
interpreter take turns. A reader is sent rows of the images table. It answers with the files one after the other, which
land in memory that a GPU copies from by itself.

::

    here                          a reader
    rows, where files are  →
                           ←      each image's size in bytes and view, or what is wrong with it
                           ←      the files' bytes
"""

import atexit
import functools
import logging
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from mami_core.errors import ImageError, StorageError
from mami_core.images.ahead import ahead, threads
from mami_core.images.files import CountsRetries, Files
from mami_core.images.jpeg_view import Seen, gpu_view
from mami_core.images.read import Answer, read_bytes

logger = logging.getLogger(__name__)

Read = tuple[int, UInt8[Tensor, " _"] | ImageError, Seen | None]
"""An image's number, its file or what is wrong with it, and what is seen of it where a GPU can decode it."""

MOST_TOGETHER, _BYTES_TOGETHER = 256, 32 << 20
"""Files that a GPU's decoder is given at once, and their bytes, at most: a few large ones take as much memory."""
MOST_READERS = 4
"""More do not read more from a disk."""
_FEWEST_IMAGES = 512
"""So few are read before a process has started."""
_LENGTH = struct.Struct("<Q")
_PATIENCE_S = 5.0
"""How long a reader may take to end once nobody asks it any more."""


def read_ahead(
    images: pa.Table, files: Files, crop: float, *, limit: int, num_readers: int
) -> Generator[list[Read], None, None]:
    """All files, in the table's order, some at a time, about `limit` images ahead of their use.

    With readers, each has some more under way. Until they have started, and for few images or rows of Parquet, which
    are read by row group, threads of this process read.

    Raises:
        StorageError: storage failed.
    """
    with threads(max(1, num_readers), name="read") as pool:
        if num_readers and len(images) >= _FEWEST_IMAGES and images["row"].null_count == len(images):
            several = readers(num_readers)

            def read(some: pa.Table) -> list[Read]:
                found = several.read(some, files, crop)
                return _seen(list(read_bytes(some, files)), crop) if found is None else found

            yield from ahead(pool, read, _pieces(images), weight=len, limit=limit + num_readers * MOST_TOGETHER)
            return
        with closing(read_bytes(images, files)) as answers:
            yield from ahead(pool, partial(_seen, crop=crop), _lists(answers), weight=len, limit=limit)


def _pieces(images: pa.Table) -> Iterator[pa.Table]:
    """Rows of the table that are read together."""
    first, num_bytes = 0, 0
    for row, size in enumerate(images["size"].fill_null(0).to_numpy()):
        if row - first == MOST_TOGETHER or (row > first and num_bytes + size > _BYTES_TOGETHER):
            yield images.slice(first, row - first)
            first, num_bytes = row, 0
        num_bytes += size
    if first < len(images):
        yield images.slice(first)


def _lists(answers: Iterable[Answer]) -> Iterator[list[Answer]]:
    """Files that were read, by as many."""
    some: list[Answer] = []
    num_bytes = 0
    for image, data in answers:
        some.append((image, data))
        num_bytes += len(data) if isinstance(data, bytes) else 0
        if len(some) == MOST_TOGETHER or num_bytes >= _BYTES_TOGETHER:
            yield some
            some, num_bytes = [], 0
    if some:
        yield some


def _seen(answers: Sequence[Answer], crop: float) -> list[Read]:
    """With what is seen of each, the files in one piece of memory: from other memory the driver copies each alone."""
    sizes = [len(data) if isinstance(data, bytes) else 0 for _, data in answers]
    read: list[Read] = []
    for (image, data), part in zip(answers, _room(sum(sizes)).split(sizes), strict=True):
        if isinstance(data, ImageError):
            read.append((image, data, None))
        else:
            part.numpy()[:] = np.frombuffer(data, np.uint8)
            read.append((image, part, gpu_view(data, crop)))
    return read


def _room(num_bytes: int) -> UInt8[Tensor, " _"]:
    """Memory from which a GPU copies by itself, where there is one."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())


class Readers:
    """Some processes that read. They start when this is made, which takes them seconds, and end with this process."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._starting = [_Reader() for _ in range(count)]
        self._free: list[_Reader] = []
        atexit.register(self.close)

    def read(self, images: pa.Table, files: Files, crop: float) -> list[Read] | None:
        """The images' files, in the table's order; None where no reader is free.

        Raises:
            StorageError: storage failed.
        """
        reader = self._take()
        if reader is None:
            return None
        try:
            found = reader.read(images, files, crop)
        except BaseException as problem:
            reader.close()  # who knows what is on the connection
            if not isinstance(problem, OSError | EOFError):
                raise
            logger.warning("A process that reads images has ended (%s); its work is done here.", problem)
            return None
        with self._lock:
            self._free.append(reader)
        if isinstance(found, Exception):
            raise found
        return found

    def _take(self) -> "_Reader | None":
        with self._lock:
            up = [reader for reader in self._starting if reader.is_up()]
            self._starting = [reader for reader in self._starting if reader not in up]
            self._free += up
            return self._free.pop() if self._free else None

    def close(self) -> None:
        """Ends the processes, those that are at work excepted: they end when they are done."""
        with self._lock:
            for reader in [*self._starting, *self._free]:
                reader.close()
            self._starting, self._free = [], []


@functools.cache
def readers(count: int) -> Readers:
    """So many, the same ones for all of this process: they live through the stages of a run."""
    return Readers(count)


class _Reader:
    """One process, and the connection to it, on which one thread at a time asks."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._is_greeted = False
        with theirs:
            handle = theirs.fileno()
            paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from mami_core.images import readers; readers.serve({handle})"],
                pass_fds=[handle],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            )

    def is_up(self) -> bool:
        """Whether it can be asked: its greeting is there. Also where it has ended, as asking it will show."""
        return bool(select.select([self._connection], [], [], 0)[0])

    def read(self, images: pa.Table, files: Files, crop: float) -> list[Read] | Exception:
        """What it finds, or the error that it tells of.

        Raises:
            OSError, EOFError: it has ended.
        """
        if not self._is_greeted:
            _receive(self._connection)
            self._is_greeted = True
        _send(self._connection, pickle.dumps((_to_bytes(images), pickle.dumps(files), crop)))
        answer: _Answer | Exception = pickle.loads(_receive(self._connection))
        if isinstance(answer, Exception):
            return answer
        if answer.num_retries and isinstance(files, CountsRetries):
            files.add_retries(answer.num_retries)
        sizes = [found if isinstance(found, int) else 0 for _, found, _ in answer.images]
        together = _room(sum(sizes))
        _fill(self._connection, together.numpy().data)
        return [
            (image, part if isinstance(found, int) else ImageError(found), seen)
            for (image, found, seen), part in zip(answer.images, together.split(sizes), strict=True)
        ]

    def close(self) -> None:
        """Says that nobody will ask any more, and waits until it has ended."""
        self._connection.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# --- in the reader's process -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a reader says before it sends the files' bytes."""

    images: list[tuple[int, int | str, Seen | None]]
    """Each image's number, its bytes or what is wrong with it, and what is seen of it."""
    num_retries: int
    """How often storage had to be asked again."""


def serve(handle: int) -> None:
    """What a reader's process does, until nobody is at the other end of the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is interrupted hangs up
    with socket.socket(fileno=handle) as connection, suppress(EOFError, ConnectionError):
        _send(connection, b"")
        while True:
            rows, files, crop = pickle.loads(_receive(connection))
            try:
                answer, parts = _answer(_from_bytes(rows), _files(files), crop)
            except Exception as problem:
                answer, parts = _to_tell(problem), []
            _send(connection, pickle.dumps(answer))
            for part in parts:
                connection.sendall(part)


def _answer(images: pa.Table, files: Files, crop: float) -> tuple[_Answer, list[bytes]]:
    """What to say of these images, and the files that can be read."""
    before = _num_retries(files)
    told: list[tuple[int, int | str, Seen | None]] = []
    parts: list[bytes] = []
    for image, data in read_bytes(images, files):
        if isinstance(data, ImageError):
            told.append((image, str(data), None))
        else:
            told.append((image, len(data), gpu_view(data, crop)))
            parts.append(data)
    return _Answer(told, _num_retries(files) - before), parts


def _num_retries(files: Files) -> int:
    return files.num_retries if isinstance(files, CountsRetries) else 0


@functools.lru_cache(maxsize=4)
def _files(pickled: bytes) -> Files:
    """One for all work: connections to storage take longer than small images."""
    return pickle.loads(pickled)


def _to_tell(problem: Exception) -> Exception:
    """An error that can be sent."""
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:
        return StorageError(f"{type(problem).__name__}: {problem}")
    return problem


# --- on the connection -----------------------------------------------------------------------------------------------


def _to_bytes(images: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, images.schema) as writer:
        writer.write_table(images)
    return stream.getvalue().to_pybytes()


def _from_bytes(rows: bytes) -> pa.Table:
    with pa.ipc.open_stream(rows) as reader:
        return reader.read_all()


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(message)) + message)


def _receive(connection: socket.socket) -> bytearray:
    length = bytearray(_LENGTH.size)
    _fill(connection, memoryview(length))
    message = bytearray(_LENGTH.unpack(length)[0])
    _fill(connection, memoryview(message))
    return message


def _fill(connection: socket.socket, memory: memoryview) -> None:
    """Receives so much, in as few calls as there can be: after each, a thread waits for its turn.

    Raises:
        EOFError: nobody is there to send it.
    """
    while memory:
        received = connection.recv_into(memory, len(memory), socket.MSG_WAITALL)
        if not received:
            raise EOFError("the connection has ended")
        memory = memory[received:]
