"""The scores table → text that a person reads."""

from itertools import groupby

import pyarrow as pa

_WIDTH = 46
_FEW_NEURONS = 100
"""In a smaller group, the one that smoothing adds to the n-gram counts is a good part of BLEU."""
_MANY_LAYERS = 12
"""With more layers than this, the summary leaves them to the table."""


def summary(scores: pa.Table) -> str:
    """What `scores` (`contracts.SCORES`) says, group by group, the captions first and their baselines below."""
    rows = scores.to_pylist()
    groups = [list(group) for _, group in groupby(rows, key=lambda row: (row["grouping"], row["group"]))]
    num_layers = sum(group[0]["grouping"] == "layer" for group in groups)
    shown = [group for group in groups if group[0]["grouping"] != "layer" or num_layers <= _MANY_LAYERS]
    hidden = [] if len(shown) == len(groups) else [f"The {num_layers} layers one by one are in the table."]
    return "\n\n".join([_head(rows[0]), *map(_group, shown), *hidden, _legend(rows)]) + "\n"


def _head(row: dict) -> str:
    about = [f"subject {row['subject']}"] if row["subject"] else []
    about += [f"captioner {row['captioner']}"] if row["captioner"] else []
    return f"Captions against people's descriptions{': ' if about else ''}{', '.join(about)}"


def _group(rows: list[dict]) -> str:
    title = {"all": "All neurons", "length": "Descriptions of {}", "layer": "Layer {}"}[rows[0]["grouping"]]
    columns = ["texts", "differ", "BLEU", "nltk", "sacre", "ROUGE-L"]
    columns += ["P", "R", "F1"] if rows[0]["bertscore_model"] else []
    number = rows[0]["num_neurons"]
    heading = f"{title.format(rows[0]['group'])} ({number:,} neuron{'s' if number > 1 else ''})"
    return "\n".join([f"{heading:<{_WIDTH}}" + "".join(map(_cell, columns)), *map(_line, rows)])


def _line(row: dict) -> str:
    name = row["source"] if row["text"] is None else f'constant "{row["text"]}"'
    name = name if len(name) <= _WIDTH - 3 else name[: _WIDTH - 5] + '…"'
    numbers = [f"{row['num_texts']:,}", f"{row['num_distinct']:,}"]
    numbers += ["–" if row[bleu] is None else f"{row[bleu]:.2f}" for bleu in ("bleu", "bleu_nltk", "sacrebleu")]
    numbers += [f"{row['rouge_l']:.4f}"]
    if row["bertscore_model"] is not None:
        numbers += [f"{row[f'bertscore_{column}']:.4f}" for column in ("precision", "recall", "f1")]
    return f"  {name:<{_WIDTH - 2}}" + "".join(map(_cell, numbers))


def _cell(text: str) -> str:
    """One column of nine: with them a line fits into 120 characters."""
    return f"{text:>8}"


def _legend(rows: list[dict]) -> str:
    model, sources = rows[0]["bertscore_model"], {row["source"] for row in rows}
    lines = ["BLEU: corpus BLEU-4 of nltk, 0 to 100, smoothing method 2, against all descriptions of a neuron."]
    lines += ["nltk: as MAMI's paper prints it, over spaCy's words, punctuation included, and without smoothing."]
    if any(row["bleu_nltk"] is None for row in rows):
        lines += ["    It needs spaCy: pip install 'mami[milan]'."]
    lines += [f"sacre: sacreBLEU, {rows[0]['sacrebleu_signature']}."]
    lines += ["ROUGE-L: words in common in the same order, 0 to 1, against the closest description of a neuron."]
    if model:
        lines += [f"P, R, F1: BERTScore, raw, with {model}; it compares with no other network's."]
    lines += ["constant: one description of the training neurons said of every neuron, the best of all by BLEU."]
    if model:
        lines += ["    Where another is better by F1, that one stands beside it."]
    if "shuffled" in sources:
        lines += ["shuffled: every caption held against another neuron's descriptions."]
    if "people" in sources:
        lines += ["people: each person against the others; captions like people: the captions against the same others."]
    if any(row["num_neurons"] < _FEW_NEURONS for row in rows):
        lines += [f"In groups of fewer than {_FEW_NEURONS} neurons, BLEU is in good part its smoothing."]
    return "\n".join(lines)
