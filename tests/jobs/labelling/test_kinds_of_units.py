"""Two checkpoints of one network, both ends of its units and the latents of a dictionary, labelled in one run."""

import dataclasses
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import save_file

from jobs.label import LabelJob
from mami_core.errors import ConfigError
from tests import tiny
from tests.jobs.tiny_label import labels_of, tiny_job, work_here, write_inputs


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> LabelJob:
    folder = write_inputs(tmp_path_factory.mktemp("kinds"))
    return tiny_job(folder, folder / "labels")


def test_checkpoints_ends_and_latents_are_rows_of_one_table(job: LabelJob, tmp_path: Path) -> None:
    save_file({"weight": torch.randn(3, 16), "bias": torch.ones(3)}, tmp_path / "probe.safetensors")
    both = dataclasses.replace(
        job,
        subject=(tiny.SUBJECT, tiny.SUBJECT),
        as_=("before", "after"),
        layers=("scores", "stage.deep:probe"),
        dictionary=(f"stage.deep={tmp_path / 'probe.safetensors'}",),
        ends="both",
        output=str(tmp_path / "labels"),
    )
    table = labels_of(work_here(both))
    assert set(table["subject"].to_pylist()) == {"before", "after"}
    layers = {layer: 2 * count for layer, count in (("scores", 16), ("stage.deep:probe", 3))}
    for layer, count in layers.items():
        for name, end in ((layer, "highest"), (f"{layer}:lowest", "lowest")):
            rows = table.filter(pc.equal(table["layer"], name))
            assert rows.num_rows == count
            assert set(rows["end"].to_pylist()) == {end}
    assert len(set(table["weights"].to_pylist())) == 1, "the same weights under two names"
    assert "stage.deep:probe" in both.prepare().inventory


def test_the_same_network_twice_needs_names(job: LabelJob) -> None:
    with pytest.raises(ConfigError, match="--as NAME for each"):
        dataclasses.replace(job, subject=(tiny.SUBJECT, tiny.SUBJECT)).subject_specs()
    with pytest.raises(ConfigError, match="an --as for each --subject, got 1 for 2"):
        dataclasses.replace(job, subject=(tiny.SUBJECT, tiny.SUBJECT), as_=("a",)).subject_specs()
