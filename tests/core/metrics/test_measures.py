"""Measures without phrasing: intervals that hold the truth, captions beside shuffled and constant ones."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mami_core import contracts
from mami_core.metrics.bleu import BleuCounts, merged
from mami_core.metrics.described import bleu_of_sums
from mami_core.metrics.intervals import bootstrap, bootstrap_sums
from mami_core.metrics.measures import (
    Known,
    Rows,
    agreement_measures,
    commonest,
    known_measures,
    measures_table,
    measures_text,
    support_measures,
    trust_measures,
    wording_measures,
)
from mami_core.metrics.sentences import Sentences, load_sentences

ABOUT = Rows(subject="s", captioner="c", seed=0)
SAID = st.lists(st.sampled_from(["red", "dogs", "on", "walls"]), max_size=6).map(" ".join)
NAMES = ["dog", "goldfish", "church", "banana", "sports car", "violin"]


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return load_sentences()


def labels(rows: list[tuple[str, str | None, float | None, float | None]]) -> pa.Table:
    """Layer, caption, trust and that of another's caption."""
    empty = {field.name: None for field in contracts.LABELS}
    full = [
        empty
        | {"subject": "s", "layer": layer, "unit": unit, "caption": caption, "trust": trust, "trust_shuffled": other}
        | {"trust_auprc": trust and abs(trust), "scorer": "eyes", "log_p_language": -3.0}
        | {"beams": [], "exemplar_images": [], "exemplar_activations": [], "threshold": 0.0, "active_fraction": 0.5}
        | {"dead": caption is None, "captioner": "c", "run": "r"}
        for unit, (layer, caption, trust, other) in enumerate(rows)
    ]
    return contracts.from_rows(full, contracts.LABELS)


def by_name(rows: list[dict]) -> dict[tuple[str, str, str], dict]:
    table = measures_table(rows)
    assert measures_text(table)
    return {(row["measure"], row["source"], row["group"]): row for row in table.to_pylist()}


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 200), st.sampled_from(["mean", "median"]))
def test_an_interval_lies_around_its_value_and_depends_on_the_seed_alone(seed: int, count: int, statistic: str) -> None:
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    found = bootstrap(numbers, seed=seed, statistic=statistic)  # type: ignore[arg-type]
    plain = np.mean(numbers.double().numpy()) if statistic == "mean" else np.median(numbers.double().numpy())
    assert found.value == pytest.approx(plain)
    assert numbers.min() <= found.low <= found.high <= numbers.max()
    assert found == bootstrap(numbers, seed=seed, statistic=statistic)  # type: ignore[arg-type]


def test_95_of_100_intervals_hold_the_truth() -> None:
    draws = torch.randn(200, 60, generator=torch.Generator().manual_seed(1))
    held = sum(found.low <= 0 <= found.high for found in (bootstrap(row, seed=0) for row in draws))
    assert 180 <= held <= 198


@settings(max_examples=30)
@given(st.lists(st.tuples(SAID, st.lists(SAID, min_size=1, max_size=3)), min_size=1, max_size=6), st.integers(0, 9))
def test_sums_are_resampled_by_neuron_and_bleu_of_them_is_bleu(corpus: list, seed: int) -> None:
    counts = [BleuCounts.of(caption, descriptions) for caption, descriptions in corpus]
    sums = torch.tensor(
        [[*one.matches, *one.totals, one.num_caption_words, one.num_description_words] for one in counts]
    ).double()
    found = bootstrap_sums(sums, bleu_of_sums, seed=seed)
    assert found.value == pytest.approx(merged(counts).score(), abs=1e-9)
    assert 0 <= found.low <= found.high <= 100 + 1e-9
    mean = bootstrap_sums(sums[:, -2:], lambda drawn: drawn[:, 0] / len(corpus), seed=seed)
    assert mean == bootstrap(sums[:, -2], seed=seed)


