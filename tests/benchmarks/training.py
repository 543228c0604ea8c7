"""Training: steps of the captioner, forward, backward and optimiser."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.vocabulary import PAD, SPECIAL_WORDS, STOP
from mami_core.learning.descriptions import Neuron
from mami_core.learning.training import Examples, LearningConfig, Lessons, captioner_loss
from tests.benchmarks import measure
from tests.benchmarks.decoding import WORDS, K, networks
from tests.benchmarks.measure import Options, Row, Way, interleaved
from tests.benchmarks.plain_captions import training_loss
from tests.benchmarks.products import Recorder

BATCH, LENGTH, STEPS = 64, 15, 16


def rows(options: Options) -> Iterator[Row]:
    """One line a number of features."""
    for num_features in (1024, 3904):
        yield _row(num_features, options)


def _row(num_features: int, options: Options) -> Row:
    steps = max(1, round(STEPS * options.share))
    captioner, _ = networks(CaptionerConfig(num_features=num_features))
    with torch.no_grad():
        captioner.output.weight.div_(20)
    lessons = lessons_of(steps * BATCH, num_features)
    loss = captioner_loss(captioner.train(), lessons)
    batch = np.arange(BATCH)
    same = compare(captioner, lessons)
    with Recorder() as floor:
        loss(batch, batch).backward()
    ours = torch.optim.AdamW(captioner.parameters(), foreach=True)

    def epoch() -> None:  # what `learning.fit` does with each batch
        for numbers in np.split(np.arange(steps * BATCH), steps):
            ours.zero_grad(set_to_none=True)
            loss(numbers, numbers).backward()
            ours.step()

    ways = {
        "ours": Way(epoch),
        "plain": Way(lambda: plain_step(captioner, ours, lessons), share=1 / steps),
        "floor": Way(floor.replay, share=1 / steps),
    }
    return Row(
        stage=f"training, MAMI, {num_features:,} features",
        work=f"{steps} of {STEPS} steps of an epoch, batch {BATCH}, {LENGTH} words; the plain way and the floor on 1 "
        "step, scaled",
        timings=interleaved(ways, options),
        at_most=2,
        same=same,
        clock=measure.clock_of(options),
    )


def lessons_of(count: int, num_features: int) -> Lessons:
    """Descriptions of random words of `LENGTH` and a little less."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(len(SPECIAL_WORDS), WORDS, (count, LENGTH), generator=generator)
    lengths = torch.randint(LENGTH - 3, LENGTH, (count, 1), generator=generator)
    lengths[0] = LENGTH - 1
    places = torch.arange(LENGTH)
    words = words.where(places < lengths, torch.where(places == lengths, STOP, PAD))
    examples = Examples(
        neurons=tuple(Neuron("layer", unit) for unit in range(count)),
        descriptions=(("",),) * count,
        features=torch.randn(count, K, num_features, generator=generator).half(),
        present=torch.ones(count, K, dtype=torch.bool),
    )
    lessons = Lessons(examples, LearningConfig())
    # What would be made from the descriptions' texts.
    lessons.__dict__.update(words=words, positions=torch.arange(count))
    return lessons


def plain_step(captioner: Captioner, optimizer: torch.optim.Optimizer, lessons: Lessons) -> None:
    optimizer.zero_grad()
    plain_loss(captioner, lessons).backward()
    optimizer.step()


def plain_loss(captioner: Captioner, lessons: Lessons) -> Tensor:
    """The first batch's."""
    num_words = BATCH * float((lessons.words != PAD).sum(1).float().mean())
    return training_loss(captioner, lessons.examples.features[:BATCH], lessons.words[:BATCH], num_words)


def compare(captioner: Captioner, lessons: Lessons) -> str:
    """Loss and gradients of one batch, without the dropout that the two draw differently."""
    batch = np.arange(BATCH)
    captioner.dropout.p = 0.0
    ours = _gradients(captioner, captioner_loss(captioner, lessons)(batch, batch))
    plain = _gradients(captioner, plain_loss(captioner, lessons))
    captioner.dropout.p = captioner.config.dropout
    apart = max(float((ours[name] - plain[name]).norm() / plain[name].norm().clamp(min=1e-12)) for name in plain)
    assert apart < 1e-3, apart
    return f"loss and gradients within {apart:.0e}"


def _gradients(captioner: Captioner, loss: Tensor) -> dict[str, Tensor]:
    captioner.zero_grad()
    loss.backward()
    # A shift of all energies changes no attention: such gradients are rounding alone.
    found = {name: each.grad.clone() for name, each in captioner.named_parameters() if each.grad is not None}
    return {"loss": loss.detach()} | {name: grad for name, grad in found.items() if grad.norm() > 1e-6}


if __name__ == "__main__":
    measure.main(rows)
