"""Decoding as it is laid out for an accelerator, on the CPU: what it gives, and in how few operations."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import record_function

from mami_core import kernels
from mami_core.captions import attention, beam, decode, lstm, packing, prefixes
from mami_core.captions.decode import DecodeConfig, Strategy, caption
from mami_core.captions.evidence import Evidence, EvidenceConfig, Phrase
from mami_core.captions.prefixes import log_p_language
from mami_core.captions.taught import Taught
from mami_core.captions.vocabulary import PAD
from tests.core.captions.test_decode import STRATEGIES, WORDS, networks, neurons
from tests.core.counting import operations, waits

PHRASES = ("a b c d e", "c a f", "b d", "e c b a g h", "f i j k", "k a")


@pytest.fixture
def _laid_out_for_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packing, prefixes):
        monkeypatch.setattr(module, "ROWS_TOGETHER", 640)
    for module in (packing, decode, prefixes):
        monkeypatch.setattr(module, "on_cpu", lambda _network: False)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("phrases", [(), PHRASES])
def test_it_says_what_the_layout_for_a_cpu_says(
    strategy: Strategy, phrases: Sequence[str], request: pytest.FixtureRequest
) -> None:
    captioner, language_model = networks(hidden=32)
    captioner.taught = Taught.by(phrases, captioner.vocabulary, in_a_row=2)
    features, present = neurons(70)
    config = DecodeConfig(strategy=strategy, beam_size=10, num_captions=10, max_length=6)
    here = caption(captioner, language_model, features, present, config)
    request.getfixturevalue("_laid_out_for_an_accelerator")
    there = caption(captioner, language_model, features, present, config)
    for one, other in zip(here, there, strict=True):
        assert [each.caption for each in one] == [each.caption for each in other]
        assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-4)
        assert [each.log_p_language for each in one] == pytest.approx([e.log_p_language for e in other], abs=1e-4)


@pytest.mark.usefixtures("_laid_out_for_an_accelerator")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("phrases", [(), PHRASES])
def test_neighbours_change_no_bit(strategy: Strategy, phrases: Sequence[str]) -> None:
    captioner, language_model = networks(hidden=32)
    captioner.taught = Taught.by(phrases, captioner.vocabulary, in_a_row=2)
    features, present = neurons(150)
    config = DecodeConfig(strategy=strategy, beam_size=10, num_captions=10, max_length=6)
    together = caption(captioner, language_model, features, present, config)
    order = torch.randperm(150)
    small = replace(config, batch_size=64)
    assert caption(captioner, language_model, features[order], present[order], small) == [together[i] for i in order]
    assert caption(captioner, language_model, features[:3], present[:3], config) == together[:3]


@pytest.mark.usefixtures("_laid_out_for_an_accelerator")
def test_captions_are_scored_side_by_side_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, language_model = networks()
    words = torch.randint(2, 30, (130, 7))
    lengths = torch.randint(0, 8, (130, 1))
    words = words.masked_fill(torch.arange(7) >= lengths, PAD)
    words[:40, 2] = PAD  # what comes after it is not said: such are the hypotheses of a batch's filling
    monkeypatch.setattr(prefixes, "ROWS_TOGETHER", 16)
    found = log_p_language(language_model, words)
    monkeypatch.setattr(prefixes, "on_cpu", lambda _network: True)
    torch.testing.assert_close(found, log_p_language(language_model, words), atol=1e-4, rtol=1e-4)


def test_evidence_weighs_captions_as_it_does_on_a_cpu(request: pytest.FixtureRequest) -> None:
    captioner, language_model = networks(hidden=32)
    captioner.evidence = some_evidence()
    features, present = neurons(70)
    config = DecodeConfig(evidence_weight=1.0, beam_size=10, num_captions=10, max_length=6)
    on_a_cpu = caption(captioner, language_model, features, present, config)
    request.getfixturevalue("_laid_out_for_an_accelerator")
    found = caption(captioner, language_model, features, present, config)
    for beams, others in zip(found, on_a_cpu, strict=True):
        assert [each.score for each in beams] == pytest.approx([each.score for each in others], abs=1e-3)
    assert caption(captioner, language_model, features[:3], present[:3], config) == found[:3]


def some_evidence() -> Evidence:
    phrases = tuple(Phrase(text, "ab"[number % 2]) for number, text in enumerate(("a", "b", "c d", "e f g", "h")))
    return Evidence(EvidenceConfig(num_features=12, phrases=phrases), networks()[0].vocabulary).eval()


@pytest.mark.usefixtures("_laid_out_for_an_accelerator")
@pytest.mark.parametrize("count", [3, 190])
def test_a_batch_takes_few_operations_however_many_neurons_it_has(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, language_model = networks(words=WORDS, hidden=32)
    captioner.evidence = some_evidence()
    features, present = neurons(count)
    for name, work in (("weights", plain_weights), ("averages", torch.bmm), ("update", lstm.update)):
        monkeypatch.setattr(kernels, name, one_operation(work))
    monkeypatch.setattr(kernels, "serve", lambda tensor: not inside)
    monkeypatch.setattr(beam, "_ties", lambda *_: [])  # only a CPU looks for them
    config = DecodeConfig(beam_size=10, num_captions=5, max_length=15, evidence_weight=1.0)
    assert operations(lambda: caption(captioner, language_model, features, present, config)) < 2000


@pytest.mark.usefixtures("_laid_out_for_an_accelerator")
def test_a_batch_is_waited_for_once_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, language_model = networks(words=WORDS, hidden=32)
    captioner.evidence = some_evidence()
    captioner.taught = Taught.by([" ".join(WORDS[:12])], captioner.vocabulary, in_a_row=2)
    features, present = neurons(190)
    config = DecodeConfig(beam_size=10, max_length=14, evidence_weight=1.0, tidy=True, strategy="rerank")
    monkeypatch.setattr(beam, "_ties", lambda *_: [])  # only a CPU looks for them
    caption(captioner, language_model, features, present, config)  # what is made once
    found = waits(lambda: caption(captioner, language_model, features, present, config))
    assert found.total() < 14 + 10, found


inside: list[bool] = []
"""Not empty while what stands for a kernel runs."""


def plain_weights(
    query: Tensor, key: Tensor, present: Tensor, *, energy_A: Tensor | None = None, scale: float = 1
) -> Tensor:
    if energy_A is None:
        return attention._softmax_of_products(query, key, present, scale)
    return attention.masked_softmax(attention._energies(attention._exp2(query), key, -2 * energy_A), present)


def one_operation(work: Callable) -> Callable:
    """A GPU has a kernel for it."""

    def run(*arguments: Any, **options: Any) -> object:
        inside.append(True)
        with record_function("kernel"):
            found = work(*arguments, **options)
        inside.pop()
        return found

    return run


KERNELS = """
import torch
from mami_core import kernels
from mami_core.captions import attention
from mami_core.exemplars.quantile import Histogram
torch.manual_seed(0)
close = torch.testing.assert_close
wide, present = torch.randn(3, 11, 100), torch.rand(3, 5) < 0.6
present[:, 1] = True
query, key, energy = wide[:, :, 30:70], torch.randn(3, 5, 40), torch.randn(40)
scores = (energy * torch.tanh(query[:, :, None] + key[:, None])).sum(-1)
found = kernels.weights(query, attention._exp2(key), present, energy_A=energy)
close(found, attention.masked_softmax(scores, present), atol=1e-5, rtol=1e-4)
found = kernels.weights(query, key, present, scale=0.3)
close(found, attention.masked_softmax(query @ key.transpose(1, 2) * 0.3, present), atol=1e-5, rtol=1e-4)
features = torch.randn(3, 5, 150)
close(kernels.averages(found, features), found @ features, atol=1e-5, rtol=1e-4)
cell, sources = torch.randn(7, 20), [torch.randn(7, 300)[:, 20:100] * 2 for _ in range(3)]
for number in (1, 2, 3):
    enter, forget, candidate, leave = sum(sources[:number]).chunk(4, 1)
    now = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    close(kernels.update(tuple(sources[:number]), cell), (leave.sigmoid() * now.tanh(), now), atol=1e-5, rtol=1e-4)
