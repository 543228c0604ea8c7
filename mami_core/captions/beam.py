"""Beam search over any step function.

A step function says how much each possible next word adds to a hypothesis' score. A hypothesis ends with its stop word
and stays in the beam with the score it has, so that longer ones have to beat it. The search is exact when the beam is
as wide as there are hypotheses. What has ended is not stepped any more: of short captions two thirds of the hypotheses,
of which most leave the batch.

Axes: N items (searched side by side, independent of each other), B beams, C of them that are stepped (those that go on,
and some that have ended), V words, T length; rows are N·C.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.errors import ConfigError

State = TypeVar("State")

Step = Callable[[State, Int64[Tensor, " rows"]], tuple[Float[Tensor, "rows words"], tuple[Tensor, ...], State]]
"""(state, last words) → (what every next word adds to the score, further numbers to add up the same way, new state).

The search writes into the first of them."""

Reorder = Callable[[State, Int64[Tensor, " rows"], Int64[Tensor, " kept"] | None], State]
"""(state, rows, items) → the state whose row r is the old row rows[r]; with items, only those items are left."""

MIN_ROWS = 64
"""Items that are done leave the batch only while so many rows remain: with few rows, matrix products take other paths,
and a row's bits would depend on how many neighbours it has."""
_FEWEST, _TOGETHER = 16, 8
"""So many hypotheses of each item are stepped at least, for the same reason, and a multiple of so many."""
_GROUP = 32
"""Words of which the highest is looked at first."""


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The beams of some items, best first."""

    words: Int64[Tensor, "items beams length"]
    """The words with their stop word, then padding."""
    scores: Float[Tensor, "items beams"]
    """Minus infinity where there are fewer hypotheses than beams."""
    parts: tuple[Float[Tensor, "items beams"], ...]
    """The sums of the step function's further numbers."""
    ended: Bool[Tensor, "items beams"]

    def select(self, items: Int64[Tensor, " kept"]) -> "Hypotheses":
        """The hypotheses of these items alone."""
        parts = tuple(part[items] for part in self.parts)
        return Hypotheses(self.words[items], self.scores[items], parts, self.ended[items])


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What a search looks for."""

    beam_size: int
    max_length: int
    """The most words, the stop word counted; a hypothesis without one by then is cut and keeps its score."""
    start: int
    stop: int
    pad: int
    """Fills what follows the stop word; never a next word, unless it is the stop word itself."""
    never: tuple[int, ...] = ()
    """Words that are never said."""
    min_length: int = 0
    """Words before the stop word may come."""
    connecting: tuple[int, ...] | None = None
    """Words that may come again, though not at once, and never end a hypothesis; any other word comes once. None: every
    word may come anywhere."""

    def __post_init__(self) -> None:
        if self.beam_size < 1 or self.max_length < 1:
            raise ConfigError(f"A beam and its words must be at least 1, not {self.beam_size} and {self.max_length}.")
        if not 0 <= self.min_length < self.max_length:
            raise ConfigError(f"min_length must be from 0 to below {self.max_length}, not {self.min_length}.")


def search(
    step: Step[State],
    start_state: State,
    config: SearchConfig,
    *,
    num_items: int,
    reorder: Reorder[State],
    device: torch.device | str = "cpu",
    real: Bool[Tensor, " items"] | None = None,
    compact: int = 1,
) -> Hypotheses:
    """The best hypotheses of every item.

    The first step has one row an item, each later one as many as the item of the batch with the most hypotheses that
    go on, rounded up (`_going`); an item's rows stand side by side. Equal scores are ordered by the better parent, then
    the smaller word number (on a CPU; elsewhere as `torch.topk` takes them). An accelerator is waited for once a word.

    Args:
        step: scores every row's next word; see `Step`.
        start_state: with one row an item.
        config: what to look for.
        num_items: how many searches run side by side.
        reorder: rearranges a state; see `Reorder`.
        device: where the step function works.
        real: items that are not are filling, and leave the batch as soon as they can.
        compact: let items that are done leave the batch, so many of them at once; 0: every step has the same shape.
    """
    beams, items = _start(num_items, config, device, real), torch.arange(num_items, device=device)
    state, done, going = start_state, [], torch.zeros_like(beams.words[..., 0])
    for position in range(config.max_length):
        last = beams.words[..., position - 1].gather(1, going) if position else torch.full_like(going, config.start)
        gains, parts, state = step(state, last.flatten())
        beams, rows = _extend(beams, going, gains, parts, position, config)
        if position + 1 == config.max_length:
            break
        counts = (~beams.ended).sum(1).tolist()
        if not any(counts):
            break
        kept = None
        if compact and (split := _split(beams, len(counts) - counts.count(0), compact)):
            kept, left = split
            done.append((items[left], beams.select(left)))
            items, beams, rows = items[kept], beams.select(kept), rows[kept]
        going = _going(beams, max(counts) if compact else config.beam_size)
        state = reorder(state, rows.gather(1, going).flatten(), kept)
    return _gather([*done, (items, beams)])


def _start(num_items: int, config: SearchConfig, device: torch.device | str, real: Tensor | None) -> Hypotheses:
    """One empty hypothesis an item; that of filling has ended."""
    words = torch.full((num_items, 1, config.max_length), config.pad, device=device)
    ended = torch.zeros(num_items, 1, dtype=torch.bool, device=device) if real is None else ~real[:, None].to(device)
    return Hypotheses(words, torch.zeros(num_items, 1, device=device), (), ended)


def _going(beams: Hypotheses, most: int) -> Int64[Tensor, "items going"]:
    """Which hypotheses of each item are stepped: those that go on, in their order, and some that have ended."""
    num_items, width = beams.ended.shape
    least = max(_FEWEST, math.ceil(MIN_ROWS / num_items))
    count = min(width, max(least, -(-most // _TOGETHER) * _TOGETHER))
    if count == width:
        return _every(1, width, beams.ended.device).expand(num_items, -1)
    return beams.ended.to(torch.int8).argsort(dim=1, stable=True)[:, :count]


def _extend(
    beams: Hypotheses,
    going: Int64[Tensor, "items going"],
    gains: Float[Tensor, "rows words"],
    parts: tuple[Tensor, ...],
    position: int,
    config: SearchConfig,
) -> tuple[Hypotheses, Int64[Tensor, "items beams"]]:
    """The best hypotheses with one word more, and the row that each came from (any, for those that had ended)."""
    (num_items, num_going), num_words = going.shape, gains.shape[1]
    gains_NCV = gains.view(num_items, num_going, num_words)
    for word in (*config.never, *([config.stop] if position < config.min_length else [])):
        gains_NCV[..., word] = -math.inf
    if config.pad != config.stop:
        gains_NCV[..., config.pad] = -math.inf
    if config.connecting is not None:
        said = beams.words.gather(1, going[..., None].expand(-1, -1, config.max_length))
        _rule_out(gains_NCV, said, position, config.connecting, config)
    scores, parents, word = _best(gains_NCV, going, beams, config)
    was_ended = beams.ended.gather(1, parents)
    words = beams.words.gather(1, parents[..., None].expand(-1, -1, config.max_length))
    words[..., position] = word
    columns = _every(1, num_going, going.device).expand_as(going)
    column = torch.zeros_like(beams.words[..., 0]).scatter_(1, going, columns).gather(1, parents)
    before = beams.parts or tuple(torch.zeros_like(beams.scores) for _ in parts)
    at = column * num_words + word
    sums = tuple(
        old.gather(1, parents) + new.view(num_items, -1).gather(1, at).masked_fill(was_ended, 0)
        for old, new in zip(before, parts, strict=True)
    )
    ended = was_ended | (word == config.stop) | scores.isneginf()
    first_row = _every(num_going, num_items * num_going, going.device)
    return Hypotheses(words, scores, sums, ended), first_row[:, None] + column


def _rule_out(
    gains_NCV: Float[Tensor, "items going words"],
    words: Int64[Tensor, "items going length"],
    position: int,
    connecting: tuple[int, ...],
    config: SearchConfig,
) -> None:
    """Exclude what would say a word again, or end in a connecting one. For searches whose padding is no stop word."""
    may_return = _among(connecting, gains_NCV.shape[2], gains_NCV.device)
    if position + 1 == config.max_length:  # what is cut here ends here
        gains_NCV.masked_fill_(may_return, -math.inf)
    if position:
        said, last = words[..., :position], words[..., position - 1]
        gains_NCV[..., config.stop].masked_fill_(may_return[last], -math.inf)
        # Padding stands for "nothing to exclude": it is no way on anyhow.
        again = said.masked_fill(may_return[said], config.pad)
        again[..., -1] = last
        gains_NCV.scatter_(2, again, -math.inf)


@functools.lru_cache(maxsize=8)
def _among(words: tuple[int, ...], num_words: int, device: torch.device) -> Bool[Tensor, " {num_words}"]:
    """Whether each word is one of these: made once, for numbers that go to an accelerator are waited for."""
    found = torch.zeros(num_words, dtype=torch.bool)
    found[list(words)] = True
    return found.to(device)


@functools.lru_cache(maxsize=64)
def _every(step: int, end: int, device: torch.device, *, first: int = 0) -> Int64[Tensor, " numbers"]:
    """Numbers so far apart: made once, for each time would be an operation more."""
    return torch.arange(first, end, step, device=device)


def _best(
    gains_NCV: Float[Tensor, "items going words"],
    going: Int64[Tensor, "items going"],
    beams: Hypotheses,
    config: SearchConfig,
) -> tuple[Float[Tensor, "items best"], Int64[Tensor, "items best"], Int64[Tensor, "items best"]]:
    """The highest candidates, best first, equal ones in their order: scores, parents and words.

    There are as many as beams; where fewer can be, others have a score of minus infinity. A hypothesis that has ended
    has one way on, padding, which adds nothing. The vocabulary is read once: the highest of every `_GROUP` words; what
    is among the best of all stands behind one of the best of these.
    """
    num_words, width = gains_NCV.shape[2], config.beam_size
    scores_NC = beams.scores.masked_fill(beams.ended, -math.inf).gather(1, going)
    highest_NCG = _highest(gains_NCV) + scores_NC[..., None]
    num_groups = highest_NCG.shape[2]
    groups = highest_NCG.flatten(1).topk(min(width + 1, highest_NCG[0].numel()), sorted=False).indices
    column = groups // num_groups
    words_NMT = (groups % num_groups)[..., None] + _every(num_groups, num_words, groups.device)
    beyond, words_NMT = words_NMT >= num_words, words_NMT.clamp(max=num_words - 1)
    at = column[..., None] * num_words + words_NMT
    gains = gains_NCV.flatten(1).gather(1, at.flatten(1)).view(words_NMT.shape).masked_fill(beyond, -math.inf)
    candidates = (gains + scores_NC.gather(1, column)[..., None]).flatten(1)
    numbers = (going.gather(1, column)[..., None] * num_words + words_NMT).flatten(1)
    ended = beams.scores.masked_fill(~beams.ended, -math.inf)
    padded = _every(num_words, ended.shape[1] * num_words, ended.device, first=config.pad)
    candidates = torch.cat([candidates, ended], 1)
    numbers = torch.cat([numbers, padded.expand_as(ended)], 1)
    if (missing := width + 1 - candidates.shape[1]) > 0:
        candidates = torch.nn.functional.pad(candidates, (0, missing), value=-math.inf)
        numbers = torch.nn.functional.pad(numbers, (0, missing))
    scores, chosen = candidates.topk(width + 1)
    chosen = numbers.gather(1, chosen)
    for item in _ties(scores, width):
        chosen[item] = _all_numbers(gains_NCV[item], scores_NC[item], going[item], ended[item], padded)[: width + 1]
    scores, chosen = scores[:, :width], chosen[:, :width]
    by_number = chosen.argsort(dim=1)
    scores, order = scores.gather(1, by_number).sort(dim=1, descending=True, stable=True)
    chosen = chosen.gather(1, by_number).gather(1, order)
    return scores, chosen // num_words, chosen % num_words


def _ties(scores: Float[Tensor, "items more"], width: int) -> list[int]:
    """The items of which topk took some of several equal candidates, any of them, and left one out.

    Only a CPU looks; elsewhere looking would cost a wait.
    """
    if scores.device.type != "cpu":
        return []
    return ((scores[:, width - 1] == scores[:, -1]) & scores[:, -1].isfinite()).nonzero().flatten().tolist()


def _highest(gains_NCV: Float[Tensor, "items going words"]) -> Float[Tensor, "items going groups"]:
    """The highest gain of every group of words. Group g holds the words g, g + G, g + 2 G, … of G groups."""
    num_words = gains_NCV.shape[2]
    num_groups = -(-num_words // _GROUP)
    full = num_words // num_groups * num_groups
    highest = gains_NCV[..., :full].unflatten(2, (-1, num_groups)).amax(2)
    rest = gains_NCV[..., full:]
    torch.maximum(highest[..., : rest.shape[2]], rest, out=highest[..., : rest.shape[2]])
    return highest


def _all_numbers(
    gains_CV: Float[Tensor, "going words"],
    scores_C: Float[Tensor, " going"],
    going: Int64[Tensor, " going"],
    ended: Float[Tensor, " beams"],
    padded: Int64[Tensor, " beams"],
) -> Int64[Tensor, " candidates"]:
    """The numbers of one item's candidates, best first, equal ones by number."""
    num_words = gains_CV.shape[1]
    numbers = torch.cat([(going[:, None] * num_words + torch.arange(num_words)).flatten(), padded])
    scores = torch.cat([(gains_CV + scores_C[:, None]).flatten(), ended])
    by_number = numbers.argsort(stable=True)
    return numbers[by_number][scores[by_number].sort(descending=True, stable=True).indices]


def _split(
    beams: Hypotheses, num_going: int, multiple: int
) -> tuple[Int64[Tensor, " kept"], Int64[Tensor, " left"]] | None:
    """Which items stay, and which leave because all of their beams have ended; None if nobody can leave."""
    num_kept = max(num_going, math.ceil(MIN_ROWS / beams.ended.shape[1]))
    num_kept = -(-num_kept // multiple) * multiple
    if num_kept >= len(beams.ended):
        return None
    order = beams.ended.all(dim=1).to(torch.int8).argsort(stable=True)
    return order[:num_kept].sort().values, order[num_kept:]


def _gather(groups: list[tuple[Int64[Tensor, " _"], Hypotheses]]) -> Hypotheses:
    """All items in their order again."""
    order = torch.cat([items for items, _ in groups]).argsort()
    beams = [each for _, each in groups]
    parts = tuple(torch.cat(part) for part in zip(*(each.parts for each in beams), strict=True))
    words, scores, ended = (torch.cat([getattr(each, name) for each in beams]) for name in ("words", "scores", "ended"))
    return Hypotheses(words, scores, parts, ended).select(order)
