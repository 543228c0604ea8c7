"""The probe learns what exemplars show, from the training neurons alone, and on several workers as on one."""

import numpy as np
import pytest
import torch

from mami_core.captions.evidence import Evidence, Phrase
from mami_core.learning.descriptions import Neuron, Shown
from mami_core.learning.evidence_fit import first_evidence, fit_evidence
from mami_core.learning.fit import FitConfig
from mami_core.learning.targets import SplitConfig
from mami_core.learning.training import Examples, LearningConfig, Lessons

PHRASES = (Phrase("red circles", "noun"), Phrase("zebras", "noun"), Phrase("on grass", "context"))


def lessons(max_epochs: int = 30, *, known: bool = True) -> Lessons:
    """The first feature of an exemplar says whether it shows red circles, the second whether it is on grass."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.randn(80, 4, 2, generator=generator).sign()
    present = torch.rand(80, 4, generator=generator) < 0.8
    present[:, 0] = True
    truth = np.zeros((80, 4, 3), np.uint8)
    truth[..., ::2] = 255 * (signs > 0).numpy()
    truth[..., 1] = 99
    features = torch.cat([signs, torch.ones(80, 4, 1)], 2) + 0.1 * torch.randn(80, 4, 3, generator=generator)
    features[~present] = torch.nan
    examples = Examples(
        neurons=tuple(Neuron("layer", unit) for unit in range(80)),
        descriptions=tuple(("red circles on grass", "red circles")[unit % 2 :] for unit in range(80)),
        features=features.half(),
        present=present,
        shown=Shown(PHRASES, truth) if known else None,
    )
    fit = FitConfig(batch_size=8, max_epochs=max_epochs, learning_rate=1e-2, patience=99)
    return Lessons(examples, LearningConfig(split=SplitConfig(validation=0.2, test=0.2), fit=fit))


def learned(shared: Lessons) -> tuple[Evidence, list[float]]:
    torch.manual_seed(2)
    probe = first_evidence(shared)
    assert probe is not None
    return probe, [epoch.score for epoch in fit_evidence(probe, shared)]


def test_it_learns_what_exemplars_show() -> None:
    shared = lessons()
    probe, scores = learned(shared)
    assert scores[-1] > 0.2 * scores[0], "a fifth of the cross-entropy that it began with, or less"
    test = shared.parts["test"]
    examples = shared.examples
    assert examples.shown is not None
    present = examples.present[test]
    with torch.no_grad():
        found = probe.eval()(examples.features[test][present].float()).sigmoid()
    wanted = torch.from_numpy(examples.shown.truth[test])[present][:, ::2].float() / 255
    assert ((found > 0.5) == (wanted > 0.5)).float().mean() > 0.98


def test_it_knows_phrases_that_captions_can_say_and_how_often_they_are_true_of_training_exemplars() -> None:
    shared = lessons(max_epochs=1)
    probe, _ = learned(shared)
    assert probe.config.phrases == PHRASES[::2]
    train, examples = shared.parts["train"], shared.examples
    assert examples.shown is not None
    expected = (examples.shown.truth[train][examples.present[train].numpy()][:, ::2] / 255).mean(0)
    assert probe.chance.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_held_out_neurons_leave_no_trace() -> None:
    shared, other = lessons(max_epochs=2), lessons(max_epochs=2)
    assert other.examples.shown is not None
    held_out = [*other.parts["test"], *other.parts["validation"]]
    other.examples.shown.truth[other.parts["test"]] = 255 - other.examples.shown.truth[other.parts["test"]]
    other.examples.features[held_out] = 7.0
    (one, _), (two, _) = learned(shared), learned(other)
    # Validation chooses the epoch: the last of both, since the score rises where it is of the same exemplars.
    assert torch.equal(one.chance, two.chance)
    assert torch.equal(one.feature_mean, two.feature_mean)


def test_going_on_after_any_epoch_ends_with_the_same_weights() -> None:
    shared = lessons(max_epochs=3)
    whole, _ = learned(shared)
    torch.manual_seed(2)
    first = first_evidence(shared)
    assert first is not None
    state = next(fit_evidence(first, shared)).state
    again = first_evidence(shared)
    assert again is not None
    list(fit_evidence(again, shared, state=state))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_without_anything_known_of_exemplars_there_is_no_probe() -> None:
    assert first_evidence(lessons(known=False)) is None
