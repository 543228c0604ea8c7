"""Captions that keep to what was taught: every few words in a row are some of a training description.

A captioner puts together what it learned word by word: from "drilling platforms" and "ships and other vehicles" it
makes "drilling platforms and other vehicles". Here it knows which words may follow the last ones, start and stop
counted, and the search leaves out all others.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from mami_core.captions.beam import Reorder, Step
from mami_core.captions.vocabulary import START, STOP, UNKNOWN, Vocabulary
from mami_core.captions.ways import followed
from mami_core.errors import ConfigError
from mami_core.tokenizers import tokenize

State = TypeVar("State")

IN_A_ROW = 4
"""Words, the start and the stop word counted. With three, things are still put together that nobody would name in one
breath: "clothes such as toilet seats" (docs/captions.md)."""


class Taught(nn.Module):
    """The sequences of words that training held, as the ways on from each beginning of a sequence (a node).

    It has no weights: `sequences` is what restores it. All tensors move with the captioner that holds it.
    """

    sequences: Tensor
    _keys: Tensor
    _next: Tensor
    _first: Tensor
    _count: Tensor

    def __init__(self, sequences: Int64[Tensor, "sequences in_a_row"], num_words: int) -> None:
        """From distinct, sorted sequences over a vocabulary of so many numbers; before a first word stand start words.

        Raises:
            ConfigError: if they are not such sequences.
        """
        super().__init__()
        _check(sequences, num_words)
        self.num_words = num_words
        before, after = sequences[:, :-1], sequences[:, 1:]
        goes_on = after[:, -1] != STOP
        nodes, numbers = torch.cat([before, after[goes_on]]).unique(dim=0, return_inverse=True)
        node, following = numbers[: len(before)], torch.full((len(before),), len(nodes))
        following[goes_on] = numbers[len(before) :]
        self._start, self._ended = int((nodes == START).all(1).nonzero()[0]), len(nodes)
        count = node.bincount(minlength=len(nodes) + 1)  # behind a stop word there is one more node, with no way on
        self.register_buffer("sequences", sequences, persistent=False)
        self.register_buffer("_keys", node * num_words + after[:, -1], persistent=False)
        self.register_buffer("_next", following, persistent=False)
        self.register_buffer("_first", count.cumsum(0) - count, persistent=False)
        self.register_buffer("_count", count, persistent=False)

    @classmethod
    def by(cls, descriptions: Iterable[str], vocabulary: Vocabulary, *, in_a_row: int = IN_A_ROW) -> "Taught | None":
        """What these descriptions teach in the words of a vocabulary; None if none of them can be said to its end."""
        found: set[tuple[int, ...]] = set()
        for text in set(descriptions):
            words = vocabulary.encode(text, len(tokenize(text, vocabulary.tokenizer)) + 1)
            words = [START] * (in_a_row - 1) + words
            found.update(tuple(words[at : at + in_a_row]) for at in range(len(words) - in_a_row + 1))
        found = _that_can_be_said(found)
        return cls(torch.tensor(sorted(found)), len(vocabulary)) if found else None

    def kept_to(
        self, step: Step[State], start: State, reorder: Reorder[State], *, num_items: int, by_bits: bool = False
    ) -> tuple[Step[tuple[State, Tensor]], tuple[State, Tensor], Reorder[tuple[State, Tensor]]]:
        """A search's step, first state and reordering, such that no hypothesis leaves what was taught.

        `by_bits` goes through all words of every hypothesis. Without, a CPU is faster, but an accelerator would be
        waited for, to know how many ways lead on.
        """
        kept = partial(self._kept_by, self._bits()) if by_bits else self._kept

        def keeping(states: tuple[State, Tensor], words: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple]:
            gains, parts, state = step(states[0], words)
            nodes = torch.where(words == START, states[1], self._after(states[1], words))
            return kept(gains, nodes), parts, (state, nodes)

        def reordering(states: tuple[State, Tensor], rows: Tensor, items: Tensor | None) -> tuple[State, Tensor]:
            return reorder(states[0], rows, items), states[1][rows]

        nodes = torch.full((num_items,), self._start, device=self._keys.device)
        return keeping, (start, nodes), reordering

    def _after(self, nodes: Int64[Tensor, " rows"], words: Int64[Tensor, " rows"]) -> Int64[Tensor, " rows"]:
        return followed(self._keys, self._next, nodes * self.num_words + words, otherwise=self._ended)

    def _kept(self, gains: Float[Tensor, "rows words"], nodes: Int64[Tensor, " rows"]) -> Float[Tensor, "rows words"]:
        """The gains of the words that lead on; minus infinity for all others."""
        count, first = self._count[nodes], self._first[nodes]
        rows = torch.arange(len(nodes), device=nodes.device).repeat_interleave(count)
        earlier = count.cumsum(0) - count
        ways = torch.arange(len(rows), device=nodes.device) + (first - earlier)[rows]
        words = self.sequences[ways, -1]
        return torch.full_like(gains, -math.inf).index_put_((rows, words), gains[rows, words])

    def _bits(self) -> UInt8[Tensor, "nodes bytes"]:
        """Of each node a bit a word, the first of a byte the lowest: whether it leads on."""
        nodes, words = self._keys // self.num_words, self._keys % self.num_words
        found = torch.zeros(len(self._count), -(-self.num_words // 8), dtype=torch.uint8, device=nodes.device)
        return found.index_put_((nodes, words // 8), (1 << words % 8).to(torch.uint8), accumulate=True)

    def _kept_by(
        self, lead_on: UInt8[Tensor, "nodes bytes"], gains: Float[Tensor, "rows words"], nodes: Int64[Tensor, " rows"]
    ) -> Float[Tensor, "rows words"]:
        """`_kept` by `_bits`, in place."""
        bits = torch.arange(8, dtype=torch.uint8, device=nodes.device)
        leads_on = (lead_on[nodes][..., None] >> bits & 1).flatten(1)[:, : self.num_words]
        return gains.masked_fill_(leads_on == 0, -math.inf)


def _that_can_be_said(sequences: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Those without unknown words from which others lead on to a stop word."""
    left = {words for words in sequences if UNKNOWN not in words}
    while True:
        beginnings = {words[:-1] for words in left}
        dead = {words for words in left if words[-1] != STOP and words[1:] not in beginnings}
        if not dead:
            return left
        left -= dead


def _check(sequences: Tensor, num_words: int) -> None:
    if sequences.ndim != 2 or sequences.shape[1] < 2 or not len(sequences):
        raise ConfigError(f"Taught sequences are a table of 2 words or more a row, not {tuple(sequences.shape)}.")
    if not 0 <= int(sequences.min()) <= int(sequences.max()) < num_words:
        raise ConfigError(f"Taught sequences hold words of a vocabulary of {num_words}, and others were found.")
    if not torch.equal(sequences.unique(dim=0), sequences) or not (sequences[:, :-1] == START).all(1).any():
        raise ConfigError("Taught sequences are sorted, each comes once, and some begin a description; these do not.")
