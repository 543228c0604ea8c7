"""Says which labels differ between two runs, and how far they agree, beside neurons that have nothing in common.

python -m jobs.compare A B --output COMPARISON

Writes `comparison.csv`, a row a neuron, and `comparison.html`, the layers and what changed most. `mami report A B`
shows the neurons themselves side by side.
"""

import html
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import tyro

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned, reading
from jobs.storage import redact, storage_for
from jobs.storage.places import settle
from mami_core.captions.vocabulary import tokenize
from mami_core.errors import ConfigError
from mami_core.labels import read

_MOST_CHANGED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareJob:
    """Compare the labels of two runs: which neurons changed, and by layer how far the captions agree."""

    ADDRESSES: ClassVar = ("first", "second", "output")

    first: tyro.conf.Positional[str]
    """A run's folder, local or s3://."""
    second: tyro.conf.Positional[str]
    """Another's. Neurons are the same where subject, layer and unit are; of runs of one network each, its name does not
    matter."""
    output: str | None = None
    """Where to write comparison.csv and comparison.html; by default they are not written."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: CompareJob) -> int:
    """Print agreement by layer; write the rest where --output says."""
    pairs = compared(job.first, job.second)
    layers = by_layer(pairs)
    changed, alone = int((~pairs["same"]).sum()), [pairs.attrs[name] for name in ("only_a", "only_b")]
    runtime.show(
        f"A: {redact(job.first)}\nB: {redact(job.second)}\n\n{len(pairs):,} neurons are in both, {changed:,} changed; "
        f"{alone[0]:,} are in A alone, {alone[1]:,} in B alone.\n"
    )
    runtime.show(layers.to_string(float_format=lambda value: f"{value:.3f}"))
    runtime.show(
        "\nagreement: words that both captions have, twice, by the words of both; shuffled: with another neuron's. "
        "Scores of two captioners do not compare."
    )
    if job.output:
        storage = storage_for(job.output)
        storage.write("comparison.csv", pairs.to_csv(index=False).encode())
        storage.write("comparison.html", _page(job, pairs, layers).encode())
        runtime.show(
            f"\nEvery neuron: {redact(storage.url)}/comparison.csv, the page: {redact(storage.url)}/comparison.html"
        )
    return runtime.COMPLETE


def plan(job: CompareJob) -> str:
    """What `run` would do."""
    steps = [reading(name, storage_for(path), "labels") for name, path in (("A", job.first), ("B", job.second))]
    read_bytes = sum(step.bytes_read or 0 for step in steps)
    if job.output:
        steps.append(Step(name="comparison.csv, .html", items=2, bytes_written=read_bytes / 4))
    line = f"Comparing the labels of {redact(job.first)} (A) and {redact(job.second)} (B)"
    return planned(line, steps, into=job.output)


def compared(first: str, second: str) -> pd.DataFrame:
    """A row a neuron that is in both runs: both captions and scores, and how far they agree.

    `attrs` says how many neurons are in one alone: `only_a`, `only_b`.

    Raises:
        ConfigError: no neuron is in both.
    """
    columns = ["subject", "layer", "unit", "caption", "score"]
    one, other = (read(path, columns=columns) for path in (first, second))
    keys = ["subject", "layer", "unit"]
    if one["subject"].nunique() == other["subject"].nunique() == 1:
        other["subject"] = one["subject"].iloc[0]
    pairs = one.merge(other, on=keys, suffixes=("_a", "_b"))
    if pairs.empty:
        raise ConfigError("The runs have no neuron in common. Expected the same subject, layers and units in both.")
    pairs.attrs |= {"only_a": len(one) - len(pairs), "only_b": len(other) - len(pairs)}
    captions = [pairs[name].fillna("") for name in ("caption_a", "caption_b")]
    pairs["same"] = captions[0] == captions[1]
    pairs["agreement"] = [agreement(*each) for each in zip(*captions, strict=True)]
    # Half a layer further: a neuron that has nothing to do with this one, but for the layer.
    shuffled = captions[1].groupby([pairs["subject"], pairs["layer"]]).transform(_turned)
    pairs["shuffled"] = [agreement(*each) for each in zip(captions[0], shuffled, strict=True)]
    return pairs


def _turned(captions: pd.Series) -> pd.Series:
    half = (len(captions) + 1) // 2
    return pd.concat([captions.iloc[half:], captions.iloc[:half]]).set_axis(captions.index)


def agreement(one: str, other: str) -> float:
    """The F1 of the words of two captions: 1 for the same words, 0 for none in common."""
    first, second = set(tokenize(one)), set(tokenize(other))
    if not first and not second:
        return 1.0
    return 2 * len(first & second) / (len(first) + len(second))


def by_layer(pairs: pd.DataFrame) -> pd.DataFrame:
    """For each layer: neurons, share with the same caption, agreement, that of shuffled neurons, mean scores."""
    groups = pairs.groupby(["subject", "layer"], sort=False)
    means = groups[["same", "agreement", "shuffled", "score_a", "score_b"]].mean().astype(float)
    means.insert(0, "neurons", groups.size())
    return means.loc[sorted(means.index, key=_as_people_count)]


def _as_people_count(names: Sequence[str]) -> list[list[tuple[bool, int, str]]]:
    """Layer 2 before layer 10."""
    parts = [re.split(r"(\d+)", name) for name in names]
    return [[(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in each] for each in parts]


def _page(job: CompareJob, pairs: pd.DataFrame, layers: pd.DataFrame) -> str:
    """A page without scripts; whatever the captions hold stays text."""
    differing = pairs[~pairs["same"]]
    shown = differing.sort_values(["agreement", "layer", "unit"]).head(_MOST_CHANGED)
    columns = ["layer", "unit", "caption_a", "caption_b", "agreement", "score_a", "score_b"]
    of_layers = layers.reset_index().drop(columns="subject" if pairs["subject"].nunique() == 1 else [])
    more = f" The {_MOST_CHANGED} that agree least:" if len(differing) > len(shown) else ""
    return _PAGE.format(
        first=html.escape(redact(job.first)),
        second=html.escape(redact(job.second)),
        layers=_table(of_layers),
        said=f"{len(differing):,} of {len(pairs):,} neurons have another caption.{more}",
        changed=_table(shown[columns]),
    )


_HEADS = {
    "caption_a": "A says",
    "caption_b": "B says",
    "score_a": "score in A",
    "score_b": "score in B",
    "same": "same caption",
}


def _table(frame: pd.DataFrame) -> str:
    """Its rows as HTML: texts left, numbers right."""
    heads = "".join(f"<th>{html.escape(_HEADS.get(name, name))}</th>" for name in frame.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in frame.itertuples(index=False))
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    if pd.isna(value):  # type: ignore[arg-type]
        return "<td>–</td>"
    text = f"{value:.3f}" if isinstance(value, float | np.floating) else f"{value:,}"
    return f'<td class="n">{text.replace("-", "−")}</td>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Two runs compared</title>
<style>:root {{ color-scheme: light dark; font: 16px/1.45 system-ui, sans-serif;
background: light-dark(#f6f5f2, #15171a); color: light-dark(#1c1e21, #e9e7e2) }}
body {{ max-width: 1100px; margin: 0 auto; padding: 20px }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.1rem; margin-top: 28px }}
dl {{ display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; overflow-wrap: anywhere }}
dt {{ font-weight: 700 }}
dd {{ margin: 0 }} p {{ color: light-dark(#5d6269, #a3a8af); max-width: 75ch }} .wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100%; font-size: .94rem }}
th, td {{ text-align: left; padding: 6px 14px 6px 0; border-top: 1px solid light-dark(#dcd9d2, #33373d) }}
th {{ font-size: .8rem; font-weight: 400; border: 0; white-space: nowrap; color: light-dark(#5d6269, #a3a8af) }}
.n {{ font-variant-numeric: tabular-nums }}
</style></head><body><h1>Two runs compared</h1><dl><dt>A</dt><dd>{first}</dd><dt>B</dt><dd>{second}</dd></dl>
<h2>By layer</h2>{layers}<p>Same caption: the share of the neurons. Agreement: the words that both captions have, twice,
by the words of both. Shuffled: the same with the caption of another neuron of the layer, which is what chance comes
to.</p><h2>What changed</h2><p>{said}</p>{changed}
<p>mami report A B shows the neurons themselves side by side, with their images.</p></body></html>
"""


if __name__ == "__main__":
    sys.exit(runtime.main(CompareJob, run, plan=plan))
