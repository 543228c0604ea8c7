"""What a report holds: every neuron once, as the tables have it; and how it is made, again and beside another."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs import report
from jobs.engine import runtime
from jobs.labelling.layout import Layout
from jobs.report import ReportJob
from jobs.reporting.layout import GROUP, PER_SHEET
from jobs.reporting.pictures import PHOTOGRAPH
from jobs.reporting.sources import open_sources
from jobs.storage import Storage, storage_for
from mami_core import contracts, labels
from mami_core.errors import ConfigError, IncompleteRunError, RunMismatchError
from mami_core.neurons import find_neuron
from tests import tiny
from tests.jobs.reporting.conftest import relabelled, support_of
from tests.jobs.tables import snapshot
from tests.jobs.tiny_label import labels_of, tiny_job, work_here

pytestmark = pytest.mark.xdist_group("report")


def data(storage: Storage, key: str) -> Any:
    """What a data script gives the page."""
    text = storage.read(f"data/{key}.js").decode("ascii")
    start = f"MAMI.put({json.dumps(key)},"
    assert text.startswith(start)
    assert text.endswith(");\n")
    return json.loads(text[len(start) : -3])


def neurons_of(drawn: Storage) -> list[tuple[str, int, dict, dict]]:
    """Layer, unit, row of the index and details of every neuron, found as the page finds them."""
    found = []
    (source,) = data(drawn, "overview")["sources"]
    size = source["neurons_per_part"]
    for layer in source["layers"]:
        for unit in range(layer["units"]):
            part, offset = layer["first_part"] + unit // size, unit % size
            index = data(drawn, f"0/{part:05d}")
            row = {name: index[name] and index[name][offset] for name in ("score", "support", "top")}
            which = index["caption"][offset]
            row["caption"] = None if which < 0 else index["captions"][which]
            details = data(drawn, f"0/{part:05d}/{offset // GROUP:03d}")[offset % GROUP]
            found.append((layer["name"], unit, row, details))
    return found


def test_every_neuron_is_where_the_page_looks_for_it(finished: Storage, drawn: Storage) -> None:
    labels = {(row["layer"], row["unit"]): row for row in labels_of(finished).to_pylist()}
    found = neurons_of(drawn)
    assert {(layer, unit) for layer, unit, _, _ in found} == labels.keys()
    for layer, unit, row, details in found:
        label = labels[layer, unit]
        assert row["caption"] == label["caption"]
        assert row["score"] == (label["score"] and pytest.approx(label["score"], rel=1e-3))
        assert details["images"] == label["exemplar_images"]
        assert details["activations"] == pytest.approx(label["exemplar_activations"], rel=1e-3)
        assert [beam[0] for beam in details["beams"]] == [beam["caption"] for beam in label["beams"]]
        assert len(details["regions"]) == len(details["photographs"]) == len(details["images"])


def test_support_stands_where_the_run_has_it(supported: Storage, drawn: Storage) -> None:
    site = storage_for(f"{supported.url}/report")
    rows = {(row["layer"], row["unit"]): row for row in labels_of(supported).to_pylist()}
    known = [support for row in rows.values() if (support := support_of(row)) is not None]
    (source,) = data(site, "overview")["sources"]
    assert source["support"]["median"] == pytest.approx(np.median(known))
    assert sum(source["support"]["counts"]) == len(known)
    assert source["trust"] is None, "nobody judged"
    for layer, unit, row, details in neurons_of(site):
        label = rows[layer, unit]
        assert row["support"] == pytest.approx(label["support"]) == support_of(label)
        of_beams = [beam["support"] and pytest.approx(beam["support"], rel=1e-3) for beam in label["beams"]]
        assert [beam[-1] for beam in details["beams"]] == of_beams
    (without,) = data(drawn, "overview")["sources"]
    assert without["support"] is None
    assert all(row["support"] is None for _, _, row, _ in neurons_of(drawn))


@pytest.mark.parametrize("former", contracts.LABELS_BEFORE)
def test_runs_with_labels_of_versions_before_are_drawn(finished: Storage, former: pa.Schema, tmp_path: Path) -> None:
    def change(row: dict) -> None:
        for name in contracts.LABELS.names:
            if name not in former.names:
                del row[name]
        for beam in row["beams"]:
            del beam["support"]

    storage = relabelled(finished, str(tmp_path / "run"), change, former)
    assert report.run(ReportJob(runs=(storage.url,))) == 0
    site = storage_for(f"{storage.url}/report")
    for key in ("overview", "0/00000", "0/00000/000"):
        assert data(site, key) == data(storage_for(f"{finished.url}/report"), key)


def test_photographs_are_those_of_the_exemplars(finished: Storage, drawn: Storage, inputs: Path) -> None:
    """Each exemplar's picture in its sheet is the image that its name says, seen as the subject sees it."""
    (source,) = open_sources([finished.url])
    for _, _, _, details in neurons_of(drawn):
        for name, (album, sheet, place) in zip(details["images"], details["photographs"], strict=True):
            found = Image.open(io.BytesIO(drawn.read(f"photographs/{album}/{sheet:05d}.webp")))
            assert place < PER_SHEET
            left, top = PHOTOGRAPH * (place % 4), PHOTOGRAPH * (place // 4)
            shown = found.crop((left, top, left + PHOTOGRAPH, top + PHOTOGRAPH))
            photograph = Image.open(inputs / "photographs" / name).convert("RGB")
            side = source.crop * min(photograph.size)
            x, y = ((length - side) / 2 for length in photograph.size)
            expected = photograph.crop((round(x), round(y), round(x + side), round(y + side))).resize(shown.size)
            difference = np.asarray(shown, float) - np.asarray(expected, float)
            assert np.abs(difference).mean() < 12, name


def test_attention_is_a_share_of_every_exemplar_for_every_word(drawn: Storage) -> None:
    for _, _, row, details in neurons_of(drawn):
        if row["caption"] is None:
            assert details["attention"] is None
            continue
        assert details["words"] == row["caption"].split()
        assert len(details["attention"]) == len(details["words"])
        for weights in details["attention"]:
            assert len(weights) == len(details["images"])
            assert sum(weights) == pytest.approx(100, abs=2)


def test_the_neurons_most_alike_are_others_and_the_most_alike_first(drawn: Storage) -> None:
    layers = [layer["name"] for layer in data(drawn, "overview")["sources"][0]["layers"]]
    dead = 0
    for layer, unit, row, details in neurons_of(drawn):
        nearest = details["nearest"]
        dead += row["caption"] is None
        assert bool(nearest) == (row["caption"] is not None), "a dead neuron is like nobody"
        assert [0, layers.index(layer), unit] not in [near[:3] for near in nearest]
        assert (0, layers.index(tiny.DEAD[0]), tiny.DEAD[1]) not in {tuple(near[:3]) for near in nearest}
        cosines = [near[3] for near in nearest]
        assert cosines == sorted(cosines, reverse=True)
    assert dead == 1


def test_histograms_count_what_the_table_says_is_active(finished: Storage, drawn: Storage) -> None:
    labels = {(row["layer"], row["unit"]): row for row in labels_of(finished).to_pylist()}
    positions: dict[str, set[float]] = {}
    for layer, unit, row, details in neurons_of(drawn):
        if row["caption"] is not None:
            total = sum(details["histogram"]["counts"])
            positions.setdefault(layer, set()).add(round(total / labels[layer, unit]["active_fraction"]))
            assert len(details["histogram"]["edges"]) == len(details["histogram"]["counts"]) + 1
    assert all(len(each) == 1 for each in positions.values()), "all units of a layer were shown as many positions"


def test_a_finished_report_is_left_alone_and_an_unfinished_one_made_whole(finished: Storage, tmp_path: Path) -> None:
    job = ReportJob(runs=(finished.url,), output=str(tmp_path / "site"))
    assert report.run(job) == 0
    storage = storage_for(str(tmp_path / "site"))
    before = snapshot(storage)
    for path in ("index.html", "data/0/00001.js", "_work/tiles/0/00000.parquet"):
        storage.delete(path)
    assert report.run(job) == 0
    assert snapshot(storage) == before
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "site").rglob("*")}
    assert report.run(job) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "site").rglob("*")} == times


