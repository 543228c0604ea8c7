"""Beam search over any step function.

A step function says how much each possible next word adds to a hypothesis' score. A hypothesis ends with its stop word
and stays in the beam with the score it has, so that longer ones have to beat it. The search is exact when the beam is
as wide as there are hypotheses.

Axes: N items (searched side by side, independent of each other), B beams, V words, T length; rows are N·B.
"""

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


_TOGETHER = 32
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
    check_every: int = 1,
    compact: int = 1,
) -> Hypotheses:
    """The best hypotheses of every item.

    The first step has one row an item, the later ones `beam_size`; an item's rows stand side by side. Equal scores are
    ordered by the better parent, then the smaller word number (on a CPU; elsewhere as `torch.topk` takes them).

    Args:
        step: scores every row's next word; see `Step`.
        start_state: with one row an item.
        config: what to look for.
        num_items: how many searches run side by side.
        reorder: rearranges a state; see `Reorder`.
        device: where the step function works.
        real: items that are not are filling, and leave the batch as soon as they can.
        check_every: look who has ended only after so many words; on an accelerator each look waits for it.
        compact: let items that are done leave the batch, so many of them at once; 0: every step has the same shape.
    """
    beams, items = _start(num_items, config, device, real), torch.arange(num_items, device=device)
    state, done = start_state, []
    for position in range(config.max_length):
        last = beams.words[..., position - 1] if position else torch.full_like(beams.words[..., 0], config.start)
        gains, parts, state = step(state, last.flatten())
        beams, rows = _extend(beams, gains, parts, position, config)
        looks = (position + 1) % check_every == 0
        if position + 1 == config.max_length or (looks and bool(beams.ended.all())):
            break
        kept = None
        if compact and looks and (split := _split(beams, compact)):
            kept, left = split
            done.append((items[left], beams.select(left)))
            items, beams, rows = items[kept], beams.select(kept), rows[kept]
        state = reorder(state, rows.flatten(), kept)
    return _gather([*done, (items, beams)])


def _start(num_items: int, config: SearchConfig, device: torch.device | str, real: Tensor | None) -> Hypotheses:
    """One empty hypothesis an item; that of filling has ended."""
    words = torch.full((num_items, 1, config.max_length), config.pad, device=device)
    ended = torch.zeros(num_items, 1, dtype=torch.bool, device=device) if real is None else ~real[:, None].to(device)
    return Hypotheses(words, torch.zeros(num_items, 1, device=device), (), ended)


def _extend(
    beams: Hypotheses,
    gains: Float[Tensor, "rows words"],
    parts: tuple[Tensor, ...],
    position: int,
    config: SearchConfig,
) -> tuple[Hypotheses, Int64[Tensor, "items beams"]]:
    """The best hypotheses with one word more, and the row that each came from."""
    (num_items, width), num_words = beams.scores.shape, gains.shape[1]
    gains_NBV = gains.view(num_items, width, num_words)
    for word in (*config.never, *([config.stop] if position < config.min_length else [])):
        gains_NBV[..., word] = -math.inf
    if config.connecting is not None:
        _rule_out(gains_NBV, beams.words, position, config.connecting, config)
    # The one way on for a hypothesis that has ended: padding, which adds nothing.
    others = gains_NBV[..., config.pad] if config.pad == config.stop else -math.inf
    gains_NBV[..., config.pad] = torch.where(beams.ended, 0.0, others)
    scores, chosen = _best(gains_NBV, beams, config)
    parents, word = chosen // num_words, chosen % num_words
    was_ended = beams.ended.gather(1, parents)
    words = beams.words.gather(1, parents[..., None].expand(-1, -1, config.max_length))
    words[..., position] = word
    before = beams.parts or tuple(torch.zeros_like(beams.scores) for _ in parts)
    sums = tuple(
        old.gather(1, parents) + new.view(num_items, -1).gather(1, chosen).masked_fill(was_ended, 0)
        for old, new in zip(before, parts, strict=True)
    )
    ended = was_ended | (word == config.stop) | scores.isneginf()
    first_row = torch.arange(0, num_items * width, width, device=parents.device)[:, None]
    return Hypotheses(words, scores, sums, ended), first_row + parents


def _rule_out(
    gains_NBV: Float[Tensor, "items beams words"],
    words: Int64[Tensor, "items beams length"],
    position: int,
    connecting: tuple[int, ...],
    config: SearchConfig,
) -> None:
    """Exclude what would say a word again, or end in a connecting one."""
    may_return = gains_NBV.new_zeros(gains_NBV.shape[2], dtype=torch.bool)
    may_return[list(connecting)] = True
    if position + 1 == config.max_length:  # what is cut here ends here
        gains_NBV.masked_fill_(may_return, -math.inf)
    if position:
        said, last = words[..., :position], words[..., position - 1]
        gains_NBV[..., config.stop].masked_fill_(may_return[last], -math.inf)
        # Padding stands for "nothing to exclude": what it may add is set afterwards.
        again = said.masked_fill(may_return[said], config.pad)
        again[..., -1] = last
        gains_NBV.scatter_(2, again, -math.inf)


