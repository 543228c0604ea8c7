"""Writes the labels of a run in the format that another program reads.

python -m jobs.export RUN --format milan --output annotations.csv
python -m jobs.export OUTPUT --milan --output EXEMPLARS
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import tyro

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned, reading
from jobs.engine.plan import read_manifest
from jobs.reporting import neuronpedia
from jobs.storage import absolute, redact, storage_for
from jobs.storage.places import settle
from mami_core import contracts
from mami_core.errors import ConfigError
from mami_core.labels import labels_at

Format = Literal["csv", "jsonl", "milan", "milan-descriptions", "milan-exemplars", "huggingface", "neuronpedia"]
_NAMES: dict[str, str] = {
    "csv": "labels.csv",
    "jsonl": "labels.jsonl",
    "milan": "annotations.csv",
    "milan-descriptions": "descriptions.csv",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """Write a run's labels for other programs: CSV, JSON lines, MILAN's, Hugging Face's, Neuronpedia's."""

    ADDRESSES: ClassVar = ("run", "output")

    run: tyro.conf.Positional[str]
    """The run's folder, local or s3://."""
    format: Format | None = None
    """csv: a row a neuron, lists as JSON. jsonl: a line a neuron. milan: layer, unit and summary, dead neurons left
    out. milan-descriptions: layer, unit and description, as MILAN writes what it says. milan-exemplars: MILAN's folders
    of exemplars, for its scripts. huggingface: a folder that datasets.load_dataset reads. neuronpedia: folders that a
    Neuronpedia of your own imports."""
    output: str | None = None
    """The file, or the folder of a data set; local or s3://. By default a name that the format has, here."""
    subject: str | None = None
    """Only this network's neurons. MILAN's formats have no networks: needed there where the run has several."""
    milan: bool = False
    """The same as --format milan-exemplars: everything as MILAN has it."""
    viz: bool = False
    """With --milan, also a picture for people of each exemplar, and a page for each unit."""
    masks: Literal["stored", "mami", "milan"] = "stored"
    """With --milan: regions as the run keeps them, on 56 cells; or drawn anew on MILAN's 224 by running the network
    over the exemplars, in this project's way or in MILAN's (docs/milan.md)."""

    def __post_init__(self) -> None:
        settle(self)
        if self.milan:
            if self.format not in (None, "milan-exemplars"):
                raise ConfigError(f"--milan writes MILAN's folders, and --format {self.format} is something else.")
            object.__setattr__(self, "format", "milan-exemplars")
        if self.format is None:
            raise ConfigError(f"expected --format {'|'.join(get_args(Format))}, or --milan.")
        if self.format != "milan-exemplars" and (self.viz or self.masks != "stored"):
            raise ConfigError("--viz and --masks go with --milan.")


def run(job: ExportJob) -> int:
    """Write it, and say where."""
    assert job.format is not None, "refused already"
    if job.format == "milan-exemplars":
        return _exemplars(job)
    table = labels_at(job.run, subject=job.subject)
    place = absolute(job.output or _NAMES.get(job.format, "labels"))
    folder, _, name = (place, "", "") if job.format in _FOLDERS else place.rpartition("/")
    for key, data in _FORMATS[job.format](table, name).items():
        storage_for(folder).write(key, data)
    runtime.show(f"{table.num_rows:,} neurons of {redact(job.run)} in {redact(place)}")
    return runtime.COMPLETE


def plan(job: ExportJob) -> str:
    """What `run` would do."""
    assert job.format is not None, "refused already"
    storage = storage_for(job.run)
    steps = [reading("labels", storage, "labels")]
    written = 3 * (steps[0].bytes_read or 0.0)
    if job.format == "milan-exemplars":
        steps += [reading(folder, storage, folder) for folder in ("exemplars", "regions")]
        # Photographs and masks as MILAN keeps them: 224 × 224 bytes of four channels an exemplar.
        manifest = read_manifest(storage)
        if "subjects" not in manifest.config:
            raise ConfigError(
                f"{redact(storage.url)} holds no labelling run: expected a folder that `mami label` made."
            )
        written = float(manifest.num_rows("labels/") * manifest.config["search"]["k"] * 4 * 224**2)
    output = absolute(job.output or _NAMES.get(job.format, "labels"))
    steps.append(Step(name=job.format, bytes_written=written))
    return planned(f"Writing the labels of {redact(storage.url)} as {job.format}", steps, into=output)


