"""What a labelling run came to, in words: read from its finished tables, so that it is true of every rerun too."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.engine.plan import read_manifest
from jobs.engine.progress import counted
from jobs.engine.work import StageReport
from jobs.labelling.layout import DROPPED
from jobs.storage import Storage, redact
from mami_core import contracts
from mami_core.subjects.said import number_of

_COLUMNS = ["subject", "layer", "dead", "caption", "threshold", "exemplar_activations", "trust"]
_READERS = 8
_OFF = 9 / 8
"""A threshold is at most an eighth off: of units that are as high on many images it may lie above all of them."""
_FEW_BELOW = 0.05
"""The share of exemplars below their threshold that any set of images has; with more, there are too few images."""
_HARDLY_ANY = 4
"""With fewer exemplars than these, one more or less moves the support by a third and more."""


def of_labels(
    storage: Storage,
    reports: Sequence[StageReport],
    *,
    maps: Collection[tuple[str, str]],
    notes: Sequence[str] = (),
    seconds: float,
) -> str:
    """What came of the neurons, whether there were images enough, how long it took, and where the table is.

    Args:
        storage: The finished run.
        reports: What its stages did now.
        maps: The layers, each with its subject's name, whose units have regions smaller than the image.
        notes: What was left out of the images.
        seconds: How long it all took.
    """
    manifest = read_manifest(storage)
    found = _Labels.of(storage, [file.path for file in manifest.files if file.path.startswith("labels/")], maps)
    dropped = contracts.from_parquet(storage.read(DROPPED), contracts.DROPPED, where=DROPPED)
    alive = found.num_neurons - found.num_dead
    lines = [
        "",
        f"{number_of(alive, 'neuron')} labelled, {found.num_dead:,} dead (active on no image), "
        f"{number_of(dropped.num_rows, 'row')} dropped",
        *_reasons(dropped),
        *found.variety(),
        *found.few(manifest.config),
        *found.warning(manifest.config),
        *found.unjudged(manifest.config),
        *(f"Images: {note}" for note in notes),
        *(_stage(report) for report in reports),
        f"{seconds:,.0f} s in all. Labels: {redact(storage.url)}/labels",
        "",
        f'  pandas.read_parquet("{redact(storage.url)}/labels")',
        "",
    ]
    return "\n".join(lines)


@dataclass(slots=True)
class _Labels:
    """What the labels table says as a whole."""

    num_neurons: int = 0
    num_dead: int = 0
    num_judged: int = 0
    captions: Counter[str] = field(default_factory=Counter)
    supporting: Counter[int] = field(default_factory=Counter)
    """How many neurons have so many exemplars."""
    exemplars: Counter[str] = field(default_factory=Counter)
    """By layer: how many exemplars there are."""
    below: Counter[str] = field(default_factory=Counter)
    """By layer: how many of them stay clearly below their neuron's own threshold, so that next to nothing is their
    region."""
    above: Counter[int] = field(default_factory=Counter)
    """How many neurons have so many others."""

    @staticmethod
    def of(storage: Storage, paths: Sequence[str], maps: Collection[tuple[str, str]]) -> "_Labels":
        labels = _Labels()
        with ThreadPoolExecutor(_READERS) as threads:
            for table in threads.map(lambda path: _read(storage, path), paths):
                labels._add(table, maps)
        return labels

    def _add(self, table: pa.Table, maps: Collection[tuple[str, str]]) -> None:
        self.num_neurons += table.num_rows
        alive = table.filter(pc.invert(table["dead"]))
        self.num_dead += table.num_rows - alive.num_rows
        self.num_judged += alive.num_rows - alive["trust"].null_count
        self.captions.update(alive["caption"].to_pylist())
        self.supporting.update(pc.list_value_length(alive["exemplar_activations"]).to_pylist())
        subject, layer = (table[name][0].as_py() for name in ("subject", "layer"))  # a part is of one layer
        if not alive.num_rows or (subject, layer) not in maps:
            return
        peaks = alive["exemplar_activations"].combine_chunks()
        neurons = pc.list_parent_indices(peaks)
        reach = pc.multiply(pc.list_flatten(peaks), _OFF)
        exceeds = pc.greater(reach, pc.take(alive["threshold"].combine_chunks(), neurons))
        above = np.bincount(neurons.to_numpy(), weights=exceeds.to_numpy(zero_copy_only=False))
        self.above.update(above.astype(int).tolist())
        self.exemplars[layer] += len(neurons)
        self.below[layer] += len(neurons) - int(above.sum())

    def variety(self) -> list[str]:
        """How many captions are different, and the commonest."""
        if not self.captions:
            return []
        caption, count = self.captions.most_common(1)[0]
        share = count / self.captions.total()
        different = number_of(len(self.captions), "different caption")
        return [f"{different}; the commonest for {share:.1%} of the neurons: {caption}"]

    def few(self, config: Mapping[str, Any]) -> list[str]:
        """How many neurons have fewer exemplars than asked for: the support of one or three looks like certainty."""
        k = config["search"]["k"]
        fewer = self._with_fewer_than(k)
        if not fewer:
            return []
        have, their = ("has", "its") if fewer == 1 else ("have", "their")
        hardly = self._with_fewer_than(_HARDLY_ANY) if k > _HARDLY_ANY else 0
        some = f", {hardly:,} fewer than {_HARDLY_ANY}" if hardly else ""
        return [f"{number_of(fewer, 'neuron')} {have} fewer than {k} exemplars{some}: {their} support says little."]

    def _with_fewer_than(self, num_exemplars: int) -> int:
        return sum(count for number, count in self.supporting.items() if number < num_exemplars)

    def unjudged(self, config: Mapping[str, Any]) -> list[str]:
        """Whether trust was asked for and no neuron has any."""
        if not config.get("trust") or self.num_judged or not self.captions:
            return []
        return ["0 judged: too few images were held out, or nothing varies over them; trust is null."]

    def warning(self, config: Mapping[str, Any]) -> list[str]:
        """Whether there were too few images, and how many would do."""
        share = self.below.total() / max(self.exemplars.total(), 1)
        if share < _FEW_BELOW:
            return []
        worst = max(self.exemplars, key=lambda layer: self.below[layer] / self.exemplars[layer])
        return [
            f"Too few images: {share:.0%} of the exemplars ({self.below[worst] / self.exemplars[worst]:.0%} in "
            f"{worst}) lie below their neuron's own threshold, and hardly anything of them is its region. About "
            f"{self._enough(config):,} images would do."
        ]

    def _enough(self, config: Mapping[str, Any]) -> int:
        """For how many images 95 % of the neurons would have k exemplars above their threshold, to two digits.

        As many images exceed a quantile as there are images, in proportion.
        """
        few = np.quantile(np.repeat([*self.above], [*self.above.values()]), 0.05)
        wanted = config["images"]["count"] * config["search"]["k"] / max(few, 0.5)
        unit = 10 ** max(len(str(round(wanted))) - 2, 0)
        return unit * math.ceil(wanted / unit)


def _read(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as file:
        return contracts.read_labels(file, where=path, columns=_COLUMNS)


def _reasons(dropped: pa.Table) -> list[str]:
    kinds = zip(dropped["kind"].to_pylist(), dropped["reason"].to_pylist(), strict=True)
    return [f"  {count:,} × {kind}: {reason}" for (kind, reason), count in Counter(kinds).most_common(5)]


def _stage(report: StageReport) -> str:
    rates = counted(report.counters, report.seconds)
    before = f", {report.num_done_before} items done before" if report.num_done_before else ""
    return f"  {report.stage:<10} {report.seconds:8,.1f} s  {', '.join(rates) or 'nothing left to do'}{before}"