def _best(
    gains_NBV: Float[Tensor, "items beams words"], beams: Hypotheses, config: SearchConfig
) -> tuple[Float[Tensor, "items best"], Int64[Tensor, "items best"]]:
    """The highest candidates and their numbers, best first, equal ones by number; filled with minus infinity.

    The vocabulary is read once: the highest of every `_TOGETHER` words; what is among the best of all stands behind one
    of the best of these.
    """
    num_words = gains_NBV.shape[2]
    highest_NBC = _highest(gains_NBV)
    num_groups = highest_NBC.shape[2]
    only_pad = torch.arange(num_groups, device=gains_NBV.device) != config.pad % num_groups
    highest_NBC = highest_NBC.masked_fill(beams.ended[..., None] & only_pad, -math.inf)
    highest_NBC = torch.where(beams.ended[..., None] & ~only_pad, 0.0, highest_NBC) + beams.scores[..., None]
    width = min(config.beam_size, gains_NBV[0].numel())
    groups = highest_NBC.flatten(1).topk(min(width + 1, highest_NBC[0].numel()), sorted=False).indices
    parents = groups // num_groups
    in_group = torch.arange(0, num_words, num_groups, device=gains_NBV.device)
    words_NGT = (groups % num_groups)[..., None] + in_group
    numbers = (parents[..., None] * num_words + words_NGT.clamp(max=num_words - 1)).flatten(1)
    gone = (words_NGT >= num_words) | (beams.ended.gather(1, parents)[..., None] & (words_NGT != config.pad))
    gains = gains_NBV.flatten(1).gather(1, numbers).masked_fill(gone.flatten(1), -math.inf)
    candidates = (gains.view(words_NGT.shape) + beams.scores.gather(1, parents)[..., None]).flatten(1)
    scores, chosen = candidates.topk(min(width + 1, candidates.shape[1]))
    chosen = numbers.gather(1, chosen)
    if gains_NBV.device.type == "cpu":
        # topk takes any of equal candidates. Look only where one was left out; elsewhere looking would cost a wait.
        tied = (scores[:, width - 1] == scores[:, -1]) & scores[:, -1].isfinite()
        for item in tied.nonzero().flatten().tolist() if scores.shape[1] > width else ():
            chosen[item] = _all_candidates(gains_NBV[item], beams, item, config.pad)[: width + 1]
    scores, chosen = scores[:, :width], chosen[:, :width]
    by_number = chosen.argsort(dim=1)
    scores, order = scores.gather(1, by_number).sort(dim=1, descending=True, stable=True)
    chosen = chosen.gather(1, by_number).gather(1, order)
    missing = (0, config.beam_size - width)
    return torch.nn.functional.pad(scores, missing, value=-math.inf), torch.nn.functional.pad(chosen, missing)


def _highest(gains_NBV: Float[Tensor, "items beams words"]) -> Float[Tensor, "items beams groups"]:
    """The highest gain of every group of words. Group g holds the words g, g + G, g + 2 G, … of G groups."""
    num_words = gains_NBV.shape[2]
    num_groups = -(-num_words // _TOGETHER)
    full = num_words // num_groups * num_groups
    highest = gains_NBV[..., :full].unflatten(2, (-1, num_groups)).amax(2)
    rest = gains_NBV[..., full:]
    torch.maximum(highest[..., : rest.shape[2]], rest, out=highest[..., : rest.shape[2]])
    return highest


def _all_candidates(gains_BV: Tensor, beams: Hypotheses, item: int, pad: int) -> Int64[Tensor, " candidates"]:
    """The numbers of one item's candidates, best first, equal ones by number."""
    scores_BV = gains_BV + beams.scores[item].masked_fill(beams.ended[item], -math.inf)[:, None]
    scores_BV[:, pad] = beams.scores[item].masked_fill(~beams.ended[item], -math.inf)
    return scores_BV.flatten().sort(descending=True, stable=True).indices


def _split(beams: Hypotheses, multiple: int) -> tuple[Int64[Tensor, " kept"], Int64[Tensor, " left"]] | None:
    """Which items go on, and which leave because all of their beams have ended; None if nobody can leave."""
    done = beams.ended.all(dim=1)
    num_kept = max(int((~done).sum()), math.ceil(MIN_ROWS / beams.ended.shape[1]))
    num_kept = -(-num_kept // multiple) * multiple
    if num_kept >= len(done):
        return None
    order = done.to(torch.int8).argsort(stable=True)
    return order[:num_kept].sort().values, order[num_kept:]


def _gather(groups: list[tuple[Int64[Tensor, " _"], Hypotheses]]) -> Hypotheses:
    """All items in their order again."""
    order = torch.cat([items for items, _ in groups]).argsort()
    beams = [each for _, each in groups]
    parts = tuple(torch.cat(part) for part in zip(*(each.parts for each in beams), strict=True))
    words, scores, ended = (torch.cat([getattr(each, name) for each in beams]) for name in ("words", "scores", "ended"))
    return Hypotheses(words, scores, parts, ended).select(order)
