"""A run as MILAN's folders: pictures, masks and pages; masks enlarged from what the run keeps, or drawn anew."""

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import __main__ as mami
from jobs import export
from jobs.engine import runtime
from jobs.export import ExportJob
from jobs.labelling.layout import IMAGES
from jobs.reporting.milan import Masks
from jobs.storage import Storage, storage_for
from mami_core import contracts
from mami_core.errors import ConfigError
from mami_core.exemplars.reading import Draw
from mami_core.exemplars.region import milan_regions, regions
from mami_core.images import LocalFiles, batches
from mami_core.learning.milan_folder import read_folder
from mami_core.neurons import find_neuron
from mami_core.subjects import load_subject
from tests import tiny
from tests.jobs.tiny_label import labels_of, tiny_job, work_here

pytestmark = pytest.mark.xdist_group("report")


def test_milan_reads_the_exemplars_of_a_run(finished: Storage, tmp_path: Path) -> None:
    assert mami.main(["export", finished.url, "--milan", "--viz", "--output", str(tmp_path)]) == 0
    made = read_folder(tmp_path)
    rows = {(row["layer"], row["unit"]): row for row in labels_of(finished).to_pylist() if not row["dead"]}
    assert {(layer, unit) for layer, found in made.layers.items() for unit in found.numbers.tolist()} == set(rows)
    for name, layer in made.layers.items():
        assert layer.images is not None
        assert layer.ids is not None
        assert layer.activations is not None
        for number, unit in enumerate(layer.numbers.tolist()):
            neuron = find_neuron(finished.url, name, unit)
            for rank, each in enumerate(neuron.exemplars):
                assert each.photograph is not None
                assert np.array_equal(layer.images[number, rank].transpose(1, 2, 0), each.photograph)
                assert np.array_equal(layer.masks[number, rank, 0][::4, ::4] > 0, each.region)
                assert layer.activations[number, rank] == pytest.approx(each.activation, rel=1e-4)
            missing = slice(len(neuron.exemplars), None)
            assert (layer.ids[number, missing] == -1).all()
            assert not layer.masks[number, missing].any()
        assert (tmp_path / name / "viz/unit_0/image_0.png").exists()
        page = (tmp_path / name / "viz/unit_0/+lightbox.html").read_text()
        assert rows[name, int(layer.numbers[0])]["caption"] in page
        assert page.count("<img") == len(rows[name, int(layer.numbers[0])]["exemplar_images"])
    said = list(csv.DictReader(io.StringIO((tmp_path / "descriptions.csv").read_text())))
    assert [row["description"].lower() for row in said] == [row["caption"] for row in rows.values()]


def test_pages_show_no_pictures_of_an_earlier_export(finished: Storage, tmp_path: Path) -> None:
    place = tmp_path / "clamped/viz/unit_0"
    place.mkdir(parents=True)
    (place / "image_99.png").write_bytes(b"of another run")
    assert export.run(ExportJob(run=finished.url, milan=True, viz=True, output=str(tmp_path))) == 0
    page = (place / "+lightbox.html").read_text()
    assert "image_0.png" in page
    assert "image_99" not in page


@pytest.mark.parametrize("masks", ["stored", "mami", "milan"])
def test_a_run_of_dead_units_alone_has_no_folders(masks: Masks, inputs: Path, tmp_path: Path) -> None:
    layer, unit = tiny.DEAD
    job = dataclasses.replace(tiny_job(inputs, tmp_path / "run"), layers=(f"{layer}[{unit}:{unit + 1}]",))
    storage = work_here(job)
    runtime.write_run_json(storage, job)
    output = tmp_path / "out"
    output.mkdir()
    assert export.run(ExportJob(run=storage.url, milan=True, viz=True, masks=masks, output=str(output))) == 0
    assert [path.name for path in output.iterdir()] == ["descriptions.csv"]


@pytest.mark.parametrize(("way", "draw"), [("mami", regions), ("milan", milan_regions)])
def test_masks_may_be_drawn_anew_on_milans_grid(way: str, draw: Draw, finished: Storage, tmp_path: Path) -> None:
    words = ["export", finished.url, "--milan", "--masks", way, "--output", str(tmp_path)]
    assert mami.main(words) == 0
    subject = load_subject(tiny.SUBJECT)
    images = contracts.from_parquet(finished.read(IMAGES), contracts.IMAGES, where="images")
    settings = {"sizes": (subject.input_size,), "crop": subject.crop, "batch_size": 8, "on_error": lambda *_: None}
    maps: dict[tuple[str, int], torch.Tensor] = {}
    with torch.no_grad(), subject.trace(tuple(tiny.LAYERS)) as outputs:
        for batch in batches(images, LocalFiles(), **settings):
            subject.read(batch.pixels[0], outputs.run)
            for row, image in enumerate(batch.images[: batch.num_valid].tolist()):
                maps |= {(layer, image): outputs[layer][row].clone() for layer in tiny.LAYERS}
    made, compared = read_folder(tmp_path), 0
    for row in labels_of(finished).to_pylist():
        if row["dead"]:
            continue
        layer = made.layers[row["layer"]]
        assert layer.ids is not None
        number = layer.numbers.tolist().index(row["unit"])
        for rank in range(len(row["exemplar_images"])):
            grid = maps[row["layer"], int(layer.ids[number, rank])][row["unit"]].float()
            grid = grid[None] if grid.ndim == 2 else grid[None, None, None]
            expected = draw(grid, torch.tensor([row["threshold"]]), 224)[0]
            assert np.array_equal(layer.masks[number, rank, 0] > 0, expected.numpy())
            compared += 1
    assert compared > 100


def test_what_milans_folders_cannot_be_is_refused(finished: Storage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--format"):
        ExportJob(run=finished.url)
    with pytest.raises(ConfigError, match="--milan"):
        ExportJob(run=finished.url, format="csv", milan=True)
    with pytest.raises(ConfigError, match="go with --milan"):
        ExportJob(run=finished.url, format="csv", masks="milan")
    copy = storage_for(str(shutil.copytree(finished.url, tmp_path / "copy")))
    copy.delete("run.json")
    with pytest.raises(ConfigError, match=r"run\.json does not say which"):
        export.run(ExportJob(run=copy.url, milan=True, masks="milan", output=str(tmp_path / "out")))