def test_two_runs_stand_side_by_side(finished: Storage, beside: ReportJob) -> None:
    sources = data(storage_for(str(beside.output)), "overview")["sources"]
    assert [source["name"] for source in sources] == [
        f"{tiny.SUBJECT} (run)",
        f"{tiny.SUBJECT} (other)",
        f"{tiny.OTHER_SUBJECT} (other)",
    ]
    assert all(source["neurons"] == sum(tiny.LAYERS.values()) for source in sources)
    with pytest.raises(RunMismatchError):
        report.run(dataclasses.replace(beside, runs=(finished.url,)))


def test_what_is_gone_is_said(finished: Storage, inputs: Path, tmp_path: Path) -> None:
    """Without intermediate files and one image the rest is shown, and the page says what is missing."""
    photographs = tmp_path / "photographs"
    tiny.write_photographs(photographs, 23)
    job = dataclasses.replace(tiny_job(inputs, tmp_path / "run"), images=str(photographs))
    storage = work_here(job)
    for info in storage.find("_work"):
        storage.delete(info.path)
    gone = labels_of(storage).to_pylist()[0]["exemplar_images"][0]
    (photographs / gone).unlink()
    assert report.run(ReportJob(runs=(storage.url,))) == 0
    site = storage_for(f"{storage.url}/report")
    (source,) = data(site, "overview")["sources"]
    assert "_work/exemplars" in source["notes"][0]
    assert "_work/features" in source["notes"][1]
    for _, _, _, details in neurons_of(site):
        assert details["attention"] is details["histogram"] is None
        for name, photograph in zip(details["images"], details["photographs"], strict=True):
            assert (photograph is None) == (name == gone)


