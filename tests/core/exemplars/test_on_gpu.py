"""The folds on an accelerator: the same bits as on a CPU, and the host never waits inside a batch."""

from collections.abc import Iterator

import pytest
import torch

from mami_core.exemplars.quantile import Histogram
from mami_core.exemplars.region import regions
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.topk import TopK
from tests.core.waiting import waiting_is_an_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]


@pytest.fixture
def _waiting_is_an_error() -> Iterator[None]:
    with waiting_is_an_error():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_folds_give_the_same_bits_as_on_a_cpu(dtype: torch.dtype) -> None:
    here, there = LayerState.empty(70, 5), LayerState.empty(70, 5, "cuda")
    for first in range(0, 64, 16):
        maps = torch.randn(16, 70, 20, 20).to(dtype).contiguous(memory_format=torch.channels_last)
        maps[3] = torch.nan
        images = torch.arange(first, first + 16)
        images[3] = -1
        for state, device in ((here, "cpu"), (there, "cuda")):
            state.topk.update(maps.to(device).amax((2, 3)), images.to(device))
            state.histogram.update(maps.to(device), images.to(device) >= 0)
    assert torch.equal(there.topk.keys.cpu(), here.topk.keys)
    assert torch.equal(there.histogram.counts.cpu(), here.histogram.counts)
    assert torch.equal(there.histogram.quantile(0.99).cpu(), here.histogram.quantile(0.99))


@pytest.mark.usefixtures("_waiting_is_an_error")
def test_a_batch_makes_the_host_wait_for_nothing() -> None:
    maps = torch.ones(4, 6, 8, 8, device="cuda")
    images = torch.arange(4, device="cuda")
    topk, histogram = TopK.empty(6, 3, "cuda"), Histogram.empty(6, "cuda")
    for _ in range(2):
        topk.update(maps.amax((2, 3)), images)
        histogram.update(maps, images >= 0)


@pytest.mark.parametrize("side", [1, 7, 14, 56, 112, 300])
def test_regions_are_those_of_a_cpu_to_the_bit(side: int) -> None:
    maps, thresholds = torch.randn(300, side, side) - 0.5, torch.rand(300) * 2
    maps[7] = -1
    for size in (56, 112):
        assert regions(maps.cuda(), thresholds.cuda(), size).cpu().equal(regions(maps, thresholds, size))
