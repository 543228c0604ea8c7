import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs import evaluate
from jobs.engine import runtime
from jobs.engine.plan import open_plan, write_manifest
from jobs.evaluate import EvaluateJob
from jobs.evaluating import captioning
from jobs.evaluating.captioning import only
from jobs.evaluating.measured import read_truths
from jobs.storage import storage_for
from jobs.storage.networks import load_captioner
from jobs.training.annotated import Source
from mami_core import contracts
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import Vocabulary
from mami_core.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    DescriptionsError,
    IncompleteRunError,
    RunMismatchError,
)
from mami_core.features import EncoderConfig, load_encoder
from mami_core.learning import checkpoint
from mami_core.learning.annotated_features import encode_annotated, examples_of
from mami_core.learning.annotated_folder import open_annotated
from mami_core.learning.checkpoint import Trained
from mami_core.learning.descriptions import Neuron, descriptions_csv
from mami_core.learning.targets import SplitConfig, part_of
from mami_core.metrics import planted

PEOPLE = {
    Neuron("layer1", 0): ("red dogs on a wall", "dogs"),
    Neuron("layer1", 2): ("blue circles in the sky", "round things that are blue"),
    Neuron("layer2", 1): ("people", "faces of people"),
    Neuron("layer2", 5): ("a pole", "poles and other vertical things"),
    Neuron("layer9", 0): ("nobody labelled this one",),
}
LABELS = "labels/net/layer1/part-00000-of-00001.parquet"


def labels_table(captions: dict[Neuron, str | None], subject: str = "net") -> pa.Table:
    rows = [
        {
            "subject": subject,
            "layer": neuron.layer,
            "unit": neuron.unit,
            "caption": caption,
            "score": None if caption is None else -1.0,
            "log_p_caption": None if caption is None else -2.0,
            "log_p_language": None if caption is None else -5.0,
            "beams": [],
            "exemplar_images": [],
            "exemplar_activations": [],
            "threshold": 0.0,
            "active_fraction": 0.0,
            "dead": caption is None,
            "captioner": "c0ffee",
            "run": "r",
        }
        for neuron, caption in captions.items()
    ]
    return contracts.from_rows(rows, contracts.LABELS)


CAPTIONS: dict[Neuron, str | None] = {
    Neuron("layer1", 0): "red dogs on a wall",
    Neuron("layer1", 1): "nobody described this one",
    Neuron("layer1", 2): "blue circles in the sky",
    Neuron("layer2", 1): "people",
    Neuron("layer2", 5): None,
}


@pytest.fixture
def people(tmp_path: Path) -> str:
    path = tmp_path / "people.csv"
    path.write_bytes(descriptions_csv(PEOPLE))
    return str(path)


def write_run(place: str, captions: dict[Neuron, str | None] = CAPTIONS, *, finished: bool = True) -> str:
    storage = storage_for(place)
    plan = open_plan(storage, {"subject": "net"})
    storage.write(LABELS, contracts.to_parquet(labels_table(captions), contracts.LABELS))
    storage.write("_work/other.parquet", b"not a labels table")
    if finished:
        write_manifest(storage, plan, [LABELS])
    return place


def scores_of(output: str) -> list[dict]:
    return contracts.from_parquet(
        storage_for(output).read("scores.parquet"), contracts.SCORES, where="scores"
    ).to_pylist()


