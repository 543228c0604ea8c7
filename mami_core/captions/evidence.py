"""Are captions true of the exemplars? Features tell how true phrases are of them, or a probe does.

A captioner is asked what people would say of a neuron, and a caption that is likely need not be true. The evidence
comes from the exemplars one by one: a caption is taken apart into claims, each the phrases of one kind in it ("black
and white dogs on grass" claims dogs, black or white, and grass), and a claim is true of an exemplar if one of its
phrases is. What the probe leaves open of one exemplar, the unit's others help to tell.

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
"""Kinds that do not say what there is: alone and no surer than chance, they count for nothing."""
_WORTH = 4.0
"""Of what is true enough, and surely no chance."""
_RAREST = 0.004
"""No claim is rarer by chance than this: one exemplar of what nothing else shows proves little."""
_SHARES, _LEAST = ("colour",), 1 / 2
"""Kinds whose phrases are true of shares of one region, which add up; how true each phrase of a kind must be against
all of them."""
_PRIOR, _STEPS = 2.0, 8
"""So many usual exemplars are counted with a unit's own, to tell of how many a phrase is true; the share is found in so
many steps."""
_OPEN = 1e-4
"""The probe is never surer than that of an exemplar by itself."""
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
    """How true each phrase is of exemplars by chance (`learning.evidence_fit`): what units are told apart from."""
    usual: Tensor | None
    """How true each is on average of those that taught the probe: what it expects of an exemplar before it sees one.
    None where that is not known, as of captioners trained before; then it is taken for chance."""
    _asked: Tensor
    _unsure: Tensor
    _says_what: Tensor
    _told: Tensor
    _telling: Tensor
    _times: Tensor
    """The phrases that the probe is asked, and of all phrases (and one more, for none) those of which it can be unsure;
    the kinds that say what there is; the phrases that features tell; which do, some of them named again; and how true
    each feature's share makes a phrase."""

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
        self.register_buffer("usual", torch.full((len(config.phrases),), _RAREST))
        told = {number: by for number, by in enumerate(config.told_by) if by}
        most = max(map(len, told.values()), default=0)
        with torch.device("cpu"):  # as the tree of phrases, these follow from the configuration
            telling = torch.tensor([(*by, *by[:1] * (most - len(by))) for by in told.values()], dtype=torch.int64)
            self.register_buffer("_asked", torch.tensor(config.asked), persistent=False)
            unsure = [number not in told and phrase.kind not in WHERE for number, phrase in enumerate(config.phrases)]
            self.register_buffer("_unsure", torch.tensor([*unsure, False]), persistent=False)
            says_what = [kind not in WHERE for kind in self.claims.kinds]
            self.register_buffer("_says_what", torch.tensor(says_what), persistent=False)
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
    ) -> "Weighed":
        """How well the exemplars bear each caption out; a caption that claims nothing is worth 0.

        Its worth is the cube of its support (up to eight tenths) times what all claims together have over chance (the
        log-likelihood ratio of so many exemplars, up to 22 nats): people want both, call vague what is true of
        everything, and hardly ever right what is true of half. Coarse words, by chance always true, count as true of
        nothing.

        An exemplar whose region is the whole image is no evidence: nothing tells what in it the unit looks for. Where
        all are so, as of class scores, every caption is worth 0.
        """
        if self.config.region_size is not None:
            present = present & ~is_whole(features[..., self.config.region_size])
        truth_NKP = self.truth(features.masked_fill(~present[..., None], 0))
        phrases_NBL = self.claims.in_captions(words)
        claimed_NBCL = self.claims.kinds_of(phrases_NBL)
        chance_NBL = self.chance.double()[phrases_NBL]
        count_N11 = present.sum(1)[:, None, None].clamp(min=1)
        truth_NKBL = self._truth_of_phrases(truth_NKP, present, phrases_NBL) * (chance_NBL < 1)[:, None]
        one_NKBC = torch.stack(
            [
                _one_of(truth_NKBL * claimed_NBCL[:, None, :, number], adds_up=kind in _SHARES)
                for number, kind in enumerate(self.claims.kinds)
            ],
            -1,
        )
        true_NBC = one_NKBC.sum(1) / count_N11
        each_NBL = truth_NKBL.sum(1) / count_N11
        rarest_NBC = each_NBL[:, :, None].masked_fill(~claimed_NBCL, torch.inf).amin(-1)
        claims_NBC = claimed_NBCL.any(-1)
        by_chance_NBC = (chance_NBL[:, :, None] * claimed_NBCL).sum(-1).clamp(_RAREST, 1 - 1e-3)
        gain_NB = (claims_NBC * count_N11 * _surprise(true_NBC, by_chance_NBC)).sum(-1)
        support_NB = torch.minimum(true_NBC, rarest_NBC / _LEAST).masked_fill(~claims_NBC, 1).amin(-1)
        knows_NB = claims_NBC.any(-1) & present.any(1, keepdim=True)
        says_what_NB = (claims_NBC & self._says_what).any(-1)
        enough_NB = knows_NB * (support_NB / _ENOUGH).clamp(max=1)
        sure_NB = (gain_NB.clamp(max=_SURE) + _VAGUE * says_what_NB) / (_SURE + _VAGUE)
        worth_NB = _WORTH * enough_NB * enough_NB * enough_NB * sure_NB
        return Weighed(worth_NB.float(), support_NB.masked_fill(~knows_NB, torch.nan).float())

    def _truth_of_phrases(
        self,
        truth: Float[Tensor, "neurons k phrases"],
        present: Bool[Tensor, "neurons k"],
        phrases: Int64[Tensor, "neurons beams length"],
    ) -> Float[Tensor, "neurons k beams length"]:
        """How true some phrases are of each exemplar, by all of the unit's; 0 where there is none.

        What it says of phrase −1, which is none, means nothing.
        """
        flat = phrases.clamp(min=0).flatten(1)[:, None].expand(-1, truth.shape[1], -1)
        alone = truth.gather(2, flat).unflatten(2, phrases.shape[1:])
        usual = (self.chance if self.usual is None else self.usual).double()[phrases]
        told = torch.where(self._unsure[phrases][:, None], _of_one_unit(alone, usual, present), alone)
        return told * present[..., None, None]


