"""Are captions true of the exemplars? Features tell how true phrases are of them, or a probe does.

A captioner is asked what people would say of a neuron, and a caption that is likely need not be true. The evidence
comes from the exemplars one by one: a caption is taken apart into claims, each the phrases of one kind in it ("black
and white dogs on grass" claims dogs, black or white, and grass), and a claim is true of an exemplar if one of its
phrases is.

Axes: N neurons, K exemplars, B beams, L words, P phrases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mami_core.captions.vocabulary import STOP, Vocabulary
from mami_core.captions.ways import followed
from mami_core.errors import ConfigError

_ENOUGH = 0.8
"""A caption need not be true of more than this share of the exemplars."""
_SURE, _VAGUE = 22.0, 1.0
"""Nor need it be surer than so many nats over chance; what is no surer than chance counts as if it were by this."""
WHERE = ("place",)
"""Kinds that do not say what there is: alone and no surer than chance, they count for nothing, as coarse words do."""
_WORTH = 4.0
"""Of what is true enough, and surely no chance."""
_RAREST = 0.004
"""No claim is rarer by chance than this: one exemplar of what nothing else shows proves little."""
_SHARES, _LEAST = ("colour",), 1 / 2
"""Kinds whose phrases are true of shares of one region, which add up; how true each phrase of a kind must be against
all of them."""
HALF_IS_ENOUGH = 2.0
"""What the share of a region that a look covers is multiplied by, to say how true the look is of the region; not so of
what fills regions."""
_WHOLE = 0.999
"""The square root of a whole image's share is 1, in half precision too."""


def is_whole(region_size: Float[Tensor, "*of"]) -> Bool[Tensor, "*of"]:
    """Whether a region is its whole image, by the square root of its share."""
    return region_size >= _WHOLE


class Phrase(NamedTuple):
    """A few words that can be true of an exemplar. Of phrases of one kind, a caption claims that one is true."""

    text: str
    """Its words, as captions have them, with spaces between."""
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    """The probe's shape, and what it knows of."""

    num_features: int
    phrases: tuple[Phrase, ...]
    """Each text once."""
    hidden: int = 384
    dropout: float = 0.3
    region_size: int | None = None
    """Which of the features is the square root of the region's share of its image, where one of them is."""
    told_by: tuple[tuple[int, ...], ...] = ()
    """For each phrase the features that tell its truth: shares of the region, of which half is enough, and the highest
    counts. For what only the probe can tell an empty tuple; for no phrase any, if there are none at all."""
    filling: tuple[int, ...] = ()
    """Features that tell of what fills regions: of their shares half is not enough."""

    def __post_init__(self) -> None:
        if not self.phrases or len({phrase.text for phrase in self.phrases}) < len(self.phrases):
            raise ConfigError(f"expected phrases, each text once; got {len(self.phrases)}, or some of them twice.")
        if min(self.num_features, self.hidden) < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"expected features, hidden numbers and a dropout below 1; got {self.num_features}, {self.hidden} and "
                f"{self.dropout}."
            )
        if self.region_size is not None and not 0 <= self.region_size < self.num_features:
            raise ConfigError(f"region_size: expected one of {self.num_features} features, got {self.region_size}.")
        named = {number for of_phrase in (*self.told_by, self.filling) for number in of_phrase}
        if len(self.told_by) not in (0, len(self.phrases)) or not named <= set(range(self.num_features)):
            raise ConfigError(
                f"told_by: expected some of {self.num_features} features for each phrase, or nothing; filling: some."
            )
        if self.told_by and all(self.told_by):
            raise ConfigError("told_by: expected a phrase that no feature tells, for the probe to learn.")

    @property
    def asked(self) -> list[int]:
        """The phrases whose truth the probe is asked."""
        return [number for number in range(len(self.phrases)) if not self.told_by or not self.told_by[number]]


