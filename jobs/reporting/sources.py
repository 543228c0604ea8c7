"""What a report is made from: finished labelling runs, each of their subjects a source."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from jobs.engine.plan import MANIFEST, find_plan
from jobs.labelling.layout import DROPPED, IMAGES, Layout, Shard
from jobs.storage import Storage, redact, storage_for
from jobs.storage.networks import load_captioner
from mami_core import contracts
from mami_core.errors import ConfigError, IncompleteRunError, MamiError, MissingObjectError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One subject of one finished run; small, since it is sent to every worker."""

    name: str
    """What people call it: the subject, and the run's folder where several hold it."""
    url: str
    """The run's folder."""
    run: str
    """The run's fingerprint."""
    subject: str
    layout: Layout
    crop: float
    """Of the image's short side, what the subject sees."""
    k: int
    """Exemplars a neuron, at most."""
    captioner_id: str
    captioner: str | None
    """Where the captioner is, as far as anybody knows; None where it, or what it reads, is not to be had."""
    has_states: bool = True
    """Whether what the search counted is still there."""
    notes: tuple[str, ...] = ()
    """What a reader should know is left out, and why."""

    @property
    def storage(self) -> Storage:
        """The run's folder, opened."""
        return storage_for(self.url)

    @property
    def shards(self) -> list[Shard]:
        """The subject's units in the run's ranges."""
        return self.layout.shards(self.subject)

    def labels(self, shard: Shard) -> pa.Table:
        """The labels of one shard."""
        key = Layout.labels_key(self.subject, shard)
        return contracts.read_labels(self.storage.read(key), where=redact(self.storage.locate(key)))

    def exemplars(self, shard: Shard) -> pa.Table:
        """Their exemplars."""
        return _table(self.storage, Layout.exemplars_key(self.subject, shard), contracts.EXEMPLARS)

    def regions(self, shard: Shard) -> pa.Table:
        """Where in each exemplar a neuron is active."""
        return _table(self.storage, Layout.regions_key(self.subject, shard), contracts.REGIONS)

    def dropped(self) -> pa.Table:
        """What is missing of this subject, and why."""
        table = _table(self.storage, DROPPED, contracts.DROPPED)
        return table.filter(pc.equal(table["subject"], self.subject))


def _table(storage: Storage, key: str, schema: pa.Schema) -> pa.Table:
    return contracts.from_parquet(storage.read(key), schema, where=redact(storage.locate(key)))


def open_sources(urls: Sequence[str], captioner: str | None = None) -> list[Source]:
    """Every subject of these finished runs, in the order given.

    Args:
        urls: The runs' folders.
        captioner: Where their captioner is, if not where the runs had it from.

    Raises:
        ConfigError: a folder that holds no labelling run, or a run twice.
        IncompleteRunError: a run that is not finished.
        ContractError: a run that another version of this project made.
    """
    sources = [source for url in urls for source in _of_run(storage_for(url), captioner)]
    if len({(source.run, source.subject) for source in sources}) < len(sources):
        raise ConfigError("A run is given twice. Give different runs.")
    return [
        dataclasses.replace(_with_what_is_there(source), name=name)
        for source, name in zip(sources, _told_apart(sources), strict=True)
    ]


def _with_what_is_there(source: Source) -> Source:
    """Says what cannot be shown because the run's intermediate files or its captioner are gone."""
    storage, layout, notes = source.storage, source.layout, []
    has_states = storage.exists(layout.states_key(source.subject, 0))
    if not has_states:
        notes.append("No histograms of activations: _work/exemplars is gone.")
    reason = _why_not_read(source)
    if reason:
        notes.append(f"No attention and no similar neurons: {reason}.")
    captioner = None if reason else source.captioner
    return dataclasses.replace(source, has_states=has_states, captioner=captioner, notes=tuple(notes))


def _why_not_read(source: Source) -> str:
    """Why the captioner cannot read the exemplars' features once more; empty where it can."""
    if not source.storage.exists(source.layout.features_key(source.subject, 0)):
        return "_work/features is gone"
    if source.captioner is None:
        return "nobody says where the captioner is (--captioner)"
    try:
        found = load_captioner(source.captioner).id
    except MamiError as error:
        return f"the captioner cannot be read (--captioner): {error}"
    return "" if found == source.captioner_id else f"{redact(source.captioner)} is another captioner, {found}"


def _of_run(storage: Storage, captioner: str | None) -> list[Source]:
    plan = find_plan(storage)
    if plan is None or "subjects" not in plan.config:
        raise ConfigError(f"{redact(storage.url)} holds no labelling run: expected a folder that `mami label` made.")
    if not storage.exists(MANIFEST):
        raise IncompleteRunError(f"{redact(storage.url)} is not finished. Finish it first: run its command again.")
    with storage.open(IMAGES) as file:
        contracts.open_parquet(file, contracts.IMAGES, where=redact(storage.locate(IMAGES)))
    layout = Layout.of(plan.config)
    return [
        Source(
            name=subject,
            url=storage.url,
            run=plan.fingerprint,
            subject=subject,
            layout=layout,
            crop=plan.config["subjects"][subject]["crop"],
            k=plan.config["search"]["k"],
            captioner_id=plan.config["captioner"]["id"],
            captioner=captioner or _captioner_of(storage),
        )
        for subject in layout.subjects
    ]


def _captioner_of(storage: Storage) -> str | None:
    """Where the run's command says that its captioner was: no more than a place to look."""
    with suppress(MissingObjectError, ValueError, LookupError, TypeError):
        config: dict[str, Any] = json.loads(storage.read("run.json"))["config"]
        return str(config["captioner"])
    return None


def _told_apart(sources: Sequence[Source]) -> list[str]:
    """The sources' names, with the run's folder, or its path, where a subject alone would not say which."""
    names = [source.subject for source in sources]
    for longer in (_folder, lambda source: redact(source.url)):
        if len(set(names)) == len(names):
            break
        names = [f"{source.subject} ({longer(source)})" for source in sources]
    return names


def _folder(source: Source) -> str:
    return source.url.rstrip("/").rpartition("/")[2]


# --- the images that are shown ------------------------------------------------------------------------------------


def images_shown(sources: Sequence[Source]) -> Int64[np.ndarray, " images"]:
    """The numbers of all images that are an exemplar of any neuron of these sources, ascending."""
    found = [np.zeros(0, np.int64)]
    for source in sources:
        for shard in source.shards:
            numbers = pc.list_flatten(source.exemplars(shard)["images"].combine_chunks())
            found.append(np.unique(numbers.to_numpy(zero_copy_only=False)))
        found = [np.unique(np.concatenate(found))]
    return found[0]


def image_rows(source: Source, numbers: Int64[np.ndarray, " images"]) -> pa.Table:
    """Where the bytes of these images are (`contracts.IMAGES`), in ascending order."""
    with source.storage.open(IMAGES) as file:
        table = contracts.open_parquet(file, contracts.IMAGES, where=IMAGES)
        size = source.layout.images_per_item
        groups = sorted({int(number) // size for number in numbers})
        rows = table.read_row_groups(groups)
    return rows.filter(pc.is_in(rows["image"], pa.array(numbers)))
