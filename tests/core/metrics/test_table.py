import csv
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from mami_core import contracts
from mami_core.errors import DescriptionsError
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.bertscore import BertScore, BertScoreConfig, load_bertscore
from mami_core.metrics.bleu import bleu
from mami_core.metrics.summary import summary
from mami_core.metrics.table import length_group, score_neurons, strongest_constants

pytestmark = pytest.mark.xdist_group("scores")

COLORS = ["red", "blue", "green", "yellow", "brown", "white"]
THINGS = ["dogs", "walls", "windows", "circles", "people"]
NEURONS = [
    DescribedNeuron(
        layer=f"layer{j % 2 + 1}",
        unit=10 * i + j,
        caption=f"{color} {thing} on a wall",
        descriptions=(f"{color} {thing} on a wall", f"{thing} that look {color}"),
    )
    for i, color in enumerate(COLORS)
    for j, thing in enumerate(THINGS)
]
TRAINING = [neuron.descriptions for neuron in NEURONS]


@pytest.fixture(scope="module")
def bertscore() -> BertScore:
    return load_bertscore(BertScoreConfig(device="cpu"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(scores: pa.Table, group: str = "all") -> dict[str, dict]:
    return {row["source"]: row for row in scores.to_pylist() if row["group"] == group}


def test_captions_stand_beside_every_baseline(bertscore: BertScore) -> None:
    told: list[tuple[int, int]] = []
    scores = score_neurons(
        NEURONS,
        training=TRAINING,
        generator=generator(),
        bertscore=bertscore,
        subject="net",
        captioner="c0ffee",
        progress=lambda done, total: told.append((done, total)),
    )
    contracts.check(scores.schema, contracts.SCORES, where="scores")
    rows = rows_of(scores)
    assert set(rows) == {"captions", "constant", "shuffled", "people", "captions like people"}
    captions = rows["captions"]
    assert captions["bleu"] == pytest.approx(100)
    assert captions["bertscore_f1"] == pytest.approx(1, abs=1e-5)
    for baseline in ("constant", "shuffled", "people"):
        assert rows[baseline]["bleu"] < 80
        assert rows[baseline]["bertscore_f1"] < 0.98
    assert {row["bertscore_model"] for row in rows.values()} == {"all-MiniLM-L6-v2 layer 6"}
    assert told[-1][0] == told[-1][1] > 0
    assert (captions["num_neurons"], captions["num_texts"], captions["num_distinct"]) == (30, 30, 30)
    assert (rows["people"]["num_texts"], rows["constant"]["num_distinct"]) == (60, 1)


def test_scoring_again_gives_the_same_table_and_another_seed_another_shuffle(bertscore: BertScore) -> None:
    first, again, other = (
        score_neurons(NEURONS[:8], training=TRAINING[:8], generator=generator(seed), bertscore=bertscore)
        for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert rows_of(first)["shuffled"] != rows_of(other)["shuffled"]
    assert rows_of(first)["people"] == pytest.approx(rows_of(other)["people"], abs=1e-5)


def test_without_bertscore_its_columns_are_null() -> None:
    rows = score_neurons(NEURONS, training=TRAINING, generator=generator()).to_pylist()
    names = ("bertscore_precision", "bertscore_recall", "bertscore_f1", "bertscore_model")
    assert all(row[name] is None for row in rows for name in names)
    assert "F1" not in summary(score_neurons(NEURONS, training=TRAINING, generator=generator()))


def test_layers_and_lengths_are_scored_by_themselves() -> None:
    mixed = [*NEURONS, DescribedNeuron(layer="layer9", unit=0, caption="dogs", descriptions=("a " * 25,))]
    scores = score_neurons(mixed, training=TRAINING, generator=generator())
    groups = dict.fromkeys((row["grouping"], row["group"]) for row in scores.to_pylist())
    lengths = [("length", "1 to 4 words"), ("length", "over 20 words")]
    assert list(groups) == [("all", "all"), *lengths, *(("layer", f"layer{i}") for i in (1, 2, 9))]
    part = [neuron for neuron in NEURONS if neuron.layer == "layer2"]
    plain = bleu([neuron.caption for neuron in part], [neuron.descriptions for neuron in part])
    assert rows_of(scores, "layer2")["captions"]["bleu"] == pytest.approx(plain)
    assert "people" not in rows_of(scores, "layer9")


@pytest.mark.parametrize(("length", "group"), [(0, 0), (4, 0), (5, 1), (8, 1), (9, 2), (13, 3), (20, 3), (21, 4)])
def test_length_is_the_mean_number_of_words(length: int, group: int) -> None:
    assert length_group(["word " * length]) == group
    assert length_group(["word " * (2 * length), ""]) == group


def test_one_neuron_has_no_shuffled_baseline() -> None:
    assert "shuffled" not in rows_of(score_neurons(NEURONS[:1], training=TRAINING, generator=generator()))


def test_the_constant_comes_from_the_training_neurons() -> None:
    scores = score_neurons(NEURONS, training=[["zebras"], ["zebras"]], generator=generator())
    assert rows_of(scores)["constant"]["text"] == "zebras"
    assert rows_of(scores)["constant"]["bleu"] == 0


def test_each_metric_meets_the_constant_that_is_strongest_for_it(bertscore: BertScore) -> None:
    training = [["dogs"], ["puppies"], ["hounds"], ["a red wall with windows"], ["a red wall with windows"]]
    by_bleu, by_f1 = strongest_constants(training, bertscore)
    assert by_bleu == "a red wall with windows"
    assert by_f1 in {"dogs", "puppies", "hounds"}
    assert strongest_constants(training, None) == [by_bleu]


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DescriptionsError, match="at least one neuron"):
        score_neurons([], training=TRAINING, generator=generator())


def test_the_summary_says_who_what_and_how(bertscore: BertScore) -> None:
    scores = score_neurons(
        NEURONS, training=TRAINING, generator=generator(), bertscore=bertscore, subject="net", captioner="c0ffee"
    )
    text = summary(scores)
    assert "subject net, captioner c0ffee" in text
    assert "All neurons (30 neurons)" in text
    assert "Layer layer2 (12 neurons)" in text
    assert "all-MiniLM-L6-v2 layer 6" in text
    assert "fewer than 100 neurons" in text
    for row in scores.to_pylist():
        assert f"{row['bleu']:.2f}" in text
        assert f"{row['bertscore_f1']:.4f}" in text
    assert not [line for line in text.splitlines() if len(line) > 120]


def test_people_say_less_than_the_best_constant(shared_data: Path) -> None:
    neurons = defaultdict(list)
    with (shared_data / "annotations/MILANNOTATIONS_resnet152_imagenet.csv").open() as file:
        for row in csv.DictReader(file):
            neurons[row["layer"], int(row["unit"])].append(row["summary"])
    described = [
        DescribedNeuron(layer=layer, unit=unit, caption=texts[0], descriptions=tuple(texts))
        for (layer, unit), texts in list(neurons.items())[:300]
    ]
    training = list(neurons.values())
    rows = rows_of(score_neurons(described, training=training, generator=generator()))
    assert rows["constant"]["text"] == "animals and circular objects"
    assert rows["constant"]["bleu"] > 3 > 1.5 > rows["people"]["bleu"] > 0.4
    assert rows["captions"]["bleu"] == pytest.approx(100, abs=15)