from mami_core.exemplars.region import regions
for height, width, size in ((7, 7, 24), (24, 24, 24), (13, 5, 16), (50, 40, 24)):
    maps, thresholds = torch.randn(9, height, width), torch.randn(9)
    maps[2] = -1
    drawn = regions(maps, thresholds, size)
    serves, kernels.serve = kernels.serve, lambda tensor: False
    assert regions(maps, thresholds, size).equal(drawn)
    kernels.serve = serves
for dtype in (torch.float32, torch.bfloat16):
    maps = torch.randn(3, 24, 5, 7).contiguous(memory_format=torch.channels_last).to(dtype)
    maps[0, 0, 0, 0] = torch.nan
    bias = torch.randn(24).to(dtype)
    expected = (maps + bias[:, None, None]).relu()
    rounding = 0 if dtype == torch.float32 else 1e-2  # the interpreter cuts off where a GPU rounds
    close(kernels.rectify(maps, bias), expected, equal_nan=True, rtol=rounding, atol=rounding)
    added = torch.randn(3, 5, 7, 24).permute(0, 3, 1, 2).to(dtype)
    expected = (maps.float() + added + bias.float()[:, None, None]).relu().to(dtype)
    close(kernels.rectify(maps, bias.float(), added), expected, equal_nan=True, rtol=rounding, atol=rounding)
