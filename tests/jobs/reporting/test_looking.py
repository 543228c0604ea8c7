"""The small commands over a finished run: one neuron's picture, the neurons like it, two runs compared, exports."""

import csv
import dataclasses
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from jobs import compare, demo, export, show, similar, status
from jobs.engine import runtime
from jobs.export import ExportJob
from jobs.reporting import neuronpedia
from jobs.show import ShowJob
from jobs.similar import SimilarJob
from jobs.storage import Storage, storage_for
from mami_core import labels
from mami_core.errors import ConfigError, ContractError, MissingObjectError
from mami_core.exemplars.picture import EDGE
from mami_core.learning.descriptions import read_descriptions
from mami_core.neurons import find_neuron
from tests import tiny
from tests.jobs.reporting.conftest import relabelled, support_of
from tests.jobs.tiny_label import labels_of, tiny_job, work_here

pytestmark = pytest.mark.xdist_group("report")


def test_a_neuron_is_found_with_its_exemplars_and_regions(finished: Storage) -> None:
    for row in labels_of(finished).to_pylist()[::7]:
        neuron = find_neuron(finished.url, row["layer"], row["unit"])
        assert neuron.caption == row["caption"]
        assert [each.image for each in neuron.exemplars] == row["exemplar_images"]
        assert all(each.region.any() and each.photograph is not None for each in neuron.exemplars)
        assert len(repr(neuron)) < 4000, "a notebook that shows it is not flooded"
        picture = np.asarray(neuron.picture())
        drawn = sum(not each.region.all() for each in neuron.exemplars)
        assert ((picture == EDGE).all(2).sum() > 20) == bool(drawn), "outlined where the region is not all of it"


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_names_lead_to_images_inside_archives(kind: str, inputs: Path, tmp_path: Path) -> None:
    photographs = sorted(path for path in (inputs / "photographs").rglob("*") if path.is_file())
    source = tmp_path / f"photographs.{kind}"
    if kind == "tar":
        import tarfile

        with tarfile.open(source, "w") as archive:
            for path in photographs:
                archive.add(path, path.name)
    else:
        table = {"key": [path.name for path in photographs], "image": [path.read_bytes() for path in photographs]}
        pa.parquet.write_table(pa.table(table), source)
    job = dataclasses.replace(tiny_job(inputs, tmp_path / "run"), images=str(source), layers=("clamped",))
    storage = work_here(job)
    neuron = find_neuron(storage.url, "clamped", 0)
    for exemplar in neuron.exemplars:
        (path,) = [path for path in photographs if path.name == exemplar.image]
        expected = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).mean(0)
        assert exemplar.photograph is not None
        assert exemplar.photograph.reshape(-1, 3).mean(0) == pytest.approx(expected, abs=40)


