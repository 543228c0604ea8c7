"""A run that labels some units of a layer: whoever looks at it sees each under its own number."""

import dataclasses
import json
from pathlib import Path

import pytest

from jobs import export, report, show, similar
from jobs.engine import runtime
from jobs.export import ExportJob
from jobs.report import ReportJob
from jobs.show import ShowJob
from jobs.similar import SimilarJob
from jobs.storage import Storage, storage_for
from mami_core.errors import ConfigError
from mami_core.learning.milan_folder import read_folder
from mami_core.neurons import find_neuron
from tests.jobs.reporting.browser import Visit, browsing, find_browser
from tests.jobs.tiny_label import labels_of, tiny_job, work_here, write_inputs

pytestmark = pytest.mark.xdist_group("report")
BROWSER = find_browser()
CLAMPED, DEEP = range(3, 8), range(4, 12)
THERE = r"clamped \(5, from unit 3 on\), stage\.deep \(8, from unit 4 on\)"


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A finished run of some units of two layers."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    job = tiny_job(inputs, tmp_path_factory.mktemp("part") / "run")
    job = dataclasses.replace(job, layers=("clamped[3:]", "stage.deep[4:12]"), neurons_per_item=3)
    storage = work_here(job)
    runtime.write_run_json(storage, job)
    return storage


def test_a_neuron_is_found_by_its_own_number(part: Storage, tmp_path: Path) -> None:
    for row in labels_of(part).to_pylist():
        neuron = find_neuron(part.url, row["layer"], row["unit"])
        assert (neuron.unit, neuron.caption) == (row["unit"], row["caption"])
    picture = tmp_path / "last.png"
    assert show.run(ShowJob(run=part.url, layer="clamped", unit=CLAMPED[-1], output=str(picture))) == 0
    for unit in (0, CLAMPED.start - 1, CLAMPED.stop):
        with pytest.raises(ConfigError, match=THERE):
            find_neuron(part.url, "clamped", unit)
        with pytest.raises(ConfigError, match=THERE):
            similar.run(SimilarJob(run=part.url, layer="clamped", unit=unit))


def test_similar_neurons_are_said_with_their_own_captions(part: Storage, capsys: pytest.CaptureFixture) -> None:
    said = {(row["layer"], str(row["unit"])): row["caption"] for row in labels_of(part).to_pylist()}
    assert similar.run(SimilarJob(run=part.url, layer="stage.deep", unit=DEEP[-1])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"stage.deep / {DEEP[-1]} " in lines[0]
    assert len(lines) > 5
    for line in lines:
        _, layer, rest = line.split(" / ")
        unit, caption = rest.split("  ")
        assert said[layer, unit] == caption


def test_the_report_shows_each_unit_under_its_own_number(part: Storage, tmp_path: Path) -> None:
    job = ReportJob(runs=(part.url,), output=str(tmp_path / "site"))
    assert report.run(job) == 0
    site = storage_for(str(job.output))
    text = site.read("data/overview.js").decode()
    layers = json.loads(text[text.index(",") + 1 : -3])["sources"][0]["layers"]
    assert [(layer["name"], layer["first_unit"], layer["units"]) for layer in layers] == [
        ("clamped", 3, 5),
        ("stage.deep", 4, 8),
    ]
    text = site.read("data/0/00001/000.js").decode()
    last = json.loads(text[text.index(",") + 1 : -3])[-1]
    assert last["nearest"]
    assert [0, 0, CLAMPED[-1]] not in [near[:3] for near in last["nearest"]], "none is most like itself"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_pages_of_a_part_lead_to_the_units_that_there_are(part: Storage, finished: Storage, tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api")
    said = {(row["layer"], row["unit"]): row for row in labels_of(part).to_pylist()}
    assert report.run(ReportJob(runs=(part.url, finished.url), output=str(tmp_path / "site"))) == 0
    with browsing(str(BROWSER)) as browser:
        visiting = Visit(browser, tmp_path / "site", viewport={"width": 1280, "height": 4000})
        page = visiting.open("#/gallery?layer=clamped")
        page.locator(".card").first.wait_for()
        assert page.locator(".card .where").all_inner_texts() == [f"clamped / {unit}" for unit in CLAMPED]
        assert page.locator(".card h2").all_inner_texts() == [said["clamped", unit]["caption"] for unit in CLAMPED]
        page.locator(".card a").first.click()
        for unit in CLAMPED:
            page.locator("h1 small", has_text=f"clamped / {unit}").wait_for()
            names = page.locator(".exemplars figcaption span").all_inner_texts()
            assert names == said["clamped", unit]["exemplar_images"]
            assert page.locator("[rel=prev]").count() == (unit > CLAMPED[0])
            assert page.locator("[rel=next]").count() == (unit < CLAMPED[-1])
            page.keyboard.press("j")
        page = visiting.open("#/beside?layer=clamped")
        page.locator("main .note", has_text="8 of 8 neurons").wait_for()
        where = page.locator(".card .where").all_inner_texts()
        assert sorted(where) == sorted(f"clamped / {unit}" for unit in [*range(8), *CLAMPED])
        visiting.close()


def test_masks_of_a_part_are_drawn_anew_for_its_own_units(part: Storage, tmp_path: Path) -> None:
    job = ExportJob(run=part.url, milan=True, masks="mami", output=str(tmp_path))
    assert export.run(job) == 0
    for name, layer in read_folder(tmp_path).layers.items():
        for number, unit in enumerate(layer.numbers.tolist()):
            for rank, each in enumerate(find_neuron(part.url, name, unit).exemplars):
                drawn = layer.masks[number, rank, 0][2::4, 2::4] > 0
                assert (drawn == each.region).mean() > 0.9