def test_what_is_no_finished_run_is_refused(finished: Storage, inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no labelling run"):
        report.run(ReportJob(runs=(str(inputs),)))
    with pytest.raises(ConfigError, match="twice"):
        report.run(ReportJob(runs=(finished.url, finished.url)))
    begun = storage_for(str(tmp_path / "begun"))
    begun.write("_PLAN.json", finished.read("_PLAN.json"))
    with pytest.raises(IncompleteRunError, match="not finished"):
        report.run(ReportJob(runs=(begun.url,)))


def test_the_command_says_where_to_look(finished: Storage, drawn: Storage, capsys: pytest.CaptureFixture) -> None:
    assert runtime.main(ReportJob, report.run, [finished.url]) == 0
    assert f"open {drawn.url}/index.html" in capsys.readouterr().out


def test_regions_of_a_run_are_one_an_exemplar(finished: Storage) -> None:
    (source,) = open_sources([finished.url])
    for shard in source.shards:
        key = Layout.regions_key(source.subject, shard)
        regions = contracts.from_parquet(finished.read(key), contracts.REGIONS, where=key).to_pylist()
        exemplars = source.exemplars(shard).to_pylist()
        assert [len(row["regions"]) for row in regions] == [len(row["images"]) for row in exemplars]


def test_a_run_in_a_bucket_is_drawn_read_and_looked_into(finished: Storage, bucket: str) -> None:
    storage = storage_for(f"{bucket}/run")
    for info in finished.find():
        if not info.path.startswith("report/"):
            storage.write(info.path, finished.read(info.path))
    assert report.run(ReportJob(runs=(storage.url,))) == 0
    site = storage_for(f"{storage.url}/report")
    assert len(neurons_of(site)) == sum(tiny.LAYERS.values())
    assert len(labels.read(storage.url, layer="clamped")) == tiny.LAYERS["clamped"]
    neuron = find_neuron(storage.url, "clamped", 0, files=storage)
    assert all(each.photograph is not None for each in neuron.exemplars)
