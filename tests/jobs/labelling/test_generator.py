"""A generator labelled: latents in, its own images as exemplars."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from jobs.label import LabelJob
from jobs.labelling.layout import IMAGES
from mami_core import contracts, pipeline
from mami_core.errors import ConfigError, ImageSourceError
from mami_core.images import LocalFiles
from mami_core.learning import checkpoint
from mami_core.subjects import generate, load_subject
from tests import tiny
from tests.jobs.tiny_label import in_order, labels_of, run_folder, tiny_job, work_here, write_inputs


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> LabelJob:
    folder = write_inputs(tmp_path_factory.mktemp("generator"))
    np.save(folder / "latents.npy", torch.randn(21, 8, generator=torch.Generator().manual_seed(1)).numpy())
    made = tiny_job(folder, folder / "labels")
    return dataclasses.replace(made, subject=(tiny.GENERATOR,), images=str(folder / "latents.npy"))


def test_exemplars_are_the_generator_s_images_and_the_job_agrees_with_the_pipeline(job: LabelJob) -> None:
    storage = work_here(job)
    images = contracts.from_parquet(storage.read(IMAGES), contracts.IMAGES, where=IMAGES)
    made = pa.concat_tables(
        contracts.from_parquet(storage.read(info.path), contracts.GENERATED, where=info.path)
        for info in storage.find("generated")
    )
    subject = load_subject(tiny.GENERATOR)
    latents = torch.from_numpy(np.load(job.images))
    pixels = generate(subject, latents)
    assert images.num_rows == made.num_rows == 21
    for number, png in enumerate(made["image"].to_pylist()):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels[number].permute(1, 2, 0).numpy())
    config = job.prepare().spec.config
    labelled = pipeline.label(subject, (), images, LocalFiles(), checkpoint.load(Path(job.captioner)), config)
    labels = labels_of(storage)
    # Of the subject, the one who names it decides what it is called.
    assert labels.drop_columns("subject").equals(in_order(labelled.labels).drop_columns("subject"))
    with torch.no_grad(), subject.trace(("up2",)) as outputs:
        subject.read(latents, outputs.run)
        peaks = outputs["up2"].amax((2, 3))
    for row in labels.filter(pc.equal(labels["layer"], "up2")).to_pylist():
        best = row["exemplar_images"][0] if row["exemplar_images"] else None
        expected = f"latent {int(peaks[:, row['unit']].argmax())}" if float(peaks[:, row["unit"]].max()) > 0 else None
        assert best == expected


def test_any_split_of_the_latents_gives_the_same_labels(job: LabelJob, tmp_path: Path) -> None:
    whole, split = (
        work_here(dataclasses.replace(job, images_per_item=count, output=str(tmp_path / str(count))))
        for count in (64, 5)
    )
    assert labels_of(whole).equals(labels_of(split))
    assert len([path for path in run_folder(split) if path.startswith("generated/")]) == 5


def test_a_generator_has_a_run_of_its_own_and_wants_latents(job: LabelJob) -> None:
    with pytest.raises(ConfigError, match="in a run of its own"):
        dataclasses.replace(job, subject=(tiny.GENERATOR, tiny.SUBJECT)).prepare()
    with pytest.raises(ImageSourceError, match="makes images from latents"):
        dataclasses.replace(job, images=str(Path(job.images).parent / "photographs")).prepare()