class Evidence(nn.Module):
    """A network with one hidden layer: an exemplar's features → how true each phrase is of it."""

    feature_mean: Tensor
    feature_scale: Tensor
    chance: Tensor
    """How true each phrase is of exemplars by chance (`learning.evidence_fit`)."""
    _asked: Tensor
    _told: Tensor
    _telling: Tensor
    _times: Tensor
    """The phrases that the probe is asked, and those that features tell; which do, some of them named again; and how
    true each feature's share makes a phrase."""

    def __init__(self, config: EvidenceConfig, vocabulary: Vocabulary) -> None:
        """With first weights, drawn.

        Raises:
            ConfigError: a phrase has words that the vocabulary lacks.
        """
        super().__init__()
        self.config, self.claims = config, _Claims(config.phrases, vocabulary)
        self.register_buffer("feature_mean", torch.zeros(config.num_features))
        self.register_buffer("feature_scale", torch.ones(config.num_features))
        self.register_buffer("chance", torch.full((len(config.phrases),), _RAREST))
        told = {number: by for number, by in enumerate(config.told_by) if by}
        most = max(map(len, told.values()), default=0)
        with torch.device("cpu"):  # as the tree of phrases, these follow from the configuration
            telling = torch.tensor([(*by, *by[:1] * (most - len(by))) for by in told.values()], dtype=torch.int64)
            self.register_buffer("_asked", torch.tensor(config.asked), persistent=False)
            self.register_buffer("_told", torch.tensor(list(told), dtype=torch.int64), persistent=False)
            self.register_buffer("_telling", telling.reshape(len(told), most), persistent=False)
            times = torch.full((config.num_features,), HALF_IS_ENOUGH)
            times[list(config.filling)] = 1.0
            self.register_buffer("_times", times, persistent=False)
        self.first = nn.Linear(config.num_features, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.second = nn.Linear(config.hidden, len(config.asked))

    def forward(self, features: Float[Tensor, "*of features"]) -> Float[Tensor, "*of asked"]:
        """The logits of the truth of each phrase that the probe is asked."""
        standard = (features.to(self.feature_mean.dtype) - self.feature_mean) / self.feature_scale
        return self.second(self.dropout(self.first(standard).relu()))

    def truth(self, features: Float[Tensor, "*of features"]) -> Float[Tensor, "*of phrases"]:
        """How true each phrase is, from 0 to 1: by the features that tell it, or as the probe thinks.

        What an element-wise function gives may depend, in its last bit, on the place in the batch: not so once the
        result is rounded, so that it is in double precision.
        """
        asked = self(features).double().sigmoid()
        truth = asked.new_empty(*features.shape[:-1], len(self.config.phrases)).index_copy(-1, self._asked, asked)
        if not len(self._told):
            return truth
        told = (self._times[self._telling] * features[..., self._telling]).amax(-1).clamp(0, 1)
        return truth.index_copy(-1, self._told, told.double())

    def weigh(
        self,
        features: Float[Tensor, "neurons k features"],
        present: Bool[Tensor, "neurons k"],
        words: Int64[Tensor, "neurons beams length"],
    ) -> Float[Tensor, "neurons beams"]:
        """How well the exemplars bear each caption out, from 0 to 4; a caption that claims nothing is at 0.

        It is the cube of the support (the share of the exemplars of which the least true claim is true, up to eight
        tenths) times what all claims together have over chance (the log-likelihood ratio of so many exemplars, up to 22
        nats): people want both, call vague what is true of everything, and hardly ever right what is true of half.

        An exemplar whose region is the whole image is no evidence: nothing tells what in it the unit looks for. Where
        all are so, as of class scores, every caption is at 0.
        """
        if self.config.region_size is not None:
            present = present & ~is_whole(features[..., self.config.region_size])
        truth_NKP = self.truth(features.masked_fill(~present[..., None], 0))
        phrases_NBL = self.claims.in_captions(words)
        chance_NBL = self.chance.double()[phrases_NBL]
        count_N1 = present.sum(1, keepdim=True).clamp(min=1)
        truth_NKBL = _of_phrases(truth_NKP, phrases_NBL) * present[..., None, None]
        support_NB = truth_NKP.new_ones(words.shape[:2])
        gain_NB = torch.zeros_like(support_NB)
        says_NBL = phrases_NBL >= 0
        tells_NBL = says_NBL & (chance_NBL < 1)
        for kind, of_kind_P in self.claims.kinds.items():
            claimed_NBL = of_kind_P[phrases_NBL]
            is_claimed = claimed_NBL.any(-1)
            one_NB, rarest_NB = _of_kind(truth_NKBL, claimed_NBL, adds_up=kind in _SHARES)
            true_NB = one_NB / count_N1
            of_kind_NB = torch.minimum(true_NB, rarest_NB / count_N1 / _LEAST)
            support_NB = torch.minimum(support_NB, of_kind_NB.masked_fill(~is_claimed, 1))
            by_chance_NB = (chance_NBL * claimed_NBL).sum(-1).clamp(_RAREST, 1 - 1e-3)
            gain_NB = gain_NB + is_claimed * count_N1 * _surprise(true_NB, by_chance_NB)
            if kind in WHERE:
                tells_NBL &= ~claimed_NBL
        supported_NB = says_NBL.any(-1) * (support_NB / _ENOUGH).clamp(max=1)
        sure_NB = (gain_NB.clamp(max=_SURE) + _VAGUE * tells_NBL.any(-1)) / (_SURE + _VAGUE)
        return (_WORTH * supported_NB * supported_NB * supported_NB * sure_NB).float()


def _of_phrases(
    truth: Float[Tensor, "neurons k phrases"], phrases: Int64[Tensor, "neurons beams length"]
) -> Float[Tensor, "neurons k beams length"]:
    """How true some phrases are of each exemplar; anything for those that are none."""
    flat = phrases.clamp(min=0).flatten(1)[:, None].expand(-1, truth.shape[1], -1)
    return truth.gather(2, flat).unflatten(2, phrases.shape[1:])


def _of_kind(
    truth: Float[Tensor, "neurons k beams length"], claimed: Bool[Tensor, "neurons beams length"], *, adds_up: bool
) -> tuple[Float[Tensor, "neurons beams"], Float[Tensor, "neurons beams"]]:
    """Of how many exemplars one of the claimed phrases is true, and of how many the rarest of them."""
    each_NKBL = truth * claimed[:, None]
    one_NKB = each_NKBL.sum(-1).clamp(max=1) if adds_up else each_NKBL.amax(-1)
    return one_NKB.sum(1), each_NKBL.sum(1).masked_fill(~claimed, torch.inf).amin(-1)


def _surprise(share: Float[Tensor, "*of"], chance: Float[Tensor, "*of"]) -> Float[Tensor, "*of"]:
    """Log-likelihood ratio an exemplar of what is true of a share of them, against chance; 0 below it."""
    share = share.clamp(1e-4, 1 - 1e-4)
    gain = share * (share / chance).log() + (1 - share) * ((1 - share) / (1 - chance)).log()
    return torch.where(share > chance, gain, 0)


class _Claims(nn.Module):
    """Finds phrases in captions, the longest first: a tree of words, and which phrase ends at each of its nodes."""

    _keys: Tensor
    _next: Tensor
    _phrase_at: Tensor
    _of_kind: Tensor

    def __init__(self, phrases: Sequence[Phrase], vocabulary: Vocabulary) -> None:
        super().__init__()
        self._num_words, self.longest = len(vocabulary), 0
        ways: dict[tuple[int, int], int] = {}  # (node, word) → node; 0 is the root, and no way leads back to it
        ends: dict[int, int] = {}
        for number, phrase in enumerate(phrases):
            node, words = 0, phrase.text.split()
            for word in words:
                if (known := vocabulary.number(word)) is None:
                    raise ConfigError(f"'{phrase.text}': a phrase of words that the captioner does not know.")
                node = ways.setdefault((node, known), len(ways) + 1)
            if node == 0 or node in ends:
                raise ConfigError(f"'{phrase.text}': expected phrases of a word or more, each once.")
            ends[node] = number
            self.longest = max(self.longest, len(words))
        self._kinds = list(dict.fromkeys(phrase.kind for phrase in phrases))
        with torch.device("cpu"):  # also where a network's weights are yet to come: these follow from the phrases
            keys = torch.tensor([node * self._num_words + word for node, word in ways])
            order = keys.argsort()
            # One node more, behind all ways: no phrase goes on there.
            phrase_at = torch.full((len(ways) + 2,), -1)
            phrase_at[list(ends)] = torch.tensor(list(ends.values()))
            # One phrase more, for none: its number is −1.
            of_kind = torch.tensor([[phrase.kind == kind for phrase in phrases] + [False] for kind in self._kinds])
            self.register_buffer("_keys", keys[order], persistent=False)
            self.register_buffer("_next", torch.tensor(list(ways.values()))[order], persistent=False)
            self.register_buffer("_phrase_at", phrase_at, persistent=False)
            self.register_buffer("_of_kind", of_kind, persistent=False)

    @property
    def kinds(self) -> dict[str, Bool[Tensor, " phrases_and_one"]]:
        """By kind, which phrases are of it."""
        return dict(zip(self._kinds, self._of_kind, strict=True))

    def in_captions(self, words: Int64[Tensor, "neurons beams length"]) -> Int64[Tensor, "neurons beams length"]:
        """At each word the phrase that begins there, −1 for none; from left to right, and none within another."""
        found, lengths = torch.full_like(words, -1), torch.zeros_like(words)
        nodes = torch.zeros_like(words)
        for step in range(min(self.longest, words.shape[-1])):
            ahead = nn.functional.pad(words[..., step:], (0, step), value=STOP)
            wanted = nodes * self._num_words + ahead
            nodes = followed(self._keys, self._next, wanted, otherwise=len(self._phrase_at) - 1)
            here = self._phrase_at[nodes]
            found, lengths = torch.where(here >= 0, here, found), torch.where(here >= 0, step + 1, lengths)
        return _once(_apart(found, lengths))


def _once(phrases: Int64[Tensor, "n b length"]) -> Int64[Tensor, "n b length"]:
    """Without what was said before in the same caption."""
    again = (phrases[..., :, None] == phrases[..., None, :]).tril(-1).any(-1)
    return phrases.masked_fill(again, -1)


def _apart(found: Int64[Tensor, "n b length"], lengths: Int64[Tensor, "n b length"]) -> Int64[Tensor, "n b length"]:
    """Without the phrases that begin within one before."""
    free, kept = torch.zeros_like(found[..., 0]), []
    for place, (phrase, length) in enumerate(zip(found.unbind(-1), lengths.unbind(-1), strict=True)):
        begins = (phrase >= 0) & (free <= place)
        kept.append(torch.where(begins, phrase, -1))
        free = torch.where(begins, place + length, free)
    return torch.stack(kept, -1)
