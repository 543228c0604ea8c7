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
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from mami_core.errors import ImageError, StorageError
from mami_core.images.files import CountsRetries, Files
from mami_core.images.jpeg_view import Seen, gpu_view
from mami_core.images.read import read_bytes

logger = logging.getLogger(__name__)

Read = tuple[int, UInt8[Tensor, " _"] | ImageError, Seen | None]
"""An image's number, its file or what is wrong with it, and what is seen of it where a GPU can decode it."""

_LENGTH = struct.Struct("<Q")
_PATIENCE_S = 5.0
"""How long a reader may take to end once nobody asks it any more."""


def room(num_bytes: int) -> UInt8[Tensor, " _"]:
    """Memory from which a GPU copies by itself, where there is one."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())


class Readers:
    """Some processes that read. They start when this is made, which takes them seconds, and end with this process."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._starting: list[_Reader] = []
        self._free: list[_Reader] = []
        self._closed = False
        atexit.register(self.close)
        try:
            for _ in range(count):
                self._starting.append(_Reader())
        except OSError as problem:  # it is only about speed
            logger.warning("Images are read by %d processes for %d: %s", len(self._starting), count, problem)

    def read(self, images: pa.Table, files: Files, crop: float) -> list[Read] | None:
        """The images' files, in the table's order; None where no reader is free, or none knows such `files`.

        Raises:
            StorageError: storage failed.
        """
        reader = self._take()
        if reader is None:
            return None
        try:
            found = reader.read(images, files, crop)
        except BaseException as problem:
            _end([reader])  # who knows what is on the connection
            if not isinstance(problem, OSError | EOFError):
                raise
            logger.warning("A process that reads images has ended (%s); its work is done here.", problem)
            return None
        self._give_back(reader)
        if isinstance(found, Exception):
            raise found
        return found

    def _take(self) -> "_Reader | None":
        with self._lock:
            up = [reader for reader in self._starting if reader.is_up()]
            self._starting = [reader for reader in self._starting if reader not in up]
            self._free += up
            return self._free.pop() if self._free else None

    def _give_back(self, reader: "_Reader") -> None:
        with self._lock:
            if not self._closed:
                self._free.append(reader)
                return
        _end([reader])

    def close(self) -> None:
        """Ends the processes, those that are at work when they are done."""
        with self._lock:
            ended, self._starting, self._free, self._closed = [*self._starting, *self._free], [], [], True
        _end(ended)


_MAKING = threading.Lock()


def readers(count: int) -> Readers:
    """So many, the same ones for all of this process: they live through the stages of a run."""
    with _MAKING:
        return _readers(count)


@functools.cache
def _readers(count: int) -> Readers:
    return Readers(count)


def _end(some: "Sequence[_Reader]") -> None:
    """Says to all that nobody will ask any more, and waits until they have ended."""
    for reader in some:
        reader.connection.close()
    for reader in some:
        try:
            reader.process.wait(_PATIENCE_S if reader.is_greeted else 0)
        except subprocess.TimeoutExpired:
            reader.process.kill()
            reader.process.wait()


class _Reader:
    """One process, and the connection to it, on which one thread at a time asks."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        self.is_greeted = False
        with theirs:
            try:
                self.process = _started(theirs.fileno())
            except BaseException:
                self.connection.close()
                raise

    def is_up(self) -> bool:
        """Whether it can be asked: its greeting is there. Also where it has ended, as asking it will show."""
        try:
            self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def read(self, images: pa.Table, files: Files, crop: float) -> list[Read] | Exception | None:
        """What it finds, the error that it tells of, or None where it does not know such `files`.

        Raises:
            OSError, EOFError: it has ended.
        """
        if not self.is_greeted:
            _receive(self.connection)
            self.is_greeted = True
        _send(self.connection, pickle.dumps((_to_bytes(images), pickle.dumps(files), crop)))
        answer: _Answer | Exception | None = pickle.loads(_receive(self.connection))
        if not isinstance(answer, _Answer):
            return answer
        if answer.num_retries and isinstance(files, CountsRetries):
            files.add_retries(answer.num_retries)
        sizes = [found if isinstance(found, int) else 0 for _, found, _ in answer.images]
        together = room(sum(sizes))
        _fill(self.connection, together.numpy().data)
        return [
            (image, part if isinstance(found, int) else ImageError(found), seen)
            for (image, found, seen), part in zip(answer.images, together.split(sizes), strict=True)
        ]


def _started(handle: int) -> subprocess.Popen:
    """A process that serves at this end of a connection."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from mami_core.images import readers; readers.serve({handle})"],
        pass_fds=[handle],
        process_group=0,  # whoever is interrupted hangs up, which ends it without a word
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )


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
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    with socket.socket(fileno=handle) as connection, suppress(EOFError, ConnectionError):
        _send(connection, b"")
        while True:
            rows, pickled, crop = pickle.loads(_receive(connection))
            answer, parts = _answered(_from_bytes(rows), pickled, crop)
            _send(connection, pickle.dumps(answer))
            for part in parts:
                connection.sendall(part)


def _answered(images: pa.Table, pickled: bytes, crop: float) -> "tuple[_Answer | Exception | None, list[bytes]]":
    try:
        files = _files(pickled)
    except Exception:  # made of what only the asker has
        return None, []
    try:
        return _answer(images, files, crop)
    except Exception as problem:
        return _to_tell(problem), []


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
