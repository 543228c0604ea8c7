"""From evidence on a neuron's exemplars to the few things worth saying of it.

Axes: E exemplars, W words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

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
    together: float = 0.4
    """Share of the exemplars of which one of the nouns must be true."""
    colour: float = 0.45
    """Share of the exemplars that must have a colour, texture or place."""
    hint: float = 2.0
    """Log-likelihood ratio of what is said where nothing is sure: true of so many exemplars, if hardly more often than
    by chance. Infinity leaves such neurons out."""


_VAGUE = ("people", "animals", "furry animals", "vehicles", "buildings", "trees")
_HINTED = 0.4
"""Share of the exemplars that must have a look, or show a thing, where nothing is sure."""
_TINTS, _SURFACES = (0.3, 0.5), (0.5, 0.0)
"""Share of the exemplars, and log-likelihood ratio, of a colour and of a surface that are said beside something else:
these tell what it is like, and need not tell it from others."""
_SURFACE = ("fine textures", "coarse textures", "smooth areas", "bright areas", "dark areas")
_SAYS_SO = {"bright areas": "white", "dark areas": "black"}
"""Looks that go without saying where a colour is said."""


def choose(
    hits_EW: Float[np.ndarray, "e w"],
    gain: Float[np.ndarray, " w"],
    score: Float[np.ndarray, " w"],
    words: Words,
    around: Sequence[str],
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
        around: What else the exemplars show, the most telling first.
        demands: How sure to be.
        first: Say this word first, whatever the scores.
    """
    support = hits_EW.mean(0)
    kinds = np.array([word.kind for word in words.words])
    sure = np.array([demands.vague if word.text in _VAGUE else demands.gain for word in words.words]) <= score
    nouns = _nouns(hits_EW, support, np.where(sure & (gain > 6), score, 0), words, demands, first)
    often = sure & (support >= demands.colour)
    looks = often & (kinds == "low")
    if not (nouns or (often & ((kinds == "colour") | (kinds == "low"))).any()):
        hinted = (gain >= demands.hint) & (support >= _HINTED)
        nouns = _hinted_noun(hinted & (gain >= 2 * demands.hint), score, words)
        looks = hinted & (kinds == "low")
    tinted = (kinds == "colour") & (support >= _TINTS[0]) & (gain >= (demands.hint if not nouns else _TINTS[1]))
    colours = _texts(words, score, tinted)[:2]
    low = _texts(words, score, looks)
    if colours or low:
        surfaced = np.isin([word.text for word in words.words], _SURFACE) & (kinds == "low") & ~looks
        low += _texts(words, score, surfaced & (support >= _SURFACES[0]) & (gain > _SURFACES[1]))
    low = [name for name in low if _SAYS_SO.get(name) not in colours]
    is_place = (kinds == "place") & (support > 0.6) & (gain > (16 if nouns or colours or low else 6))
    said = {words.words[w].text for w in nouns}
    akin = {words.words[w].text for noun in nouns for w in np.flatnonzero(words.kin[noun])}
    if "white" in colours or "white backgrounds" in low:
        akin.add("white backgrounds")
    return Finding(
        nouns=tuple(words.words[w].text for w in nouns),
        wider=_wider(nouns, support, gain, words),
        colours=tuple(colours),
        low=tuple(low[:3]) if not nouns else (),
        context=tuple(name for name in around if name not in said | akin)[:2],
        place=next(iter(_texts(words, gain, is_place)), None),
        mixed=_examples(nouns, hits_EW, words),
    )


def _texts(words: Words, score: Float[np.ndarray, " w"], chosen: Bool[np.ndarray, " w"]) -> list[str]:
    """The chosen words, the highest score first."""
    return [words.words[w].text for w in np.argsort(-score, kind="stable") if chosen[w]]


def _nouns(
    hits: Float[np.ndarray, "e w"],
    support: Float[np.ndarray, " w"],
    score: Float[np.ndarray, " w"],
    words: Words,
    demands: Demands,
    first: int | None,
) -> list[int]:
    """The best noun, then those that are true of what the ones before leave out; none if they leave out too much."""
    is_noun = np.array([word.kind in NOUNS for word in words.words])
    given = first is not None
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
    return chosen if given or hits[:, chosen].max(1).mean() >= demands.together else []


def _hinted_noun(hinted: Bool[np.ndarray, " w"], score: Float[np.ndarray, " w"], words: Words) -> list[int]:
    """The best word for a group of things among these, if any."""
    groups = hinted & np.array([word.kind in ("thing", "stuff", "scene") and not word.own for word in words.words])
    return [int(np.argmax(np.where(groups, score, -1)))] if groups.any() else []


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
