"""Captions × neurons whose truth is known → how well the captions name it, whatever their phrasing.

A classifier's class-score unit looks for its class. So captions of such units are held against the classes' names, by
meaning (sentence embeddings) and by words (the name, or what WordNet says it is a kind of).
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mami_core.errors import ConfigError
from mami_core.metrics.bleu import words
from mami_core.metrics.sentences import Sentences


@dataclass(frozen=True, slots=True)
class KnownScores:
    """One number a neuron."""

    cosine: Float[Tensor, " neurons"]
    """Of the caption's and the true name's sentence embeddings."""
    rank: Float[Tensor, " neurons"]
    """The true name's place among all names by closeness to the caption, from 1; chance is the middle. Embeddings are
    centred over the names first, since all of them share a direction that means nothing. Ties count half."""
    named: Bool[Tensor, " neurons"] | None
    """Whether the caption has one of the words that would be right; None where nobody says which these are."""


def known_scores(
    captions: Sequence[str],
    truths: Sequence[int],
    names: Sequence[str],
    sentences: Sentences,
    *,
    right_words: Sequence[Sequence[str]] | None = None,
) -> KnownScores:
    """How well captions name what their neurons are known to look for.

    Args:
        captions: One a neuron.
        truths: Which of `names` is each neuron's.
        names: All names among which the truth is to be found: the classifier's classes.
        sentences: Turns texts into vectors.
        right_words: For each of `names`, every word or phrase that is right: synonyms, what it is a kind of.

    Raises:
        ConfigError: lengths that do not fit, or a truth that is no place in `names`.
    """
    if len(captions) != len(truths) or not all(0 <= truth < len(names) for truth in truths):
        raise ConfigError(f"expected a truth below {len(names)} for each of {len(captions)} captions, got {truths}.")
    if right_words is not None and len(right_words) != len(names):
        raise ConfigError(f"expected the right words of {len(names)} names, got {len(right_words)} lists.")
    said, meant = sentences.embed(captions), sentences.embed(names)
    true = torch.as_tensor(truths, dtype=torch.long)
    named = None
    if right_words is not None:
        mentions = [Mentions(right_words[truth]) for truth in truths]
        named = torch.tensor([one.inside(caption) for one, caption in zip(mentions, captions, strict=True)])
    return KnownScores((said * meant[true]).sum(1), _ranks(said, meant, true), named)


def _ranks(said: Tensor, meant: Tensor, true: Tensor) -> Tensor:
    centre = meant.mean(0)
    said, meant = (nn.functional.normalize(vectors - centre, dim=1) for vectors in (said, meant))
    closeness = (said.double() @ meant.double().T).round(decimals=6)  # equal texts tie, whatever the last bits
    own = closeness.gather(1, true[:, None])
    return 1 + (closeness > own).sum(1) + ((closeness == own).sum(1) - 1) / 2


class Mentions:
    """Whether any of some words or phrases is in a text, in the singular or the plural."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = {f" {_plain(phrase)} " for phrase in phrases}

    def inside(self, text: str) -> bool:
        """Whole words only: "cat" is not in "category"."""
        plain = f" {_plain(text)} "
        return any(phrase in plain for phrase in self._phrases)


_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "wolves": "wolf", "leaves": "leaf", "shelves": "shelf", "knives": "knife", "feet": "foot", "teeth": "tooth",
    "oxen": "ox", "calves": "calf", "loaves": "loaf", "scarves": "scarf", "hooves": "hoof", "halves": "half",
    "buses": "bus", "lenses": "lens",
}  # fmt: skip


def _plain(text: str) -> str:
    return " ".join(map(_singular, words(text)))


def _singular(word: str) -> str:
    """Crude, but the same on both sides: where it is wrong it is wrong of both."""
    word = _IRREGULAR.get(word, word)
    word = re.sub(r"(?<=[a-z]{2})ies$", "y", word)
    word = re.sub(r"(?<=ss|sh|ch)es$|(?<=x)es$", "", word)
    return re.sub(r"(?<=[^\Wsiu])s$", "", word)


def right_words(wordnet_ids: Sequence[str], *, shallowest: int = 5) -> list[list[str]]:
    """For each WordNet id ("n02084071"), its synonyms and those of everything that it is a kind of.

    Up to what has `shallowest` steps below "entity": "animal" (6) is right of a dog, "object" (2) is not. WordNet is
    nltk's corpus of that name, which has to be on this machine.

    Raises:
        ConfigError: it is not, or has no such id.
    """
    from nltk.corpus import wordnet

    try:
        synsets = {one: _synset(wordnet, one) for one in dict.fromkeys(wordnet_ids)}
    except LookupError as error:
        raise ConfigError(
            "WordNet was not found: unpack nltk's corpus 'wordnet' into corpora/ below the folder that NLTK_DATA names."
        ) from error
    if unknown := [one for one, synset in synsets.items() if synset is None]:
        raise ConfigError(f"expected WordNet ids such as n02084071, got {', '.join(unknown[:5])}.")
    kinds = {one: [synset, *synset.closure(lambda kind: kind.hypernyms())] for one, synset in synsets.items()}
    return [
        [
            lemma.replace("_", " ")
            for kind in kinds[one]
            if kind.min_depth() >= shallowest
            for lemma in kind.lemma_names()
        ]
        for one in wordnet_ids
    ]


def _synset(wordnet: Any, wordnet_id: str) -> Any:
    """None where WordNet has no such id."""
    wordnet.ensure_loaded()
    if not re.fullmatch(r"n\d{8}", wordnet_id):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns too
        return wordnet.synset_from_pos_and_offset("n", int(wordnet_id[1:]))