def test_a_run_is_scored_where_it_lies(place: str, people: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"{place}-scores"
    arguments = ["--labels", write_run(place), "--descriptions", people, "--output", output]
    assert runtime.main(EvaluateJob, evaluate.run, arguments) == runtime.COMPLETE
    printed, rows = capsys.readouterr().out, scores_of(output)
    captions, constant, *_ = rows
    (shuffled,) = [row for row in rows if (row["source"], row["group"]) == ("shuffled", "all")]
    assert (captions["source"], captions["subject"], captions["captioner"]) == ("captions", "net", "c0ffee")
    assert captions["num_neurons"] == 3
    assert captions["bleu"] > 50 > constant["bleu"]
    assert captions["bertscore_f1"] == pytest.approx(1, abs=1e-4)
    assert {"constant", "shuffled", "people"} < {row["source"] for row in rows}
    assert "1 of 5 described neurons have no row" in printed
    assert "1 described neurons are dead" in printed
    assert storage_for(output).read("summary.txt").decode() in printed
    assert "scores.parquet" in printed
    written = json.loads(storage_for(output).read("run.json"))
    assert (written["config"]["labels"], written["seed"]) == (place, 0)
    found = measures_of(output)
    for measure, column in (("BLEU", "bleu"), ("ROUGE-L", "rouge_l"), ("BERTScore F1", "bertscore_f1")):
        for row in (captions, shuffled):
            beside = found["net", f"descriptions: {measure}", row["source"]]
            assert beside["value"] == pytest.approx(row[column])
            assert beside["low"] <= beside["value"] <= beside["high"]
    assert found["net", "variety: distinct captions", "captions"]["num_neurons"] == 4, "one table for all of it"


def measures_of(output: str, grouping: str | None = None) -> dict[tuple[str, str, str], dict]:
    """By subject, measure and source, of any group or those of one kind."""
    data = storage_for(output).read("measures.parquet")
    rows = contracts.from_parquet(data, contracts.MEASURES, where="measures").to_pylist()
    wanted = [row for row in rows if grouping in (None, row["grouping"])]
    return {(row["subject"], row["measure"], row["source"]): row for row in wanted}


@pytest.mark.parametrize("version", [2, 3])
def test_support_is_measured_where_the_table_has_it(version: int, tmp_path: Path) -> None:
    table = labels_table(CAPTIONS)
    support = pa.array([0.5, 1, None, 0.75, None], pa.float32())
    table = table.set_column(table.schema.get_field_index("support"), contracts.LABELS.field("support"), support)
    schema = contracts.LABELS if version == 3 else contracts.LABELS_BEFORE[1]
    rows = table.select(schema.names).to_pylist()
    data = contracts.to_parquet(contracts.from_rows(rows, schema), schema)
    storage_for(str(tmp_path)).write("labels/all.parquet", data)
    evaluate.run(EvaluateJob(labels=str(tmp_path / "labels"), output=str(tmp_path / "out")))
    found = measures_of(str(tmp_path / "out"), grouping="all")
    if version == 2:
        assert not [measure for _, measure, _ in found if "support" in measure]
    else:
        row = found["net", "support", "captions"]
        assert (row["value"], row["num_neurons"], row["low"], row["high"]) == (0.75, 3, 0.5, 1.0)


def test_captions_are_measured_without_descriptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, known = write_run(str(tmp_path / "run")), tmp_path / "known.csv"
    known.write_text("layer,unit,name\nlayer1,0,dog\nlayer1,2,circle\nlayer2,1,person\nother,0,car\n")
    other = write_run(str(tmp_path / "other"))
    arguments = ["--labels", run, "--known", str(known), "--agree-with", other, "--output", str(tmp_path / "out")]
    assert runtime.main(EvaluateJob, evaluate.run, arguments) == runtime.COMPLETE
    found = {
        name: row["value"] for (_, *name), row in measures_of(str(tmp_path / "out")).items() for name in [tuple(name)]
    }
    assert found["known: median rank of 4", "captions"] == 1
    assert found["agreement: same words", "captions"] == 1
    assert found["variety: distinct captions", "captions"] == 1
    assert "known: median rank" in capsys.readouterr().out
    known.write_text("layer,unit\na,b\n")
    assert runtime.main(EvaluateJob, evaluate.run, arguments) != runtime.COMPLETE


def test_measures_by_several_files_of_known_neurons_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    files = [tmp_path / "things.csv", tmp_path / "shapes.csv", tmp_path / "again" / "things.csv"]
    for file, line in zip(files, ("layer1,0,dog", "layer1,2,circle", "layer2,1,person"), strict=True):
        file.write_text(f"layer,unit,name\n{line}\n")
    job = EvaluateJob(
        labels=write_run(str(tmp_path / "run")), known=tuple(map(str, files[:2])), output=str(tmp_path / "out")
    )
    evaluate.run(job)
    found = measures_of(job.output)
    for name in ("things", "shapes"):
        assert found["net", f"known ({name}): cosine", "captions"]["num_neurons"] == 1
    with pytest.raises(ConfigError, match="another name"):
        evaluate.run(dataclasses.replace(job, known=tuple(map(str, files))))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("layer,unit\na,1\n", "name missing"),
        ("layer,unit,name\n", "no row"),
        ("layer,unit,name\na,1,dog\na,2\n", "row 2 has 'a', '2' and None"),
        ("unit,name,layer\n1,dog\n", "row 1 has None"),
        ("layer,unit,name\na\n", "row 1 has 'a', None"),
        ("layer,unit,name\na,1,\n", "row 1"),
        ("layer,unit,name\na,²,dog\n", "row 1 has 'a', '²'"),
    ],
)
def test_a_table_of_known_neurons_that_lacks_something_is_refused(table: str, message: str, tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text(table, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_truths(str(known))


def test_several_subjects_are_measured_in_one_table_each_by_what_is_known_of_it(tmp_path: Path) -> None:
    built: dict[Neuron, str | None] = {Neuron("units", unit): name for unit, name in enumerate(planted.NAMES)}
    tables = [labels_table(CAPTIONS, "net"), labels_table(CAPTIONS, "other"), labels_table(built, "built")]
    storage_for(str(tmp_path)).write("labels/all.parquet", contracts.to_parquet(tables, contracts.LABELS))
    known = tmp_path / "known.csv"
    known.write_text("subject,layer,unit,name\nnet,layer1,0,dog\nother,layer1,0,people\nother,layer2,1,people\n")
    output = str(tmp_path / "out")
    evaluate.run(EvaluateJob(labels=str(tmp_path / "labels"), known=(str(known), "planted"), output=output))
    found = measures_of(output)
    named = found["built", "planted: named", "captions"]
    assert (named["value"], named["num_neurons"]) == (1, len(planted.NAMES))
    assert found["built", "planted: named", "shuffled"]["value"] < 0.5
    of_known = {
        name: row["num_neurons"] for (name, *rest), row in found.items() if rest == ["known: cosine", "captions"]
    }
    assert of_known == {"net": 1, "other": 2}
    assert {name for name, *_ in found} == {"net", "other", "built"}


def test_scoring_again_gives_the_same_bytes(tmp_path: Path, people: str) -> None:
    run = write_run(str(tmp_path / "run"))
    for output in ("a", "b"):
        evaluate.run(EvaluateJob(labels=run, descriptions=people, output=str(tmp_path / output), bertscore=False))
    assert (tmp_path / "a/scores.parquet").read_bytes() == (tmp_path / "b/scores.parquet").read_bytes()


def test_other_scores_are_never_overwritten(tmp_path: Path, people: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = write_run(str(tmp_path / "run")), tmp_path / "scores"
    job = EvaluateJob(labels=run, descriptions=people, output=str(output), bertscore=False)
    evaluate.run(job)
    before = {path: path.read_bytes() for path in output.iterdir()}
    first = capsys.readouterr().out
    evaluate.run(job)
    assert capsys.readouterr().out == first, "the same scores again are shown, not made"
    other = write_run(str(tmp_path / "other"), CAPTIONS | {Neuron("layer2", 1): "no people"})
    for changed in (dataclasses.replace(job, labels=other), dataclasses.replace(job, seed=1)):
        with pytest.raises(RunMismatchError, match="holds a run with another configuration"):
            evaluate.run(changed)
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    (output / "_PLAN.json").unlink()
    with pytest.raises(RunMismatchError, match="holds other scores"):
        evaluate.run(job)


def test_a_refused_evaluation_leaves_no_file(tmp_path: Path, people: str) -> None:
    with pytest.raises(ConfigError, match="no Parquet file there"):
        evaluate.run(
            EvaluateJob(labels=str(tmp_path), descriptions=people, output=str(tmp_path / "scores"), bertscore=False)
        )
    assert not (tmp_path / "scores").exists()


def test_bertscore_can_be_left_out(tmp_path: Path, people: str) -> None:
    arguments = ["--labels", write_run(str(tmp_path / "run")), "--descriptions", people, "--no-bertscore"]
    output = str(tmp_path / "scores")
    assert runtime.main(EvaluateJob, evaluate.run, [*arguments, "--output", output]) == runtime.COMPLETE
    assert {row["bertscore_model"] for row in scores_of(output)} == {None}


def test_the_constant_can_come_from_other_neurons(tmp_path: Path, people: str) -> None:
    training = tmp_path / "training.csv"
    training.write_bytes(descriptions_csv({Neuron("layer1", 7): ("zebras",)}))
    job = EvaluateJob(
        labels=write_run(str(tmp_path / "run")),
        descriptions=people,
        training_descriptions=str(training),
        output=str(tmp_path / "scores"),
        bertscore=False,
    )
    evaluate.run(job)
    assert {row["text"] for row in scores_of(job.output) if row["source"] == "constant"} == {"zebras"}
    assert "very descriptions" not in (tmp_path / "scores/summary.txt").read_text()


def evaluate_here(tmp_path: Path, labels: str, people: str, subject: str | None = None) -> None:
    output = str(tmp_path / "scores")
    evaluate.run(EvaluateJob(labels=labels, descriptions=people, output=output, subject=subject, bertscore=False))


def test_a_run_that_has_not_finished_is_refused_but_its_labels_can_be_read(tmp_path: Path, people: str) -> None:
    run = write_run(str(tmp_path / "run"), finished=False)
    with pytest.raises(IncompleteRunError, match="holds no finished run"):
        evaluate_here(tmp_path, run, people)
    evaluate_here(tmp_path, f"{run}/labels", people)
    evaluate_here(tmp_path, f"{run}/{LABELS}", people)


def test_no_common_neuron_is_an_error_that_names_both_sets_of_layers(tmp_path: Path, people: str) -> None:
    captions: dict[Neuron, str | None] = {Neuron(f"features.{i}", 0): "dogs" for i in range(20)}
    run = write_run(str(tmp_path / "run"), captions)
    with pytest.raises(DescriptionsError, match=r"'features\.0' \(1 neurons\).*12 more layers.*'layer1' \(2 neurons\)"):
        evaluate_here(tmp_path, run, people)


def test_several_subjects_need_a_choice(tmp_path: Path, people: str) -> None:
    tables = [labels_table(CAPTIONS, subject) for subject in ("net", "other")]
    storage_for(str(tmp_path)).write("labels/all.parquet", contracts.to_parquet(tables, contracts.LABELS))
    with pytest.raises(ConfigError, match="labels of net, other; choose one with --subject"):
        evaluate_here(tmp_path, str(tmp_path / "labels"), people)
    with pytest.raises(ConfigError, match="expected labels of third, found net, other"):
        evaluate_here(tmp_path, str(tmp_path / "labels"), people, "third")
    evaluate_here(tmp_path, str(tmp_path / "labels"), people, "other")
    assert {row["subject"] for row in scores_of(str(tmp_path / "scores"))} == {"other"}


def test_missing_and_foreign_files_are_named(tmp_path: Path, people: str) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: expected the output of jobs\.label"):
        evaluate_here(tmp_path, str(tmp_path / "nowhere"), people)
    run = write_run(str(tmp_path / "run"))
    with pytest.raises(DescriptionsError, match=r"absent\.csv: expected a CSV file"):
        evaluate_here(tmp_path, run, str(tmp_path / "absent.csv"))
    (tmp_path / "odd.csv").write_text("neuron,text\n1,dogs\n")
    with pytest.raises(
        DescriptionsError, match=r"odd\.csv: expected the columns layer, unit, summary; found \['neuron'"
    ):
        evaluate_here(tmp_path, run, str(tmp_path / "odd.csv"))
    with pytest.raises(ContractError, match=r"other\.parquet"):
        evaluate_here(tmp_path, f"{run}/_work", people)


ENCODER = EncoderConfig(name="torchvision:squeezenet1_1", weights="random:0", input_size=64)
SHOWN = {Neuron("layer1", unit): (f"red dogs {unit}", "dogs") for unit in range(20)}


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """Twenty neurons with two exemplars each, in MILANNOTATIONS' layout."""
    folder, rng = tmp_path / "annotated", np.random.default_rng(0)
    (folder / "layer1").mkdir(parents=True)
    (folder / "annotations.csv").write_bytes(descriptions_csv(SHOWN))
    np.save(folder / "layer1/images.npy", rng.integers(0, 256, (20, 2, 3, 40, 40), dtype=np.uint8))
    np.save(folder / "layer1/masks.npy", rng.integers(0, 2, (20, 2, 1, 40, 40), dtype=np.uint8))
    return folder


def write_captioner(folder: Path, notes: dict) -> str:
    """A captioner that has learned nothing."""
    encoder = load_encoder(ENCODER)
    vocabulary = Vocabulary(("red", "dogs", "people"))
    trained = Trained(
        captioner=Captioner(
            CaptionerConfig(num_features=encoder.num_features, embedding=4, hidden=8, attention_size=4), vocabulary
        ).eval(),
        language_model=LanguageModel(LanguageModelConfig(embedding=4, hidden=8, layers=1), vocabulary).eval(),
        encoder=ENCODER,
        encoder_id=encoder.id,
        notes=notes,
    )
    for name, data in checkpoint.save(trained).items():
        storage_for(str(folder)).write(name, data)
    return str(folder)


def evaluate_captioner(tmp_path: Path, captioner: str, neurons: Path) -> tuple[dict, str]:
    """The captions' row of all neurons, and the summary."""
    output = tmp_path / "scores"
    job = EvaluateJob(
        captioner=captioner, neurons=str(neurons), output=str(output), bertscore=False, beam_size=3, max_length=5
    )
    evaluate.run(job)
    return scores_of(job.output)[0], (output / "summary.txt").read_text()


def test_a_captioner_is_scored_on_neurons_that_it_was_not_trained_on(tmp_path: Path, annotated: Path) -> None:
    source = Source(name=str(annotated))
    config = SplitConfig(test=0.3, validation=0.2, seed=3)
    notes = {"neurons": source.identity(source.open()), "split": dataclasses.asdict(config)}
    row, text = evaluate_captioner(tmp_path, write_captioner(tmp_path / "captioner", notes), annotated)
    test = [neuron for neuron in SHOWN if part_of(neuron, config) == "test"]
    assert 0 < len(test) < 20
    assert (row["num_neurons"], row["subject"]) == (len(test), "annotated")
    assert f"the test part: {len(test)} neurons of 20" in text
    shown = [line.split(": ")[0] for line in text.splitlines() if "people: red dogs" in line]
    assert shown
    assert set(shown) <= {f"{layer}/{unit}" for layer, unit in test}


@pytest.mark.parametrize(
    ("notes", "said"),
    [({"neurons": {"digest": "of others"}}, "trained on other neurons"), ({"imported": "from MILAN"}, "is not known")],
)
def test_a_captioner_is_scored_on_all_of_other_neurons(notes: dict, said: str, tmp_path: Path, annotated: Path) -> None:
    row, text = evaluate_captioner(tmp_path, write_captioner(tmp_path / "captioner", notes), annotated)
    assert row["num_neurons"] == 20
    assert said in text


def test_other_scores_are_seen_before_anything_is_captioned(
    tmp_path: Path, annotated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = write_captioner(tmp_path / "captioner", {})
    evaluate_captioner(tmp_path, captioner, annotated)
    monkeypatch.setattr(captioning, "load_encoder", lambda _: pytest.fail("nothing is captioned"))
    job = EvaluateJob(captioner=captioner, neurons=str(annotated), output=str(tmp_path / "scores"), bertscore=False)
    for changed in (job, dataclasses.replace(job, beam_size=3, max_length=4)):
        with pytest.raises(RunMismatchError, match="another configuration"):
            evaluate.run(changed)
    evaluate_captioner(tmp_path, captioner, annotated)


def test_captions_of_some_neurons_are_those_of_the_whole(tmp_path: Path, annotated: Path) -> None:
    trained = load_captioner(write_captioner(tmp_path / "captioner", {}))
    whole = open_annotated(annotated)
    encoder = load_encoder(trained.encoder)
    part = only(whole, [3, 11, 17])
    tables = [encode_annotated(each, encoder, range(whole.num_images), batch_size=4) for each in (whole, part)]
    features, some = (examples_of(each, table) for each, table in zip((whole, part), tables, strict=True))
    assert some.neurons == (Neuron("layer1", 3), Neuron("layer1", 11), Neuron("layer1", 17))
    assert some.descriptions == tuple(SHOWN[neuron] for neuron in some.neurons)
    assert torch.equal(some.features, features.features[[3, 11, 17]])


def test_a_captioner_that_cannot_be_tested_is_refused(tmp_path: Path, annotated: Path) -> None:
    source = Source(name=str(annotated))
    seen = {"neurons": source.identity(source.open())}
    captioner = write_captioner(tmp_path / "captioner", seen)
    with pytest.raises(CheckpointError, match="do not say which neurons it was trained on"):
        evaluate_captioner(tmp_path, captioner, annotated)
    captioner = write_captioner(tmp_path / "captioner", seen | {"split": dataclasses.asdict(SplitConfig(test=0.0))})
    with pytest.raises(DescriptionsError, match="without a test part"):
        evaluate_captioner(tmp_path, captioner, annotated)
    with pytest.raises(DescriptionsError, match="expected 'generated', or a folder"):
        evaluate_captioner(tmp_path, captioner, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        evaluate_captioner(tmp_path, str(tmp_path / "empty"), annotated)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --labels or --captioner"),
        (["--labels", "a", "--captioner", "b"], "either --labels or --captioner"),
        (["--captioner", "b", "--known", "k"], "go with --labels"),
        (["--labels", "a", "--halves", "-1"], "a number of neurons"),
        (["--captioner", "a", "--descriptions", "b"], "--descriptions goes with --labels"),
    ],
)
def test_a_job_that_cannot_work_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments, "--output", str(tmp_path / "scores")]
    assert runtime.main(EvaluateJob, evaluate.run, words) == runtime.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_not_here_is_refused_before_any_work(tmp_path: Path, people: str) -> None:
    job = EvaluateJob(
        labels="nowhere", descriptions=people, output=str(tmp_path / "scores"), bertscore_model="roberta-large"
    )
    with pytest.raises(ConfigError, match="nothing is downloaded at run time"):
        evaluate.run(job)
