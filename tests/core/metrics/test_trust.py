"""Trust: exact whatever the split, and what the textbook says."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from mami_core.exemplars.watch import kept
from mami_core.metrics.trust import Sums, another, average_precision, beyond, common, fixed_point, predictions, trust


def made(seed: int, num_units: int, num_images: int, *, size: int = 384) -> tuple[Tensor, Tensor, Tensor]:
    """Activations of all sizes, some units dead; texts and images."""
    random = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-5, 5, (num_units, 1), generator=random)
    activations = torch.randn(num_units, num_images, generator=random) * scale
    activations[::3] = activations[::3].relu()
    activations[5::7] = 0
    vectors = [fixed_point(torch.randn(n, size, generator=random)) for n in (num_units, num_images)]
    return kept(activations), vectors[0], vectors[1]


@given(seed=st.integers(0, 999), num_images=st.integers(2, 60), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_sums_do_not_depend_on_the_split_nor_on_the_order(seed: int, num_images: int, cuts: list[int]) -> None:
    activations, texts, images = made(seed, 9, num_images)
    whole = Sums.empty(9).update(activations, predictions(texts, images)).correlation()
    edges = sorted({0, num_images, *(min(cut, num_images) for cut in cuts)})
    parts = [
        Sums.empty(9).update(activations[:, first:end], predictions(texts, images[first:end]))
        for first, end in itertools.pairwise(edges)
    ]
    merged = Sums.empty(9)
    for part in reversed(parts):
        merged.merge(part)
    assert torch.equal(merged.correlation().view(torch.int64), whole.view(torch.int64))


@given(seed=st.integers(0, 999), num_images=st.integers(10, 200))
def test_trust_is_the_textbooks(seed: int, num_images: int) -> None:
    activations, texts, images = made(seed, 12, num_images)
    found = trust(activations, texts, images)
    p_UN = (texts.double() @ images.double().T).numpy()
    count = max(1, round(0.05 * num_images))
    for unit, (row, p) in enumerate(zip(activations.double().numpy(), p_UN, strict=True)):
        if not row.any():
            assert math.isnan(found.correlation[unit])
            assert math.isnan(found.auprc[unit])
            continue
        assert found.correlation[unit] == pytest.approx(np.corrcoef(row, p)[0, 1], abs=1e-12)
        strong = np.zeros(num_images, bool)
        strong[np.argsort(-row, kind="stable")[:count]] = True
        strong &= row > 0
        assert found.auprc[unit] == pytest.approx(average_precision_score(strong, p), abs=1e-12)


@given(seed=st.integers(0, 99), order=st.permutations(range(40)), size=st.sampled_from([3, 384, 1152]))
def test_a_unit_is_judged_alike_beside_any_others_and_in_any_order_of_images(
    seed: int, order: list[int], size: int
) -> None:
    activations, texts, images = made(seed, 11, 40, size=size)
    whole = trust(activations, texts, images)
    alone = trust(activations[4:5, order], texts[4:5], images[order])
    assert alone.correlation.tolist() == whole.correlation[4:5].tolist()
    if activations[4].unique().numel() == 40:  # of equal activations the first image counts
        assert alone.auprc.tolist() == whole.auprc[4:5].tolist()


def test_a_text_that_says_it_all_has_full_trust() -> None:
    _, text, images = made(1, 1, 40)
    activations = kept(predictions(text, images).float() / 2**16)
    found = trust(activations, text, images)
    assert found.correlation.item() == pytest.approx(1, abs=1e-3)
    assert found.auprc.item() == 1
    assert trust(-activations, text, images).correlation.item() == pytest.approx(-1, abs=1e-3)


def test_equal_predictions_are_found_together() -> None:
    activations = kept(torch.arange(40.0)[None])
    assert average_precision(activations, torch.zeros(1, 40, dtype=torch.int32)).item() == 2 / 40


def test_too_few_images_judge_nothing() -> None:
    activations, texts, images = made(0, 4, 9)
    assert trust(activations, texts, images).correlation.isnan().all()
    assert beyond(activations, texts, images, common(activations)).isnan().all()


@given(st.integers(0, 9))
def test_images_that_drive_a_whole_layer_say_nothing_of_one_unit(seed: int) -> None:
    _, texts, images = made(seed, 12, 60)
    random = torch.Generator().manual_seed(seed)
    units = torch.randn(12, 60, generator=random)
    busy = torch.nn.functional.normalize(predictions(texts[:1], images).float()) * 60**0.5
    driven = kept(units + 3 * busy)  # every unit, by images that fit the first text
    same_text = texts[:1].expand(12, -1)
    assert trust(driven, same_text, images).correlation.mean() > 0.8
    assert beyond(driven, same_text, images, common(driven)).mean().abs() < 0.1
    own = kept(units + 3 * busy + 2 * predictions(texts, images) / 2**18)
    plain = _pearson(_z(own) - _z(own).mean(0), predictions(texts, images))
    assert torch.allclose(beyond(own, texts, images, common(own)), plain, atol=1e-9)
    assert beyond(own[:1], texts[:1], images, common(own[:1])).isnan().all(), "a single unit is its layer"


def _z(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.double()
    return (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)


def _pearson(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (_z(one) * _z(other)).mean(1)


def test_what_half_precision_cannot_hold_is_its_largest_number() -> None:
    assert kept(torch.tensor([1e9, -1e9, 1.0])).tolist() == [65504, -65504, 1]


@given(st.lists(st.integers(0, 10_000), unique=True))
def test_another_unit_is_never_the_same_and_each_is_taken_once(units: list[int]) -> None:
    found = another(units)
    assert found == another(sorted(units))
    if len(units) > 1:
        assert sorted(found) == sorted(found.values()) == sorted(units)
        assert all(unit != other for unit, other in found.items())
    else:
        assert not found
