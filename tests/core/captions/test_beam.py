"""Beam search against exhaustive search, and against a plain loop that prunes."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mami_core.captions import beam
from mami_core.captions.beam import SearchConfig, search
from mami_core.errors import ConfigError

PAD, START, STOP, NEVER = range(4)
NUM_STATES = 97


@dataclass
class Grammar:
    """Scores that depend on every word so far: a hash walks over the rows of a table."""

    table: Tensor
    """Gains, states × words."""
    rows_seen: list[int]

    def start(self, num_items: int) -> Tensor:
        return torch.arange(num_items) * 7 % NUM_STATES

    def next(self, state: Tensor, words: Tensor) -> Tensor:
        return (state * 31 + words + 1) % NUM_STATES

    def step(self, state: Tensor, words: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        self.rows_seen.append(len(words))
        state = self.next(state, words)
        return self.table[state], (self.table[state] * 2, torch.ones_like(self.table[state])), state

    def score(self, item: int, words: tuple[int, ...]) -> float:
        state, total = self.start(item + 1)[item], torch.zeros(())
        for last, word in zip((START, *words), words, strict=False):
            state = self.next(state, torch.tensor(last))
            total = total + self.table[state, word]
        return total.item()


def grammar(seed: int, num_words: int, *, ties: bool = False) -> Grammar:
    generator = torch.Generator().manual_seed(seed)
    if ties:
        # Whole numbers: sums are exact, and equal ones abound.
        return Grammar(-torch.randint(0, 3, (NUM_STATES, num_words), generator=generator).float(), [])
    return Grammar(torch.randn(NUM_STATES, num_words, generator=generator).log_softmax(-1), [])


def config(**changes: Any) -> SearchConfig:
    plain = SearchConfig(beam_size=4, max_length=4, start=START, stop=STOP, pad=PAD, never=(START, NEVER))
    return replace(plain, **changes)


def run(rules: Grammar, settings: SearchConfig, num_items: int, **options: Any) -> list[list[tuple]]:
    """Per item the hypotheses as (score, words), best first."""
    found = search(
        rules.step,
        rules.start(num_items),
        settings,
        num_items=num_items,
        reorder=lambda state, rows, _: state[rows],
        **options,
    )
    return [
        [
            (score, tuple(word for word in words if word != PAD))
            for score, words in zip(scores, all_words, strict=True)
            if score > float("-inf")
        ]
        for scores, all_words in zip(found.scores.tolist(), found.words.tolist(), strict=True)
    ]


def every_hypothesis(num_words: int, settings: SearchConfig) -> list[tuple[int, ...]]:
    ordinary = range(4, num_words)
    bodies = [words for size in range(settings.max_length + 1) for words in itertools.product(ordinary, repeat=size)]
    cut = [words for words in bodies if len(words) == settings.max_length]
    stopped = [(*words, STOP) for words in bodies if settings.min_length <= len(words) < settings.max_length]
    return cut + stopped


def plain_search(rules: Grammar, settings: SearchConfig, item: int, num_words: int) -> list[tuple]:
    """Beam search as a textbook has it; a stable sort settles ties."""
    beams = [(0.0, ())]
    for position in range(settings.max_length):
        candidates = []
        for score, words in beams:
            if words[-1:] == (STOP,):
                candidates.append((score, words))
                continue
            stop = [STOP] if position >= settings.min_length else []
            longer = [(*words, word) for word in (*stop, *range(4, num_words))]
            candidates += [(rules.score(item, each), each) for each in longer]
        beams = sorted(candidates, key=lambda each: -each[0])[: settings.beam_size]
    return beams


@given(st.integers(0, 1000), st.integers(5, 7), st.integers(1, 4), st.integers(0, 2))
def test_a_wide_beam_is_exhaustive_search(seed: int, num_words: int, max_length: int, min_length: int) -> None:
    rules = grammar(seed, num_words)
    settings = config(max_length=max_length, min_length=min(min_length, max_length - 1))
    hypotheses = every_hypothesis(num_words, settings)
    found = run(rules, replace(settings, beam_size=len(hypotheses) + 2), num_items=2)
    for item, beams in enumerate(found):
        expected = sorted(((rules.score(item, words), words) for words in hypotheses), reverse=True)
        assert [words for _, words in beams] == [words for _, words in expected]
        assert [score for score, _ in beams] == pytest.approx([score for score, _ in expected], abs=1e-5)


@given(st.integers(0, 1000), st.integers(1, 6), st.booleans(), st.integers(0, 1))
def test_a_narrow_beam_prunes_like_a_plain_loop(seed: int, beam_size: int, ties: bool, min_length: int) -> None:
    rules, settings = grammar(seed, 8, ties=ties), config(beam_size=beam_size, max_length=6, min_length=min_length)
    for item, beams in enumerate(run(rules, settings, num_items=3)):
        expected = plain_search(rules, settings, item, 8)
        assert [words for _, words in beams] == [words for _, words in expected]
        assert [score for score, _ in beams] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_equal_scores_are_ordered_by_parent_then_word() -> None:
    rules = Grammar(torch.zeros(NUM_STATES, 7), [])
    (beams,) = run(rules, config(beam_size=4, max_length=3), num_items=1)
    assert [words for _, words in beams] == [(STOP,), (4, STOP), (4, 4, STOP), (4, 4, 4)]


@given(
    st.integers(0, 1000),
    st.sampled_from([8, 33, 65, 100]),
    st.sampled_from([1, 3, 9, 50]),
    st.booleans(),
    st.sampled_from([PAD, STOP]),
)
def test_who_leaves_the_batch_changes_nothing(seed: int, num_words: int, beam_size: int, ties: bool, pad: int) -> None:
    rules, settings = grammar(seed, num_words, ties=ties), config(beam_size=beam_size, max_length=8, pad=pad)
    # Some items stop early, others go on.
    rules.table[::3, STOP] += 6
    rules.table[1::3, STOP] -= 6
    real = torch.arange(9) % 4 != 3
    whole = run(rules, settings, num_items=9, compact=0, real=real)
    rows = sum(rules.rows_seen)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MIN_ROWS", "_FEWEST", "_TOGETHER"):
            patch.setattr(beam, name, 1)
        assert run(rules, settings, num_items=9, compact=1, real=real) == whole
    assert sum(rules.rows_seen) <= 2 * rows
    for item in real.nonzero().flatten().tolist() if pad == PAD else ():
        expected = plain_search(rules, settings, item, num_words)
        assert [words for _, words in whole[item]] == [words for _, words in expected]


@pytest.mark.parametrize("num_words", range(30, 70))
def test_few_ways_on_in_any_vocabulary(num_words: int) -> None:
    rules = grammar(num_words, num_words)
    rules.table[:, 12:] = -torch.inf
    settings = config(beam_size=50, max_length=3)
    found = run(rules, settings, num_items=4, real=torch.arange(4) != 2)
    assert found[2] == [(0.0, ())]
    for item in (0, 1, 3):
        expected = plain_search(rules, settings, item, 12)
        assert [words for _, words in found[item]] == [words for _, words in expected]


def test_hypotheses_that_have_ended_are_not_stepped_any_more() -> None:
    rules, settings = grammar(0, 8), config(beam_size=50, max_length=9)
    rules.table[:, STOP] += 1.5
    run(rules, settings, num_items=4)
    assert max(rules.rows_seen) > 4 * 16 == rules.rows_seen[-1], rules.rows_seen


def test_items_that_are_done_are_not_computed_any_more() -> None:
    rules, settings = grammar(0, 8), config(beam_size=16, max_length=5)
    run(rules, settings, num_items=6, real=torch.arange(6) != 2)
    # One row an item, then a beam each; the filling leaves at once, the rest fill the fewest rows exactly or more.
    assert rules.rows_seen[:2] == [6, 5 * 16]
    assert all(rows >= beam.MIN_ROWS for rows in rules.rows_seen[1:])


def test_the_search_ends_when_all_have_ended() -> None:
    rules = grammar(0, 8)
    rules.table[:, STOP] = 0
    rules.table[:, 4:] = -9
    run(rules, config(beam_size=1, max_length=8), num_items=3)
    assert len(rules.rows_seen) == 1


@given(st.integers(0, 1000))
def test_further_numbers_stop_with_the_hypothesis(seed: int) -> None:
    rules, settings = grammar(seed, 8), config(beam_size=6, max_length=5)
    found = search(rules.step, rules.start(4), settings, num_items=4, reorder=lambda state, rows, _: state[rows])
    doubled, lengths = found.parts
    torch.testing.assert_close(doubled, 2 * found.scores)
    assert torch.equal(lengths, (found.words != PAD).sum(-1).float())


@given(st.integers(0, 1000))
def test_never_means_never(seed: int) -> None:
    rules, settings = grammar(seed, 8), config(beam_size=9, max_length=5)
    rules.table[:, [PAD, START, NEVER]] = 10
    found = run(rules, settings, num_items=2)
    assert not {PAD, START, NEVER} & {word for beams in found for _, words in beams for word in words}


def test_fewer_hypotheses_than_beams_leave_the_rest_empty() -> None:
    rules = grammar(0, 5)
    (beams,) = run(rules, config(beam_size=50, max_length=2), num_items=1)
    assert sorted(words for _, words in beams) == [(STOP,), (4, STOP), (4, 4)]


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_without_compaction_every_step_has_one_shape(seed: int) -> None:
    rules, wanted = grammar(seed, 8), config(beam_size=3, max_length=6)
    run(rules, wanted, num_items=4, compact=0)
    assert rules.rows_seen[0] == 4
    assert set(rules.rows_seen[1:]) == {12}


@pytest.mark.parametrize("changes", [{"beam_size": 0}, {"max_length": 0}, {"min_length": 4}, {"min_length": -1}])
def test_impossible_searches_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        config(**changes)