def test_show_writes_a_picture_and_says_where(
    finished: Storage, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = labels_of(finished).to_pylist()[3]
    picture = tmp_path / "picture.png"
    assert show.run(ShowJob(run=finished.url, layer=row["layer"], unit=row["unit"], output=str(picture))) == 0
    said = capsys.readouterr().out
    assert str(picture) in said
    assert row["caption"] in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    assert show.run(ShowJob(run=finished.url, layer=row["layer"], unit=row["unit"])) == 0
    (named,) = (path for path in tmp_path.glob("*.png") if path != picture)
    assert re.fullmatch(rf"[A-Za-z0-9._-]+-{row['unit']}\.png", named.name), "readable, and safe anywhere"
    assert str(named) in capsys.readouterr().out
    dead = ShowJob(run=finished.url, layer=tiny.DEAD[0], unit=tiny.DEAD[1], output=str(picture))
    assert show.run(dead) == 0
    with pytest.raises(ConfigError, match=r"clamped \(8\)"):
        show.run(dataclasses.replace(dead, unit=99))


def test_similar_neurons_are_those_of_the_report(
    finished: Storage, drawn: Storage, capsys: pytest.CaptureFixture
) -> None:
    assert similar.run(SimilarJob(run=finished.url, layer="clamped", unit=2)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "clamped / 2" in lines[0]
    text = drawn.read("data/0/00000/000.js").decode()
    details = json.loads(text[text.index(",") + 1 : -3])[2]
    assert [float(line.split()[0]) for line in lines[1:]] == [near[3] for near in details["nearest"]]
    with pytest.raises(ConfigError, match="like nobody"):
        similar.run(SimilarJob(run=finished.url, layer=tiny.DEAD[0], unit=tiny.DEAD[1]))


def test_a_picture_is_of_the_kind_that_its_name_says(finished: Storage, tmp_path: Path) -> None:
    for ending, kind in {".png": "PNG", ".JPG": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.items():
        picture = tmp_path / f"picture{ending}"
        assert show.run(ShowJob(run=finished.url, layer="clamped", unit=2, output=str(picture))) == 0
        with Image.open(picture) as found:
            assert found.format == kind
    for name in ("picture", "picture.tiff"):
        with pytest.raises(ConfigError, match=r"ends in \.png, .*, got .*picture"):
            ShowJob(run=finished.url, layer="clamped", unit=2, output=str(tmp_path / name))


def test_support_is_said_where_it_is_known(
    finished: Storage, supported: Storage, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for run, expected in ((supported, 0.3), (finished, None)):
        neuron = find_neuron(run.url, "clamped", 3)
        assert neuron.support == neuron.beams[0].support == (expected and pytest.approx(expected))
        assert show.run(ShowJob(run=run.url, layer="clamped", unit=3, output=str(tmp_path / "picture.png"))) == 0
        said = f", support {expected:.2f})" if expected else f"(score {neuron.score:.2f})"
        assert said in capsys.readouterr().out
    demo._show(Path(supported.url), 8)
    printed = capsys.readouterr().out
    known = [support for row in labels_of(supported).to_pylist() if (support := support_of(row)) is not None]
    assert re.search(r"^neuron .* support +trust +caption$", printed, re.MULTILINE)
    assert f"{np.median(known):.2f} in the middle; {sum(one >= 0.7 for one in known)} captions have .7" in printed


# Reading


def test_labels_are_read_with_types_that_know_nulls(finished: Storage) -> None:
    whole = labels.read(finished.url)
    assert whole.equals(labels.read(f"{finished.url}/labels"))
    assert len(whole) == sum(tiny.LAYERS.values())
    kinds = {name: str(kind) for name, kind in whole.dtypes.items()}
    assert {name: kinds[name] for name in ("caption", "unit", "score", "dead")} == {
        "caption": "string",
        "unit": "Int32",
        "score": "Float32",
        "dead": "boolean",
    }
    assert whole.score.isna().sum() == 1
    clamped = labels.read(finished.url, layer="clamped")
    assert clamped.equals(whole[whole.layer == "clamped"].reset_index(drop=True))
    assert len(labels.read(finished.url, where="score > -1.3")) == (whole.score > -1.3).sum()
    assert list(labels.read(finished.url, columns=["unit", "caption"])) == ["unit", "caption"]


def test_labels_are_filtered_by_support_and_unknown_is_below_any(finished: Storage, supported: Storage) -> None:
    found = labels.read(supported.url, where="support >= 0.7")
    whole = labels_of(supported).to_pylist()
    wanted = [(row["layer"], row["unit"]) for row in whole if (support_of(row) or 0) >= 0.7]
    assert list(zip(found.layer, found.unit, strict=True)) == wanted
    assert labels.read(finished.url, where="support >= 0").empty
    whole_too = labels.read(supported.url, where="support.isna() or support < 0.7")
    assert len(whole_too) == len(whole) - len(wanted)


def test_mentioning_is_by_whole_words(finished: Storage) -> None:
    captions = labels_of(finished)["caption"].to_pylist()
    for words in ("edges", "Blue edges", "edge", "dogs green"):
        expected = [caption for caption in captions if caption and set(words.lower().split()) <= set(caption.split())]
        assert sorted(labels.read(finished.url, mentions=words).caption) == sorted(expected)


def test_what_cannot_be_read_is_said(finished: Storage, inputs: Path) -> None:
    with pytest.raises(MissingObjectError, match="found no labels"):
        labels.read(str(inputs))
    for where in ("colour = red", "score", "score + 1", "'score'", "1 < 2"):
        with pytest.raises(ConfigError, match="expected a condition") as refused:
            labels.read(finished.url, where=where)
        assert len(str(refused.value)) < 400
    with pytest.raises(ConfigError, match=r"expected a list of names, got 'unit'"):
        labels.read(finished.url, columns="unit")
    with pytest.raises(ConfigError, match=r"no layer 'nowhere'\. There are .*clamped"):
        labels.read(finished.url, layer="nowhere")
    with pytest.raises(ConfigError, match="no columns colour"):
        labels.read(finished.url, columns=["unit", "colour"])


def test_of_a_subject_and_a_layer_the_one_that_is_not_there_is_said(finished: Storage, another: Storage) -> None:
    (subject,) = set(labels_of(finished)["subject"].to_pylist())
    for layer in ("nowhere", "clamp", "zzz"):
        with pytest.raises(ConfigError, match=rf"no layer '{layer}'\. There are clamped, scores, stage\.deep\."):
            labels.read(finished.url, subject=subject, layer=layer)
    for layer in ("clamped", "nowhere"):
        with pytest.raises(ConfigError, match=rf"no subject 'nobody'\. There are {re.escape(subject)}\."):
            labels.read(finished.url, subject="nobody", layer=layer)
    assert len(labels.read(another.url, subject=subject, layer="clamped")) == tiny.LAYERS["clamped"]


def test_only_the_layers_of_the_chosen_subject_are_offered(finished: Storage, tmp_path: Path) -> None:
    def change(row: dict) -> None:
        row["subject"] = "other" if row["layer"] == "scores" else "one"

    run = relabelled(finished, str(tmp_path / "run"), change)
    with pytest.raises(ConfigError, match=r"no layer 'scores'\. There are clamped, stage\.deep\."):
        labels.read(run.url, subject="one", layer="scores")


def test_a_part_that_is_lost_or_damaged_is_no_smaller_table(
    finished: Storage, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = storage_for(str(tmp_path / "run"))
    for info in finished.find():
        if not info.path.startswith(("report/", "_work/")):
            run.write(info.path, finished.read(info.path))
    parts = [info.path for info in run.find("labels")]
    run.write(parts[0], b"damaged")
    for how in ({}, {"layer": "clamped"}):
        with pytest.raises(ContractError, match=re.escape(parts[0])):
            labels.read(run.url, **how)
    run.delete(parts[0])
    for how in ({}, {"layer": "clamped"}):
        with pytest.raises(MissingObjectError, match=f"1 of {len(parts)} files of labels are gone"):
            labels.read(run.url, **how)
    assert runtime.main(status.StatusJob, status.run, [run.url]) == runtime.INCOMPLETE
    said = capsys.readouterr().out
    assert "not finished" in said.splitlines()[0]
    assert f"has lost 1 files since, the first is {parts[0]}" in said


@pytest.mark.parametrize("read", [pd.read_parquet, pl.read_parquet])
def test_readers_of_the_whole_folder_say_where_the_table_is(finished: Storage, read: Callable) -> None:
    with pytest.raises(Exception, match="the-table-is-in-labels"):
        read(finished.url)
    assert len(read(f"{finished.url}/labels")) == sum(tiny.LAYERS.values())


# Comparing and exporting


def test_a_run_agrees_with_itself_and_more_than_shuffled(
    finished: Storage, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "comparison"
    assert runtime.main(compare.CompareJob, compare.run, [finished.url, finished.url, "--output", str(output)]) == 0
    assert "40 neurons are in both, 0 changed; 0 are in A alone, 0 in B alone" in capsys.readouterr().out
    pairs = pd.read_csv(output / "comparison.csv")
    assert (pairs.agreement == 1).all()
    assert pairs.shuffled.mean() < 0.9


def test_what_changed_is_shown_as_text(finished: Storage, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"

    def change(row: dict) -> None:
        row["caption"] = None if row["dead"] else evil

    other = relabelled(finished, str(tmp_path / "other"), change)
    job = compare.CompareJob(first=finished.url, second=other.url, output=str(tmp_path / "page"))
    assert compare.run(job) == 0
    page = (tmp_path / "page/comparison.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not pd.read_csv(tmp_path / "page/comparison.csv").same.sum() > 1, "the dead one alone is the same"


def test_exports_hold_every_label(finished: Storage, tmp_path: Path) -> None:
    rows = labels_of(finished).to_pylist()

    def exported(kind: str) -> Path:
        job = ExportJob(run=finished.url, format=kind, output=str(tmp_path / kind))  # type: ignore[arg-type]
        assert export.run(job) == 0
        return tmp_path / kind

    lines = [json.loads(line) for line in exported("jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == [row["caption"] for row in rows]
    assert all("support" in line and all("support" in beam for beam in line["beams"]) for line in lines)
    table = list(csv.DictReader(io.StringIO(exported("csv").read_text())))
    assert [json.loads(row["exemplar_images"]) for row in table] == [row["exemplar_images"] for row in rows]
    said = read_descriptions(exported("milan"))
    alive = [(row["layer"], row["unit"], row["caption"]) for row in rows if not row["dead"]]
    assert [tuple(row.values()) for row in said.to_pylist()] == alive, "what training on descriptions reads"
    folder = exported("huggingface")
    assert (folder / "README.md").read_text().startswith("---\nconfigs:")
    assert len(pd.read_parquet(folder / "data")) == len(rows)


def test_neuronpedia_gets_every_caption_below_the_neuron_that_it_is_of(finished: Storage, tmp_path: Path) -> None:
    assert export.run(ExportJob(run=finished.url, format="neuronpedia", output=str(tmp_path))) == 0
    found: dict[str, list[dict]] = {}
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind = path.name.removesuffix(".jsonl") if path.suffix == ".jsonl" else path.parent.name
        for line in data.splitlines():
            row = json.loads(line)
            folder = path.relative_to(tmp_path).parts
            assert row.get("modelId", folder[0]) == folder[0]
            assert row.get("layer", folder[1]) == folder[1]
            found.setdefault(kind, []).append(row)
    rows = labels_of(finished).to_pylist()
    alive = [row for row in rows if not row["dead"]]
    assert len(found["source"]) == len(found["model"]) == len(tiny.LAYERS)
    neurons = {(row["layer"], row["index"]) for row in found["features"]}
    assert len(neurons) == len(found["features"]) == len(rows)
    assert {row["layer"] for row in found["features"]} == {row["id"] for row in found["source"]}
    assert [row["description"] for row in found["explanations"]] == [row["caption"] for row in alive]
    assert [row["tokens"] for row in found["activations"]] == [
        [image] for row in alive for image in row["exemplar_images"]
    ]
    for kind in ("activations", "explanations"):
        assert {(row["layer"], row["index"]) for row in found[kind]} <= neurons
        assert len({row["id"] for row in found[kind]}) == len(found[kind])


def test_numbers_that_are_not_known_are_exported_as_json(finished: Storage, tmp_path: Path) -> None:
    """Labels of a folder of exemplars know no thresholds, and perhaps no activations: nan, which is no JSON."""
    unknown = float("nan")

    def change(row: dict) -> None:
        row |= {"threshold": unknown, "active_fraction": unknown}
        row["exemplar_activations"] = [unknown for _ in row["exemplar_activations"]]

    run = relabelled(finished, str(tmp_path / "run"), change)

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    for kind in ("jsonl", "neuronpedia", "csv"):
        output = tmp_path / kind
        assert export.run(ExportJob(run=run.url, format=kind, output=str(output))) == 0  # type: ignore[arg-type]
        texts = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
        for path in texts:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            lines = data.decode().splitlines()
            if kind == "csv":
                lines = [row["exemplar_activations"] for row in csv.DictReader(lines)]
            assert lines
            for line in lines:
                json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("names", [["x!", "x?", "x-1"], ["x-0", "X", "x"], ["a", "a b", "a-b", "a-1"], ["?", "!", "x"]])
def test_neuronpedia_gives_every_network_an_id_of_its_own(names: list[str]) -> None:
    ids = neuronpedia._ids(names)
    assert set(ids) == set(names)
    assert len(set(ids.values())) == len(names)
    assert all(re.fullmatch("[a-z0-9_-]+", each) for each in ids.values())
