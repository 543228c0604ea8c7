"""From evidence on a neuron's exemplars to the few things worth saying of it.

Axes: E exemplars, W words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mami_core.features.forms import FORMS
from mami_core.features.looks import BOUNDARIES, SIDES, TONES
from mami_core.learning.dissected.looks import ADJECTIVES
from mami_core.learning.dissected.phrases import NOUNS, Finding, Words
from mami_core.learning.dissected.words import Word


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


class Grouped(NamedTuple):
    """How often, how surely and with the others how often a group of things must be shown."""

    support: float
    gain: float
    together: float


COARSE = ("man-made things",)
"""Words for units that have little in common; nothing is "and other man-made things"."""
_VAGUE = ("people", "animals", "furry animals", "vehicles", "buildings", "trees", *COARSE)
_HINTED, _GROUPED = 0.4, Grouped(support=0.28, gain=4.0, together=0.45)
"""Share of the exemplars that must have a look where nothing is sure, and what groups of things are said of then."""
_TINTS, _SURFACES = (0.3, 0.5), (0.5, 2.0)
"""Share of the exemplars, and log-likelihood ratio, of a colour and of a surface that are said beside something else:
these tell what it is like, and a colour need not tell it from others."""
_WITH = (0.45, 4.0)
"""The same of a look that things have."""
_PLACED = (0.5, 6.0)
"""The same of a place in the picture."""
_PLAINLY = 0.55
"""Share of the exemplars of which a colour or a context is said without "often"."""
_FORMED = 0.6
"""Share of the exemplars whose regions must have a form."""
_COLOUR_ALONE = 0.5
"""Share of the exemplars that must have one of the colours where there is nothing else to say."""
_SAYS_SO: Mapping[str, Sequence[str]] = {
    "bright areas": ("white",),
    "dark areas": ("black",),
    "white backgrounds": ("outlines on white backgrounds",),
    "outlines of things": ("outlines on white backgrounds", "outlines on black backgrounds", *SIDES),
}
"""Looks that go without saying where one of these is said."""
_GROUNDS = ("white backgrounds", "outlines on white backgrounds", "outlines on black backgrounds", "smooth areas")
_NOT_WITH = (*_GROUNDS, *BOUNDARIES, *FORMS)
"""Looks that no thing is said to have."""


def choose(
    hits_EW: Float[np.ndarray, "e w"],
    gain: Float[np.ndarray, " w"],
    score: Float[np.ndarray, " w"],
    words: Words,
    around: Mapping[str, float],
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
        around: What else the exemplars show, and the share of them that do; the most telling first.
        demands: How sure to be.
        first: Say this word first, whatever the scores.
    """
    support = hits_EW.mean(0)
    kinds = np.array([word.kind for word in words.words])
    is_low, is_colour = kinds == "low", kinds == "colour"
    is_low &= ~np.isin(words.texts, FORMS) | (support >= _FORMED)
    sure = np.array([demands.vague if word.text in _VAGUE else demands.gain for word in words.words]) <= score
    nouns = _nouns(hits_EW, support, np.where(sure & (gain > 6), score, 0), words, demands, first)
    often = sure & (support >= demands.colour)
    is_sure = bool(nouns) or bool((often & (is_low | is_colour)).any())
    is_place = (kinds == "place") & (support >= _PLACED[0]) & (gain >= _PLACED[1])
    place = next(iter(_texts(words, gain, is_place)), None)
    if is_sure:
        looks = often & is_low
    elif place is not None:
        return Finding(place=place, context=tuple(around)[:2], often=_by_half(around))
    else:
        looks = is_low & (gain >= demands.hint) & (support >= _HINTED)
        groups = _groups(hits_EW, support, gain, words, demands)
        nouns = groups if groups and gain[groups[0]] >= (gain * looks).max() else []
    tinted = is_colour & (support >= _TINTS[0]) & (gain >= (_TINTS[1] if nouns else demands.hint))
    colours = _texts(words, score, tinted)[:2]
    looks &= ~(_only_coloured(score, words) | _of_coloured_things(score, words, colours))
    shares = {name: float(support[_colour(words, name)]) for name in colours}
    if not nouns and not looks.any() and sum(shares.values()) < _COLOUR_ALONE:
        colours = []
    if nouns:
        looks = is_low & (support >= _WITH[0]) & (gain >= _WITH[1])
        looks &= ~np.isin(words.texts, _NOT_WITH)
    low = _texts(words, score, looks)
    if not nouns and (colours or low):
        surfaced = is_low & np.isin(words.texts, tuple(ADJECTIVES)) & ~looks
        low += _texts(words, score, surfaced & (support >= _SURFACES[0]) & (gain > _SURFACES[1]))
    low = [name for name in low if {*colours, *low}.isdisjoint(_SAYS_SO.get(name, ()))]
    akin = {words.words[w].text for noun in nouns for w in (noun, *np.flatnonzero(words.kin[noun]))}
    if "white" in colours or "white backgrounds" in low:
        akin.add("white backgrounds")
    return Finding(
        nouns=tuple(words.words[w].text for w in nouns),
        wider=_wider(nouns, support, gain, words),
        colours=tuple(colours),
        low=tuple(low[:4]),
        context=tuple(name for name in around if name not in akin)[:2],
        place=place,
        often=_by_half(shares | dict(around)),
    )


