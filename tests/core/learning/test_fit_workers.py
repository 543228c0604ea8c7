"""Several workers, as threads that add their tensors, train as one does."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.learning.descriptions import Neuron
from mami_core.learning.fit import Epoch, FitConfig, Share
from mami_core.learning.targets import SplitConfig
from mami_core.learning.training import Examples, LearningConfig, Lessons, fit_captioner


class Adding:
    """What an all-reduce does, between threads."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world, timeout=20)
        self._given: list[list[Tensor]] = [[] for _ in range(world)]

    def of(self, rank: int) -> Share:
        def add(tensors: Sequence[Tensor]) -> None:
            self._given[rank] = [tensor.clone() for tensor in tensors]
            self._barrier.wait()
            for number, tensor in enumerate(tensors):
                tensor.copy_(torch.stack([given[number] for given in self._given]).sum(0))
            self._barrier.wait()

        return Share(rank=rank, world=len(self._given), reduce=add)


def lessons() -> Lessons:
    """14 training targets: in batches of 4, the last of 2 leaves the third worker without any."""
    torch.manual_seed(1)
    examples = Examples(
        neurons=tuple(Neuron("layer", unit) for unit in range(20)),
        descriptions=tuple((("red circles", "green squares")[unit % 2],) for unit in range(20)),
        features=torch.randn(20, 3, 4).half(),
        present=torch.ones(20, 3, dtype=torch.bool),
    )
    found = Lessons(
        examples,
        LearningConfig(
            split=SplitConfig(validation=0.1, test=0.1, seed=3), fit=FitConfig(batch_size=4, max_epochs=3, patience=9)
        ),
    )
    assert len(found.words) % 4 == 2
    return found


def train(shared: Lessons, share: Share) -> tuple[list[Epoch], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    captioner = Captioner(
        CaptionerConfig(num_features=4, hidden=8, embedding=4, attention_size=4, dropout=0.0), shared.vocabulary
    )
    with torch.no_grad():  # threads share torch's generator
        for parameter in captioner.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    language_model = LanguageModel(LanguageModelConfig(hidden=4, embedding=4, layers=1), shared.vocabulary)
    return list(fit_captioner(captioner, language_model, shared, share=share)), captioner.state_dict()


def test_three_workers_train_as_one_does() -> None:
    shared = lessons()
    alone, weights = train(shared, Share())
    adding = Adding(3)
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda rank: train(shared, adding.of(rank)), range(3)))
    for epochs, found in together:
        assert [epoch.score for epoch in epochs] == [epoch.score for epoch in together[0][0]]
        assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in alone], rel=1e-4)
        for name, tensor in found.items():
            assert torch.equal(tensor, together[0][1][name]), name
            torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-4)
