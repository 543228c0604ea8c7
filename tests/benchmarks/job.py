"""The job over Ray against the pipeline in one process: the same work with one worker, and the same bits."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import torch

from jobs.engine import runtime
from jobs.engine.plan import open_plan
from jobs.engine.pool import PoolConfig
from jobs.label import LabelJob
from jobs.labelling.run import work
from jobs.storage import storage_for
from mami_core import contracts, pipeline
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import Vocabulary
from mami_core.features import EncoderConfig, load_encoder
from mami_core.images import LocalFiles, list_images
from mami_core.learning import checkpoint
from mami_core.subjects import load_subject
from tests.benchmarks import measure
from tests.benchmarks.images import write_photographs
from tests.benchmarks.measure import Options, Row, Timing, Way, interleaved

SUBJECT, LAYERS, IMAGES = "torchvision:resnet18", ("layer3", "layer4"), 3072
PER_STAGE = 6
"""Items of images; a stage's worker starts once, whatever their number."""


def rows(options: Options) -> Iterator[Row]:
    """Ray is started once, before the clock runs."""
    count = round(IMAGES * options.share)
    with tempfile.TemporaryDirectory() as folder, runtime.connect():
        yield _row(Path(folder), count, options)


def _row(folder: Path, count: int, options: Options) -> Row:
    photographs = folder / "photographs"
    photographs.mkdir()
    write_photographs(photographs, 320, 240, count)
    _write_captioner(folder / "captioner")
    job = LabelJob(
        subject=(SUBJECT,),
        weights="random:0",
        images=str(photographs),
        captioner=str(folder / "captioner"),
        layers=LAYERS,
        scorer="none",
        beam_size=10,
        images_per_item=-(-count // PER_STAGE),
        neurons_per_item=512,
    )
    fresh = (folder / f"run-{number}" for number in itertools.count())
    outcomes: dict[str, pa.Table] = {}
    longest: list[float] = []

    def as_job() -> None:
        run = next(fresh)
        prepared = job.prepare()
        storage = storage_for(str(run))
        reports = work(storage, open_plan(storage, prepared.config), prepared, PoolConfig(num_workers=1))
        longest.append(max(report.busy_seconds / max(report.num_items, 1) for report in reports))
        outcomes["ours"] = _labels(run)
        shutil.rmtree(run)

    def in_one_process() -> None:
        trained = checkpoint.load(folder / "captioner")
        subject = load_subject(SUBJECT, weights="random:0")
        images = list_images(job.images, LocalFiles())
        found = pipeline.label(subject, LAYERS, images, LocalFiles(), trained, job.label_config())
        outcomes["floor"] = found.labels

    timings: dict[str, Timing] = interleaved({"ours": Way(as_job), "floor": Way(in_one_process)}, options)
    return Row(
        stage="the job against the pipeline",
        work=f"{SUBJECT}, {len(LAYERS)} layers, {count} of {IMAGES} images, one worker of one thread; the longest work "
        f"item took {max(longest):.0f} s; Ray was running",
        timings=timings,
        at_most=1.15,
        same=compare(outcomes["ours"], outcomes["floor"]),
        clock="wall_s",
    )


def _write_captioner(folder: Path) -> None:
    """Untrained, of the usual size but for its vocabulary."""
    encoder = EncoderConfig(name="torchvision:resnet18", weights="random:1")
    loaded = load_encoder(encoder)
    vocabulary = Vocabulary(tuple(f"word{number}" for number in range(500)))
    torch.manual_seed(0)
    captioner = Captioner(CaptionerConfig(num_features=loaded.num_features), vocabulary).eval()
    language_model = LanguageModel(LanguageModelConfig(), vocabulary).eval()
    folder.mkdir()
    trained = checkpoint.Trained(
        captioner=captioner, language_model=language_model, encoder=encoder, encoder_id=loaded.id
    )
    for name, data in checkpoint.save(trained).items():
        (folder / name).write_bytes(data)


def _labels(run: Path) -> pa.Table:
    files = sorted((run / "labels").rglob("*.parquet"))
    return pa.concat_tables([pa.parquet.read_table(file).cast(contracts.LABELS) for file in files])


def compare(ours: pa.Table, plain: pa.Table) -> str:
    """Every column but the run's name."""
    tables = [table.drop(["run"]).sort_by([("layer", "ascending"), ("unit", "ascending")]) for table in (ours, plain)]
    assert tables[0].num_rows == tables[1].num_rows
    assert tables[0].to_pylist() == tables[1].to_pylist()
    return f"{tables[0].num_rows} labels to the bit"


if __name__ == "__main__":
    measure.main(rows)
