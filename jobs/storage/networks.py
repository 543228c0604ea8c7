"""Networks from where they are kept: a captioner's checkpoint, its encoder, a weights file; a folder or `s3://`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.storage import redact, safe_name, storage_for
from mami_core import pipeline
from mami_core.captioners import SHIPPED, shipped
from mami_core.errors import MissingObjectError
from mami_core.features import Encoder
from mami_core.learning import checkpoint
from mami_core.learning.checkpoint import Trained
from mami_core.subjects import Precision


def load_captioner(url: str) -> Trained:
    """The captioner whose checkpoint is in this folder, local or `s3://`; or "shipped", the project's own.

    Raises:
        CheckpointError: it cannot be restored.
    """
    if url == SHIPPED:
        return checkpoint.load(shipped(), where="the project's captioner")
    storage = storage_for(url)
    files: dict[str, bytes] = {}
    for name in checkpoint.FILES:
        with suppress(MissingObjectError):  # the checkpoint says which of them it cannot do without
            files[name] = storage.read(name)
    trained = checkpoint.load(files, where=redact(url))
    if trained.encoder.weights != checkpoint.ENCODER:
        return trained
    beside = storage.locate(checkpoint.ENCODER)
    return dataclasses.replace(trained, encoder=dataclasses.replace(trained.encoder, weights=beside))


def load_encoder(trained: Trained, *, precision: Precision = "float32") -> Encoder:
    """The encoder that the captioner was trained on, on the CPU, computing in `precision`.

    Raises:
        SubjectError: it cannot be had.
        CheckpointError: what goes by its name here gives other features.
    """
    with local_weights(trained.encoder.weights) as weights:
        encoder = dataclasses.replace(trained.encoder, weights=weights)
        return pipeline.encoder_of(dataclasses.replace(trained, encoder=encoder), precision=precision)


@contextmanager
def local_weights(weights: str | None) -> Iterator[str | None]:
    """A weights file from `s3://` as a local one, for as long as it takes to load; everything else as it is."""
    if not weights or not weights.startswith("s3://"):
        yield weights
        return
    folder, _, name = weights.rpartition("/")
    with TemporaryDirectory(prefix="mami-weights-") as here:
        file = Path(here) / safe_name(name)
        file.write_bytes(storage_for(folder).read(name))
        yield str(file)