class Weighed(NamedTuple):
    """What exemplars say of captions."""

    worth: Float[Tensor, "neurons beams"]
    """How well they bear each out, from 0 to 4."""
    support: Float[Tensor, "neurons beams"]
    """The share of them of which its least true claim is true; NaN where a caption claims nothing, or no exemplar
    tells."""


def _of_one_unit(
    truth: Float[Tensor, "neurons k beams length"],
    usual: Float[Tensor, "neurons beams length"],
    present: Bool[Tensor, "neurons k"],
) -> Float[Tensor, "neurons k beams length"]:
    """How true phrases are of each exemplar, given that it is one of a unit's.

    If most of a unit's exemplars may well show text, text is what it looks for, and the likelier does each of them. The
    share of the exemplars of which a phrase is true is the one that makes what the probe thinks of them likeliest, by
    expectation and maximisation (Saerens et al., 2002: a classifier's outputs where classes are as common as they are
    here).
    """
    usual, truth = usual.clamp(_RAREST, 1 - _RAREST)[:, None], truth.clamp(_OPEN, 1 - _OPEN)
    against = (1 - truth) / truth * (usual / (1 - usual))
    against_here = against.masked_fill(~present[..., None, None], torch.inf)
    count = present.sum(1)[:, None, None, None] + _PRIOR
    prior, share = _PRIOR * usual, usual
    for _ in range(_STEPS):
        share = (_posterior(against_here, share).sum(1, keepdim=True) + prior) / count
    return _posterior(against, share)


def _posterior(against: Tensor, share: Tensor) -> Tensor:
    """By Bayes' rule from the odds against, where both were as likely, and the share of the true."""
    return (against * (share.reciprocal() - 1)).add_(1).reciprocal_()


def _one_of(truth: Float[Tensor, "neurons k beams length"], *, adds_up: bool) -> Float[Tensor, "neurons k beams"]:
    """How true it is of each exemplar that one of several phrases is."""
    return truth.sum(-1).clamp(max=1) if adds_up else truth.amax(-1)


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
        self.kinds = tuple(dict.fromkeys(phrase.kind for phrase in phrases))
        with torch.device("cpu"):  # also where a network's weights are yet to come: these follow from the phrases
            keys = torch.tensor([node * self._num_words + word for node, word in ways])
            order = keys.argsort()
            # One node more, behind all ways: no phrase goes on there.
            phrase_at = torch.full((len(ways) + 2,), -1)
            phrase_at[list(ends)] = torch.tensor(list(ends.values()))
            # One phrase more, for none: its number is −1.
            of_kind = torch.tensor([[phrase.kind == kind for phrase in phrases] + [False] for kind in self.kinds])
            self.register_buffer("_keys", keys[order], persistent=False)
            self.register_buffer("_next", torch.tensor(list(ways.values()))[order], persistent=False)
            self.register_buffer("_phrase_at", phrase_at, persistent=False)
            self.register_buffer("_of_kind", of_kind, persistent=False)

    def kinds_of(self, phrases: Int64[Tensor, "neurons beams length"]) -> Bool[Tensor, "neurons beams kinds length"]:
        """Of which of `kinds` each phrase is; none, −1, of none."""
        return self._of_kind[:, phrases].movedim(0, 2)

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
    places = torch.arange(found.shape[-1], device=found.device)
    starts, ends = torch.where(found >= 0, places, -1), places + lengths
    free, begins = torch.zeros_like(found[..., 0]), []
    for start, end in zip(starts.unbind(-1), ends.unbind(-1), strict=True):
        begins.append(start >= free)
        free = torch.where(begins[-1], end, free)
    return found.masked_fill(~torch.stack(begins, -1), -1)