def test_trust_stands_beside_shuffled_layer_by_layer() -> None:
    random = np.random.default_rng(0)
    rows = [("a", "dogs", 0.3 + random.normal() / 20, random.normal() / 20) for _ in range(40)]
    rows += [("b", "cats", random.normal() / 20, random.normal() / 20) for _ in range(40)]
    found = by_name(trust_measures(labels([*rows, ("b", None, None, None)]), ABOUT))
    assert found["trust above shuffled", "captions", "a"]["low"] > 0.2
    above = found["trust above shuffled", "captions", "b"]
    assert above["low"] < 0 < above["high"]
    assert found["trust", "captions", "all"]["num_neurons"] == 80
    assert found["trust", "shuffled", "all"]["judge"] == "eyes"
    assert not trust_measures(labels([("a", "dogs", None, None)]), ABOUT)


def test_support_is_a_mean_over_the_neurons_of_which_it_is_known() -> None:
    table = labels([*[("a", "dogs", None, None)] * 3, *[("b", "cats", None, None)] * 2, ("b", None, None, None)])
    place, kind = table.schema.get_field_index("support"), pa.float32()
    known = table.set_column(place, "support", pa.array([0.25, 0.75, None, 1, 0.5, None], kind))
    found = by_name(support_measures(known, ABOUT))
    said = {group: (row["value"], row["num_neurons"]) for (_, _, group), row in found.items()}
    assert said == {"all": (0.625, 4), "a": (0.5, 2), "b": (0.75, 2)}
    assert {key[:2] for key in found} == {("support", "captions")}
    assert all(row["low"] <= row["value"] <= row["high"] and row["judge"] is None for row in found.values())
    one_layer = by_name(support_measures(known.slice(0, 3), ABOUT))
    assert [group for _, _, group in one_layer] == ["all"]
    assert not support_measures(table, ABOUT)


def test_captions_that_name_their_neurons_beat_shuffled_and_constant_ones(sentences: Sentences) -> None:
    captions = [f"{name}s" for name in NAMES] * 5
    right = [[name] for name in NAMES]
    known = Known(captions=captions, truths=[*range(6)] * 5, names=NAMES, right_words=right)
    found = by_name(known_measures(known, sentences, ABOUT))
    for measure in ("known: named", "known: cosine"):
        own, constant = (found[measure, source, "all"] for source in ("captions", "constant"))
        assert own["low"] > constant["high"]
        assert own["value"] > found[measure, "shuffled", "all"]["value"]
    assert found["known: median rank of 6", "captions", "all"]["value"] == 1
    assert found["known: named", "constant", "all"]["text"] == "bananas"


def test_agreement_is_more_than_that_of_anybody(sentences: Sentences) -> None:
    found = by_name(agreement_measures(NAMES, [f"a {name}" for name in NAMES], sentences, ABOUT))
    assert found["agreement: cosine", "captions", "all"]["low"] > found["agreement: cosine", "shuffled", "all"]["high"]
    assert found["agreement above shuffled", "captions", "all"]["low"] > 0
    assert found["agreement: cosine", "constant", "all"]["text"] == "banana"
    assert found["agreement: same words", "captions", "all"]["value"] == 0


def test_wording_counts_variety_and_slips() -> None:
    rows = [("a", "dogs", None, None)] * 2 + [("a", "red red cats", None, None), ("a", None, None, None)]
    found = by_name(wording_measures(labels([*rows, ("b", "a cat and a dog", None, None)]), ABOUT))
    values = {measure: row["value"] for (measure, _, _), row in found.items()}
    assert values["variety: distinct captions"] == 3 / 4
    assert values["variety: commonest caption"] == 2 / 4
    assert values["variety: distinct-2"] == 1
    assert (values["fluency: doubled word"], values["fluency: repeated word"]) == (1 / 4, 2 / 4)
    assert values["fluency: perplexity"] == pytest.approx(np.exp(np.mean([1.5, 1.5, 0.75, 0.5])))
    assert commonest(["b", "a"]) == "a"
    assert not wording_measures(labels([("a", None, None, None)]), ABOUT)


def test_a_captioner_without_a_language_model_has_no_perplexity() -> None:
    table = labels([("a", "dogs", None, None)])
    lacks = table.set_column(
        table.schema.get_field_index("log_p_language"), "log_p_language", pa.array([None], pa.float32())
    )
    found = by_name(wording_measures(lacks, ABOUT))
    assert ("fluency: perplexity", "captions", "all") not in found
    assert found["variety: distinct captions", "captions", "all"]["value"] == 1