def _exemplars(job: ExportJob) -> int:
    from jobs.reporting.milan import write_exemplars
    from jobs.reporting.sources import open_sources

    sources = [source for source in open_sources([job.run]) if job.subject in (None, source.subject)]
    if len(sources) != 1:
        raise ConfigError(
            f"MILAN's exemplars are of one network; give --subject: {redact(job.run)} fits {len(sources)}."
        )
    folder = Path(absolute(job.output or "exemplars"))
    if "://" in str(folder):
        raise ConfigError("MILAN's arrays are mapped from a disk: give a local --output.")
    count = write_exemplars(sources[0], folder, viz=job.viz, masks=job.masks)
    runtime.show(f"{count:,} neurons of {redact(job.run)} in {folder}")
    return runtime.COMPLETE


def _csv(table: pa.Table, name: str) -> dict[str, bytes]:
    nested = [field.name for field in table.schema if pa.types.is_list(field.type)]
    for column in nested:
        texts = [_json(value) for value in table[column].to_pylist()]
        table = table.set_column(table.column_names.index(column), column, pa.array(texts))
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink)
    return {name: sink.getvalue().to_pybytes()}


def _jsonl(table: pa.Table, name: str) -> dict[str, bytes]:
    return {name: "".join(_lines(table)).encode()}


def _lines(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield _json(row) + "\n"


def _json(value: Any) -> str:
    """In one line; null for a number that is not known, since nan is no JSON."""
    return json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False)


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_nan(each) for name, each in value.items()}
        case list():
            return [_without_nan(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _milan(table: pa.Table, name: str) -> dict[str, bytes]:
    """As MILANNOTATIONS has it: `layer,unit,summary`."""
    from mami_core.learning.milan_folder import annotations_file

    return {name: annotations_file(_captions(table))}


def _milan_descriptions(table: pa.Table, name: str) -> dict[str, bytes]:
    """As MILAN's script writes it: `layer,unit,description`."""
    from mami_core.learning.milan_folder import descriptions_file

    return {name: descriptions_file(_captions(table))}


def _captions(table: pa.Table) -> dict[tuple[str, int], str]:
    """Of the neurons that have one."""
    _one_network(table)
    rows = table.filter(pc.is_valid(table["caption"])).select(["layer", "unit", "caption"]).to_pylist()
    return {(row["layer"], row["unit"]): row["caption"] for row in rows}


def _one_network(table: pa.Table) -> None:
    if len(subjects := table["subject"].unique().to_pylist()) > 1:
        raise ConfigError(f"MILAN's annotations are of one network; give --subject, one of {', '.join(subjects)}.")


_CARD = """---
configs:
- config_name: default
  data_files: data/*.parquet
tags: [interpretability, neurons]
---

# What the neurons of {subjects} look for

{count:,} neurons, labelled with MAMI. A row is a neuron: `subject`, `layer`, `unit`, `caption`, its scores, and the
names of the images that drive it highest.
"""


def _huggingface(table: pa.Table, name: str) -> dict[str, bytes]:
    subjects = ", ".join(table["subject"].unique().to_pylist())
    return {
        "README.md": _CARD.format(subjects=subjects, count=table.num_rows).encode(),
        "data/train-00000-of-00001.parquet": contracts.to_parquet(table, contracts.LABELS),
    }


_FORMATS: dict[str, Callable[[pa.Table, str], dict[str, bytes]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "milan": _milan,
    "milan-descriptions": _milan_descriptions,
    "huggingface": _huggingface,
    "neuronpedia": lambda table, name: dict(neuronpedia.files_of(table)),
}
_FOLDERS = ("huggingface", "neuronpedia")


if __name__ == "__main__":
    sys.exit(runtime.main(ExportJob, run, plan=plan))