def _only_coloured(score: Float[np.ndarray, " w"], words: Words) -> Bool[np.ndarray, " w"]:
    """Looks that begin with a colour (spots, lines, backgrounds) where the colour alone says more."""
    return (words.tint >= 0) & (score < score[words.tint])


def _of_coloured_things(score: Float[np.ndarray, " w"], words: Words, colours: Sequence[str]) -> Bool[np.ndarray, " w"]:
    """Boundaries of things whose colour, no tone that backgrounds have, says more: they are said without colours."""
    most = max((score[_colour(words, name)] for name in colours if name not in TONES), default=-np.inf)
    return np.isin(words.texts, BOUNDARIES) & (score < most)


def _by_half(shares: Mapping[str, float]) -> frozenset[str]:
    return frozenset(name for name, share in shares.items() if share < _PLAINLY)


def _colour(words: Words, name: str) -> int:
    return words.numbers[Word(name, "colour")]


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
        # Of words that are true of the same, the last: a name's words stand from the widest to the narrowest.
        first = len(score) - 1 - int(np.argmax(np.where(open_to, score, -1)[::-1]))
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


def _groups(
    hits: Float[np.ndarray, "e w"],
    support: Float[np.ndarray, " w"],
    gain: Float[np.ndarray, " w"],
    words: Words,
    demands: Demands,
) -> list[int]:
    """Words for groups of things that many exemplars show, where nothing is sure; none if they leave out too much."""
    is_group = np.array([word.kind in ("thing", "stuff", "scene") and not word.own for word in words.words])
    weaker = replace(demands, support=_GROUPED.support, together=_GROUPED.together)
    return _nouns(hits, support, gain * is_group * (gain >= max(_GROUPED.gain, 2 * demands.hint)), words, weaker, None)


def _wider(
    nouns: list[int], support: Float[np.ndarray, " w"], gain: Float[np.ndarray, " w"], words: Words
) -> str | None:
    """The best word for the first noun and more. Wheels are no cars, though they lie where cars do."""
    if not nouns or words.words[nouns[0]].kind != "thing":
        return None
    first = nouns[0]
    wide = words.wider[first] & (support > support[first] + 0.12) & (gain > 5)
    wide &= np.array([word.kind == "thing" and not word.own and word.text not in COARSE for word in words.words])
    return words.words[int(np.argmax(np.where(wide, gain, -1)))].text if wide.any() else None
