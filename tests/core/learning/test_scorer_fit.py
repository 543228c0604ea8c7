"""Fitting the packaged scorer: what photographs have is found again in what is said of them."""

import torch

from mami_core.learning.scorer_fit import fit_joint, targets
from mami_core.metrics.scorers.packaged import COLOURS
from mami_core.metrics.sentences import load_sentences


def test_a_photographs_vector_points_to_what_was_said_of_such_photographs() -> None:
    sentences, random = load_sentences(), torch.Generator().manual_seed(0)
    kinds = ["a dog on grass", "boats at sea", "a red bus"]
    kind = torch.arange(60) % 3
    said = [[[kinds[number]], []] for number in kind.tolist()]
    colours = torch.rand(60, len(COLOURS), generator=random)
    features = torch.nn.functional.one_hot(kind, 3).float() + 0.1 * torch.randn(60, 3, generator=random)
    wanted, centre = targets(said, colours, sentences)
    probabilities = torch.full((60, 2), 0.5)
    joint = fit_joint(features, probabilities, wanted, classes=sentences.embed(["dog", "boat"]), text_centre=centre)
    fits = joint.learned(features) @ (sentences.embed(kinds) - centre).T
    assert (fits.argmax(1) == kind).all()
    assert joint.bias.isfinite().all()
    assert targets([[[], []], *said], torch.rand(61, len(COLOURS), generator=random), sentences)[0].isfinite().all()
