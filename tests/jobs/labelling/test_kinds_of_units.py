"""Two checkpoints of one network, both ends of its units and the latents of a dictionary, labelled in one run."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import yaml
from safetensors.torch import save_file

from jobs import label
from jobs.label import LabelJob
from jobs.storage import storage_for
from mami_core.errors import ConfigError, SubjectError
from tests import tiny
from tests.jobs.tables import on_ray
from tests.jobs.tiny_label import labels_of, run_folder, tiny_job, work_here, write_inputs


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


@on_ray
@pytest.mark.slow  # a quicker one compares three workers with one on a single subject
@pytest.mark.timeout(300)
def test_two_workers_write_the_bytes_of_one_for_every_kind_of_subject(job: LabelJob, tmp_path: Path) -> None:
    """Of transformers from a folder (blocks and heads), an exported program, latents and both ends, and a generator."""
    transformers = pytest.importorskip("transformers", reason="transformers is an optional extra")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    images = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(tiny.Tiny().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=images)
    torch.export.save(program, tmp_path / "tiny.pt2")
    save_file({"weight": torch.randn(8, 16)}, tmp_path / "probe.safetensors")
    subjects = [
        {"name": f"hf:{tmp_path / 'vit'}", "as": "vit", "layers": ["every-block", "heads"]},
        {"name": f"export:{tmp_path / 'tiny.pt2'}", "as": "program"},
        {"name": tiny.SUBJECT, "ends": "both", "dictionaries": [f"stage.deep={tmp_path / 'probe.safetensors'}"]},
    ]
    (tmp_path / "subjects.yaml").write_text(yaml.safe_dump(subjects))
    job = dataclasses.replace(job, images_per_item=12, neurons_per_item=64, num_workers=2)
    several = dataclasses.replace(job, subject=(), subjects_file=str(tmp_path / "subjects.yaml"))
    generator = dataclasses.replace(job, subject=(tiny.GENERATOR,), images="random:0:20")
    for name, changed in (("kinds", several), ("generator", generator)):
        two = dataclasses.replace(changed, output=str(tmp_path / name))
        assert label.run(two) == 0
        alone = work_here(dataclasses.replace(two, output=str(tmp_path / f"{name} alone")))
        made, expected = run_folder(storage_for(str(two.output))), run_folder(alone)
        for path in ("_MANIFEST.json", *(path for path in expected if path.startswith("images/"))):
            if name == "generator":  # where its images are is part of their table, and of what sums it up
                del made[path], expected[path]
        assert made == expected


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
