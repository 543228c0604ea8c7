"""The probe learns what exemplars show, from the training neurons alone, and on several workers as on one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mami_core.captions.evidence import Evidence, Phrase
from mami_core.features import EncoderConfig
from mami_core.features.looks import COLOURS, LOOKS, NUM_LOOKS
from mami_core.features.pooling import NUM_PLACE
from mami_core.learning.descriptions import Neuron, Shown
from mami_core.learning.evidence_fit import first_evidence, fit_evidence
from mami_core.learning.fit import FitConfig
from mami_core.learning.targets import SplitConfig
from mami_core.learning.training import Examples, LearningConfig, Lessons
from tests.core.learning.test_fit_workers import Adding

PHRASES = (Phrase("red circles", "noun"), Phrase("zebras", "noun"), Phrase("on grass", "context"))


def lessons(
    max_epochs: int = 30, *, known: bool = True, phrases: tuple[Phrase, ...] = PHRASES, num_features: int = 3
) -> Lessons:
    """The first feature of an exemplar says whether it shows red circles, the second whether it is on grass."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.randn(80, 4, 2, generator=generator).sign()
    present = torch.rand(80, 4, generator=generator) < 0.8
    present[:, 0] = True
    truth = np.zeros((80, 4, 3), np.uint8)
    truth[..., ::2] = 255 * (signs > 0).numpy()
    truth[..., 1] = 99
    features = torch.cat([signs, torch.ones(80, 4, num_features - 2)], 2)
    features += 0.1 * torch.randn(features.shape, generator=generator)
    features[~present] = torch.nan
    examples = Examples(
        neurons=tuple(Neuron("layer", unit) for unit in range(80)),
        descriptions=tuple(("red circles on grass", "red circles", "grey lines")[unit % 2 :] for unit in range(80)),
        features=features.half(),
        present=present,
        read_shown=(lambda: Shown(phrases, truth)) if known else None,
    )
    fit = FitConfig(batch_size=8, max_epochs=max_epochs, learning_rate=1e-2, patience=99)
    return Lessons(examples, LearningConfig(split=SplitConfig(validation=0.2, test=0.2), fit=fit))


def learned(shared: Lessons) -> tuple[Evidence, list[float]]:
    torch.manual_seed(2)
    probe = first_evidence(shared)
    assert probe is not None
    return probe, [epoch.score for epoch in fit_evidence(probe, shared)]


def test_what_pixels_tell_is_not_learned() -> None:
    encoder = EncoderConfig(looks=True, scene=True, place=True)
    num_features = 2 * (5 + NUM_LOOKS) + NUM_PLACE
    phrases = (Phrase("red", "colour"), Phrase("circles", "noun"), Phrase("grey lines", "look"))
    shared = lessons(max_epochs=2, phrases=phrases, num_features=num_features)
    probe = first_evidence(shared, encoder=encoder)
    assert probe is not None
    columns = [5 + (*COLOURS, *LOOKS).index(name) for name in ("red", "grey lines")]
    red, circles, lines = probe.config.told_by
    assert red[0] == columns[0]  # and of red spots and lines
    assert (circles, lines) == ((), (columns[1],))
    assert probe.config.region_size == num_features - 1
    assert [epoch.number for epoch in fit_evidence(probe, shared)] == [1, 2]
    assert probe.second.out_features == 1
    assert probe.usual is not None
    assert probe.usual[1] == torch.tensor(99 / 255)
    features = torch.zeros(1, num_features)
    features[0, columns] = torch.tensor([0.25, 0.9])
    truth = probe.truth(features)[0]
    assert truth[[0, 2]].tolist() == [0.5, 1]


def test_it_learns_what_exemplars_show() -> None:
    shared = lessons()
    probe, scores = learned(shared)
    assert scores[-1] > 0.2 * scores[0], "a fifth of the cross-entropy that it began with, or less"
    test = shared.parts["test"]
    examples = shared.examples
    assert shared.shown is not None
    present = examples.present[test]
    with torch.no_grad():
        found = probe.eval()(examples.features[test][present].float()).sigmoid()
    wanted = torch.from_numpy(shared.shown.truth[test])[present][:, ::2].float() / 255
    assert ((found > 0.5) == (wanted > 0.5)).float().mean() > 0.98


