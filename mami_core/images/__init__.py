"""Bytes → pixels: where the images are, reading them, and decoding them. What cannot be decoded is said, not skipped.

::

    open_source     a folder, a list, Parquet or tars → the images table, what identifies it, what is left out
    list_images     the images table alone
    read_bytes      the images table → the bytes of each image, in order
    decode          bytes → square pixels, one tensor a size
    batches         all of it: the images table → batches of one fixed shape, decoded ahead by a `Decoder`
"""

from mami_core.images.batch import HERE, MOST_THREADS, Decoded, Decoder, ImageBatch, InThreads, batches
from mami_core.images.files import FileInfo, Files, LocalFiles
from mami_core.images.pixels import MAX_PIXELS, decode
from mami_core.images.read import MAX_BYTES, read_bytes
from mami_core.images.source import ImageSource, list_images, open_source

__all__ = [
    "HERE",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MOST_THREADS",
    "Decoded",
    "Decoder",
    "FileInfo",
    "Files",
    "ImageBatch",
    "ImageSource",
    "InThreads",
    "LocalFiles",
    "batches",
    "decode",
    "list_images",
    "open_source",
    "read_bytes",
]
