"""From evidence on a neuron's exemplars to the few things worth saying of it.

Axes: E exemplars, W words, X contexts.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mami_core.learning.dissected.phrases import NOUNS, Finding, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """How sure to be before something is said. Lower ones describe more neurons, and more of them wrongly."""

    gain: float = 12.0
    """Log-likelihood ratio over chance of what is named."""
    vague: float = 30.0
    """The same for people, who are in very many photographs."""
    support: float = 0.3
    """Share of the exemplars of which the first noun must be true."""
    colour: float = 0.45
    """Share of the exemplars that must have a colour, texture or place."""


_VAGUE = ("people", "animals", "furry animals", "vehicles", "buildings", "trees")
_HINT, _HINT_GAIN = 0.3, 4.0
_GROUNDS = ("white backgrounds",)


def choose(
    hits_EW: Float[np.ndarray, "e w"],
    gain: Float[np.ndarray, " w"],
    score: Float[np.ndarray, " w"],
    words: Words,
    context: Float[np.ndarray, " x"],
    contexts: tuple[str, ...],
    demands: Demands,
    *,
    first: int | None = None,
) -> Finding:
    """What can be said of a neuron; an empty finding where nothing can.

    Args:
        hits_EW: How true each word is of each exemplar's region.
        gain: Log-likelihood ratio of each word over chance.
        score: The gain, weighed and with further evidence: the higher, the rather a word is said.
        words: The words.
        context: The gain of each context.
        contexts: What they are.
        demands: How sure to be.
        first: Say this word first, whatever the scores.
    """
    support = hits_EW.mean(0)
    sure = np.array([demands.vague if word.text in _VAGUE else demands.gain for word in words.words]) <= score
    nouns = _nouns(hits_EW, support, np.where(sure & (gain > 6), score, 0), words, demands, first)
    kinds = np.array([word.kind for word in words.words])
    often = sure & (support >= demands.colour)
    nameless = not nouns and bool((often & (kinds == "low")).any())
    # Edges and textures are everywhere: beside them, a weaker hint of a colour is worth saying.
    tinted = often | (nameless & (support >= _HINT) & (gain >= _HINT_GAIN))
    colours = [words.words[w].text for w in np.argsort(-score) if kinds[w] == "colour" and tinted[w]]
    low = [words.words[w].text for w in np.argsort(-score) if kinds[w] == "low" and often[w]]
    place = next(
        (words.words[w].text for w in np.argsort(-gain) if kinds[w] == "place" and support[w] > 0.6 and gain[w] > 16),
        None,
    )
    said = {words.words[w].text for w in nouns}
    akin = {words.words[w].text for noun in nouns for w in np.flatnonzero(words.kin[noun])}
    around = [contexts[x] for x in np.argsort(-context) if context[x] > 9 and contexts[x] not in said | akin]
    return Finding(
        nouns=tuple(words.words[w].text for w in nouns),
        wider=_wider(nouns, support, gain, words),
        colours=tuple(colours[:2]),
        low=tuple(name for name in low if name not in _GROUNDS)[:2] if not nouns else (),
        context=tuple(around[:2]),
        place=place,
        mixed=_examples(nouns, hits_EW, words),
    )


def _nouns(
    hits: Float[np.ndarray, "e w"],
    support: Float[np.ndarray, " w"],
    score: Float[np.ndarray, " w"],
    words: Words,
    demands: Demands,
    first: int | None,
) -> list[int]:
    """The best noun, then those that are true of what the ones before leave out."""
    is_noun = np.array([word.kind in NOUNS for word in words.words])
    if first is None:
        open_to = is_noun & (support >= demands.support) & (score > 0)
        if not open_to.any():
            return []
        first = int(np.argmax(np.where(open_to, score, -1)))
    chosen = [first]
    while len(chosen) < 3:
        left = hits[:, chosen].max(1) < 0.5
        if left.sum() < 3:
            break
        kin = words.kin[chosen].any(0)
        rest = hits[left].mean(0)
        good = is_noun & ~kin & (score > 0) & (rest >= 0.45) & (hits[left].sum(0) >= 2.5)
        if not good.any():
            break
        chosen.append(int(np.argmax(np.where(good, score * rest, -1))))
    return chosen


def _wider(
    nouns: list[int], support: Float[np.ndarray, " w"], gain: Float[np.ndarray, " w"], words: Words
) -> str | None:
    """The best word for the first noun and more."""
    if not nouns:
        return None
    first = nouns[0]
    wide = words.wider[first] & (support > support[first] + 0.12) & (gain > 8)
    wide &= np.array([word.kind == "thing" and not word.own for word in words.words])
    return words.words[int(np.argmax(np.where(wide, gain, -1)))].text if wide.any() else None


def _examples(nouns: list[int], hits: Float[np.ndarray, "e w"], words: Words) -> tuple[str, ...]:
    """Names of single things, narrower than the first noun, that two exemplars show at least."""
    if not nouns or words.words[nouns[0]].own:
        return ()
    narrow = words.wider[:, nouns[0]] & np.array([word.own for word in words.words])
    counts = (hits > 0.5).sum(0) * narrow
    order = np.argsort(-counts, kind="stable")[:2]
    return tuple(words.words[w].text for w in order if counts[w] >= 2)