from mami_core.features import pooling
for side, sides in ((24, [24, 12, 3]), (14, [7, 14]), (20, [10]), (64, [4, 32]), (7, [7])):
    masks, places = torch.rand(6, side, side) > 0.7, torch.tensor([3, 6, 0, 5, 6])
    there = torch.cat([masks, torch.zeros(1, side, side, dtype=torch.bool)])[places]
    assert kernels.can_weigh(masks, sides)
    expected = pooling._at_levels(there[None].float(), sides, "area")
    weights, totals = kernels.weigh(masks, places, sides, torch.float32)
    assert totals.equal(there.sum((1, 2)).float())
    for found, level in zip(weights, expected, strict=True):
        assert found.equal(level[0].flatten(1))
pyramid, masks = [torch.randn(3, 20, side, side) for side in (24, 12, 3)], torch.rand(9, 24, 24) > 0.8
rows = torch.tensor([0, 0, 2, 1, 2, 0, 0, 0, 1])
pooled = pooling.pool_batch(pyramid, masks, rows)
close(pooled, pooling.pool_batch(pyramid, masks.float(), rows), atol=1e-5, rtol=1e-5)
assert not kernels.can_weigh(masks, [5])
assert not kernels.can_weigh(torch.ones(1, 64, 64, dtype=torch.bool), [2]), "no more than 256 cells"
assert not kernels.can_weigh(masks.float(), [12])
for dtype in (torch.float32, torch.bfloat16):
    maps = (torch.randn(5, 40, 9, 9) * 10 ** torch.randn(5, 40, 1, 1).mul(3)).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    for some in (maps, maps[:, :, 3, 3].clone()):
        valid = torch.tensor([True, True, False, True, True])
        one, other = Histogram.empty(40), Histogram.empty(40)
        one.update(some, valid)
        serves, kernels.serve = kernels.serve, lambda tensor: False
        other.update(some, valid)
        kernels.serve = serves
        assert one.counts.equal(other.counts)
"""


def test_kernels_agree_with_their_equations() -> None:
    pytest.importorskip("triton")
    # Triton decides when it is imported whether it interprets.
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
