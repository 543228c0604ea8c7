"""Two checkpoints of one network, both ends of its units and the latents of a dictionary, labelled in one run."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import save_file

from jobs.label import LabelJob
from mami_core.errors import ConfigError, SubjectError
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


def test_some_units_of_a_layer_get_the_labels_that_they_get_among_all(job: LabelJob, tmp_path: Path) -> None:
    save_file({"weight": torch.randn(40, 16), "bias": torch.ones(40)}, tmp_path / "probe.safetensors")
    whole, some = (
        labels_of(
            work_here(
                dataclasses.replace(
                    job,
                    layers=layers,
                    dictionary=(f"stage.deep={tmp_path / 'probe.safetensors'}",),
                    output=str(tmp_path / name),
                )
            )
        ).drop_columns(["weights"])
        for name, layers in (
            ("whole", ("clamped", "stage.deep", "stage.deep:probe")),
            ("some", ("clamped[3:]", "stage.deep[4:12]", "stage.deep:probe[25:33]")),
        )
    )
    wanted = [("clamped", 3, 8), ("stage.deep", 4, 12), ("stage.deep:probe", 25, 33)]
    parts = [
        whole.filter((pc.field("layer") == layer) & (pc.field("unit") >= first) & (pc.field("unit") < end))
        for layer, first, end in wanted
    ]
    assert some.num_rows == 21
    for found, part in zip(_by_layer(some), parts, strict=True):
        if ":" not in part["layer"][0].as_py():
            assert found.equals(part.combine_chunks())
            continue
        # Fewer rows of a dictionary are multiplied otherwise in the last bits.
        for column in ("unit", "exemplar_images", "dead"):
            assert found[column].to_pylist() == part[column].to_pylist(), column
        expected = part["exemplar_activations"].to_pylist()
        assert found["exemplar_activations"].to_pylist() == [pytest.approx(row, rel=1e-4) for row in expected]


def _by_layer(labels: pa.Table) -> list[pa.Table]:
    layers = list(dict.fromkeys(labels["layer"].to_pylist()))
    return [labels.filter(pc.field("layer") == layer).combine_chunks() for layer in layers]


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (("scores[0:17]",), "has units 0 to 15"),
        (("scores[5:5]",), "has units"),
        (("sc*[0:4]", "scores[2:8]"), "another range"),
    ],
)
def test_ranges_beyond_a_layer_are_refused(job: LabelJob, layers: tuple[str, ...], why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        dataclasses.replace(job, layers=layers).prepare()


def test_the_same_network_twice_needs_names(job: LabelJob) -> None:
    with pytest.raises(ConfigError, match="--as NAME for each"):
        dataclasses.replace(job, subject=(tiny.SUBJECT, tiny.SUBJECT)).subject_specs()
    with pytest.raises(ConfigError, match="an --as for each --subject, got 1 for 2"):
        dataclasses.replace(job, subject=(tiny.SUBJECT, tiny.SUBJECT), as_=("a",)).subject_specs()
