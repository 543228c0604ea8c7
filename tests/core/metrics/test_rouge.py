"""ROUGE-L against values by hand and against all subsequences."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core.errors import DescriptionsError
from mami_core.metrics.rouge import rouge_l

texts = st.lists(st.sampled_from(["red", "dogs", "and", "grass"]), min_size=1, max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("caption", "description", "common"),
    [
        ("police killed the gunman", "police kill the gunman", 3),  # Lin's example: 3/4
        ("the gunman kill police", "police kill the gunman", 2),  # and the other, 2/4
        ("brown dogs on green grass", "dogs on grass", 3),
        ("Dogs, and grass.", "dogs and the grass", 3),
        ("dogs", "dogs", 1),
        ("dogs", "cats", 0),
        ("", "cats", 0),
    ],
)
def test_values_by_hand(caption: str, description: str, common: int) -> None:
    said, wanted = len(caption.split()), len(description.split())
    precision, recall = common / max(said, 1), common / wanted
    expected = 2 * precision * recall / (precision + recall) if common else 0
    assert rouge_l(caption, [description]) == pytest.approx(expected)


@given(texts, texts)
def test_the_longest_of_all_common_subsequences_counts(one: str, other: str) -> None:
    a, b = ({sub for size in range(7) for sub in itertools.combinations(text.split(), size)} for text in (one, other))
    longest = max(len(sub) for sub in a & b)
    assert rouge_l(one, [other]) == pytest.approx(2 * longest / (len(one.split()) + len(other.split())))


@given(texts, st.lists(texts, min_size=1, max_size=4))
def test_the_closest_description_counts(caption: str, descriptions: list[str]) -> None:
    assert rouge_l(caption, descriptions) == max(rouge_l(caption, [each]) for each in descriptions)
    assert rouge_l(caption, [*descriptions, caption]) == 1


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(DescriptionsError, match="at least one"):
        rouge_l("dogs", [])