def test_it_knows_phrases_that_captions_can_say_and_how_often_they_are_true_of_training_exemplars() -> None:
    shared = lessons(max_epochs=1)
    probe, _ = learned(shared)
    assert probe.config.phrases == PHRASES[::2]
    train, examples = shared.parts["train"], shared.examples
    assert shared.shown is not None
    expected = (shared.shown.truth[train][examples.present[train].numpy()][:, ::2] / 255).mean(0)
    assert probe.usual is not None
    assert probe.usual.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    leaning = [0.05 * (phrase.kind == "noun") for phrase in PHRASES[::2]]
    assert probe.chance.tolist() == pytest.approx((expected + leaning).tolist(), abs=1e-5)


def test_chance_is_of_the_layer_where_it_is_highest_for_what_whole_layers_can_have_in_common() -> None:
    """Exemplars without a region of their own count for nothing, and so does a layer of few exemplars.

    Things and places are a little truer by chance, and coarse words are true of anything.
    """
    phrases = (
        *(Phrase("in the centre", "place"), Phrase("dogs", "noun"), Phrase("near cats", "context")),
        Phrase("man made things", "noun"),
    )
    layers = np.repeat(["small", "late", "early", "scores"], [4, 96, 150, 150])
    truth = np.zeros((400, 4, 4), np.uint8)
    truth[layers == "small"] = truth[layers == "scores"] = 255
    truth[layers == "late", :, :3] = 204
    truth[layers == "early", :, :3] = 51
    features = torch.full((400, 4, 6), 0.3)
    features[layers == "scores", :, 5] = 1
    units = [Neuron(str(layer), unit) for unit, layer in enumerate(layers)]
    said = ("dogs in the centre near cats and man made things",)
    examples = Examples(
        neurons=tuple(units),
        descriptions=(said,) * 400,
        features=features,
        present=torch.ones(400, 4, dtype=torch.bool),
        read_shown=lambda: Shown(phrases, truth),
    )
    fit = FitConfig(batch_size=64, max_epochs=1, patience=9)
    shared = Lessons(examples, LearningConfig(split=SplitConfig(validation=0.1, test=0.1), fit=fit))
    probe = first_evidence(shared, encoder=EncoderConfig(place=True))
    assert probe is not None
    list(fit_evidence(probe, shared))
    train = layers[shared.parts["train"]]
    kept = {"small": 255, "late": 204, "early": 51}
    weights = [(train == name).sum() for name in kept]
    mean = np.average([of / 255 for of in kept.values()], weights=weights)
    place, noun, context, coarse = probe.chance.tolist()
    assert (train == "late").sum() * 4 >= 200 > (train == "small").sum() * 4 > 0
    assert place == pytest.approx(204 / 255 + 0.05, abs=1e-5)
    assert noun == pytest.approx(204 / 255 + 0.05, abs=1e-5)
    assert context == pytest.approx(mean, abs=1e-5)
    assert coarse == 1
    assert probe.usual is not None
    assert probe.usual.tolist() == pytest.approx([mean] * 3 + [np.average([1, 0, 0], weights=weights)], abs=1e-5)


def test_held_out_neurons_leave_no_trace() -> None:
    """Validation chooses the epoch, whose weights then stand; what each epoch learns is of the training neurons."""
    states = []
    for changed in (False, True):
        shared = lessons(max_epochs=2)
        assert shared.shown is not None
        if changed:
            held_out = [*shared.parts["test"], *shared.parts["validation"]]
            shared.shown.truth[held_out] = 255 - shared.shown.truth[held_out]
            shared.examples.features[held_out] = 7.0
        torch.manual_seed(2)
        probe = first_evidence(shared)
        assert probe is not None
        states.append([epoch.state.weights for epoch in fit_evidence(probe, shared)][-1])
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_workers_end_with_the_same_weights() -> None:
    """Three workers end with the same weights, also where one has nothing of a batch."""
    shared = lessons(max_epochs=2)
    whole, _ = learned(shared)
    adding = Adding(3)

    def train(rank: int) -> dict[str, torch.Tensor]:
        probe = Evidence(whole.config, shared.vocabulary)
        probe.load_state_dict(first)
        list(fit_evidence(probe, shared, share=adding.of(rank)))
        return probe.state_dict()

    torch.manual_seed(2)
    begun = first_evidence(shared)
    assert begun is not None
    first = begun.state_dict()
    with ThreadPoolExecutor(3) as pool:
        one, *others = pool.map(train, range(3))
    for name, tensor in one.items():
        assert all(torch.equal(tensor, other[name]) for other in others), name


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
