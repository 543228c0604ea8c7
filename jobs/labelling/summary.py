"""What a labelling run came to, in words: read from its finished tables, so that it is true of every rerun too."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from jobs.engine.plan import read_manifest
from jobs.engine.progress import counted
from jobs.engine.work import StageReport
from jobs.labelling.layout import DROPPED
from jobs.storage import Storage, redact
from mami_core import contracts


def of_labels(storage: Storage, reports: Sequence[StageReport], *, seconds: float) -> str:
    """Neurons labelled, dead, dropped and why; seconds and rates by stage; where the table is and how to read it."""
    manifest = read_manifest(storage)
    dead = sum(_column(storage, file.path, "dead").count(True) for file in manifest.files if _is_labels(file.path))
    total = manifest.num_rows("labels/")
    dropped = contracts.from_parquet(storage.read(DROPPED), contracts.DROPPED, where=DROPPED)
    lines = [
        "",
        f"{total - dead:,} neurons labelled, {dead:,} dead (active on no image), {dropped.num_rows:,} rows dropped",
        *_reasons(dropped),
        *(_stage(report) for report in reports),
        f"{seconds:,.0f} s in all. Labels: {redact(storage.url)}/labels",
        "",
        f'  pandas.read_parquet("{redact(storage.url)}/labels")',
        "",
    ]
    return "\n".join(lines)


def _is_labels(path: str) -> bool:
    return path.startswith("labels/")


def _column(storage: Storage, path: str, name: str) -> list:
    with storage.open(path) as file:
        return contracts.read_labels(file, where=path, columns=[name])[name].to_pylist()


def _reasons(dropped: pa.Table) -> list[str]:
    kinds = zip(dropped["kind"].to_pylist(), dropped["reason"].to_pylist(), strict=True)
    return [f"  {count:,} × {kind}: {reason}" for (kind, reason), count in Counter(kinds).most_common(5)]


def _stage(report: StageReport) -> str:
    rates = counted(report.counters, report.seconds)
    before = f", {report.num_done_before} items done before" if report.num_done_before else ""
    return f"  {report.stage:<10} {report.seconds:8,.1f} s  {', '.join(rates) or 'nothing left to do'}{before}"
