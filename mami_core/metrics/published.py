"""BLEU as papers print it, to set beside theirs: nothing smoothed away, nothing left out.

Ours (`metrics.bleu`) smooths and leaves punctuation out, so no published figure compares with it. MAMI (arXiv
2401.02744) prints nltk's `corpus_bleu` over MILAN's words (spaCy's rules for English, punctuation included) with all
references and without smoothing; MILAN prints sacreBLEU's.
"""

import functools
from collections.abc import Sequence
from typing import cast

from sacrebleu.metrics.bleu import BLEU

from mami_core.errors import ConfigError
from mami_core.metrics.bleu import BleuCounts
from mami_core.tokenizers import tokenize


@functools.lru_cache(maxsize=1 << 16)
def milan_words(text: str) -> tuple[str, ...]:
    """MILAN's words of a text."""
    return tuple(tokenize(text, "spacy"))


@functools.cache
def has_milan_words() -> bool:
    """Whether spaCy is here, which cuts them."""
    try:
        tokenize("", "spacy")
    except ConfigError:
        return False
    return True


def milan_counts(caption: str, descriptions: Sequence[str]) -> BleuCounts:
    """What `nltk.translate.bleu_score.corpus_bleu` counts; `score(smoothed=False)` of merged ones is its result."""
    return BleuCounts.of(caption, descriptions, cut=milan_words)


def sacrebleu(captions: Sequence[str], descriptions: Sequence[Sequence[str]]) -> tuple[float, str]:
    """SacreBLEU's corpus BLEU, 0 to 100, and its signature.

    Texts are prepared as MILAN does, in lower case and without a full stop at the end; but every description counts
    (MILAN cuts all neurons to the shortest list).
    """
    most = max(len(texts) for texts in descriptions)
    of_person = [[_plain(texts[i]) if i < len(texts) else None for texts in descriptions] for i in range(most)]
    metric = BLEU()
    # None stands for "this neuron has no such person"; sacreBLEU takes it, though its types do not say so.
    score = metric.corpus_score([_plain(caption) for caption in captions], cast("list[list[str]]", of_person))
    return score.score, str(metric.get_signature())


def _plain(text: str) -> str:
    return text.lower().strip(". ")
