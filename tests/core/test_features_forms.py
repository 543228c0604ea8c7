"""Regions have a form of their own: strips go one way, specks go none."""

import pytest
import torch
from torch import Tensor

from mami_core.features.forms import FORMS, NUM_FORMS, form_shares
from mami_core.features.looks import FINE


def told(region: Tensor) -> dict[str, float]:
    """The forms that a region has."""
    return {name: share for name, share in zip(FORMS, form_shares(region[None])[0].tolist(), strict=True) if share}


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("side", [FINE, 2 * FINE])
def test_a_strip_goes_one_way_whatever_its_width(width: int, side: int) -> None:
    at, by = torch.arange(side), side // FINE
    level = torch.zeros(side, side, dtype=torch.bool)
    level[20 * by : (20 + width) * by, 5 * by : 45 * by] = True
    falling = (at[:, None] - at).abs() < max(width * by * 0.7, 1)
    for region, name in (
        (level, "horizontal strips"),
        (level.T, "vertical strips"),
        (falling, "diagonal strips falling to the right"),
        (falling.flip(1), "diagonal strips rising to the right"),
    ):
        shares = told(region)
        assert max(shares, key=shares.__getitem__) == name
        assert shares[name] > 0.7


def test_what_is_as_wide_as_it_is_long_is_no_strip() -> None:
    block = torch.zeros(FINE, FINE)
    block[10:30, 30:50] = 1
    for region in (block, torch.ones(FINE, FINE)):
        assert max(told(region).values()) < 0.15  # corners are cut off slantwise


def test_specks_go_no_way() -> None:
    specks = torch.zeros(FINE, FINE)
    specks[4::9, 4::9] = 1
    assert told(specks) == {"specks": 1.0}


def test_a_region_is_told_as_in_any_other_batch_and_an_empty_one_has_no_form() -> None:
    regions = torch.rand(150, 128, 128) * torch.linspace(1, 2, 150)[:, None, None] > 0.98
    regions[3] = False
    together = form_shares(regions)
    assert together.shape == (150, NUM_FORMS)
    assert (together[3] == 0).all()
    assert (together > 0).any(0).all()
    assert together.equal(form_shares(regions.float())), "shares of cells are read another way"
    for number in (0, 63, 64, 149):
        assert form_shares(regions[number : number + 1]).equal(together[number : number + 1])
    assert form_shares(regions[:0]).shape == (0, NUM_FORMS)
