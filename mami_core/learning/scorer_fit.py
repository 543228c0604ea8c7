"""Annotated photographs → what joins images and sentences in the packaged scorer: one ridge regression."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mami_core.errors import ConfigError
from mami_core.metrics.scorers.packaged import COLOURS, Joint
from mami_core.metrics.sentences import Sentences

RIDGE = 0.3
"""Added to the features' variances of 1. Of 0.3 and 1, chosen on photographs held out: it hardly matters."""
COLOUR_SHARE = 0.15
"""How much of a text is said of a colour that a picture has by one standard deviation more than others."""


def targets(
    said: Sequence[Sequence[Sequence[str]]],
    colours: Float[Tensor, "photographs colours"],
    sentences: Sentences,
) -> tuple[Float[Tensor, "photographs size"], Float[Tensor, " size"]]:
    """What each photograph's vector should be, and the centre of all texts.

    Args:
        said: For each photograph groups of texts, such as its captions and its names: each group counts as one text.
        colours: The share of each of `COLOURS` in it.
        sentences: Turns texts into vectors.
    """
    texts = list(dict.fromkeys(text for groups in said for group in groups for text in group))
    if not texts:
        raise ConfigError("expected photographs of which something was said, got none.")
    vectors = sentences.embed([*texts, *COLOURS])
    row = {text: place for place, text in enumerate(texts)}
    centre = vectors[: len(texts)].mean(0)
    means = [
        torch.stack([vectors[[row[text] for text in group]].mean(0) for group in groups if group]).mean(0)
        if any(groups)
        else centre
        for groups in said
    ]
    more = (colours - colours.mean(0)) / colours.std(0).clamp(min=1e-6)
    return torch.stack(means) - centre + COLOUR_SHARE * more @ (vectors[len(texts) :] - centre), centre


def fit_joint(
    features: Float[Tensor, "photographs features"],
    probabilities: Float[Tensor, "photographs classes"],
    wanted: Float[Tensor, "photographs size"],
    *,
    classes: Float[Tensor, "classes size"],
    text_centre: Float[Tensor, " size"],
) -> Joint:
    """The map that `RIDGE` makes of photographs' features and what their vectors should be; exact, in float64."""
    mean, spread = features.double().mean(0), features.double().std(0) + 1e-6
    x = (features.double() - mean) / spread
    moments = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(moments, x.T @ (wanted - wanted.mean(0)).double()) / spread[:, None]
    return Joint(
        weight=weight.float().contiguous(),
        bias=-(mean @ weight).float(),  # so that photographs are nothing on average
        classes=classes,
        conse_centre=(probabilities @ classes).mean(0),
        text_centre=text_centre,
    )
