"""Captions → the labels table: one row a neuron, dead ones included."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from mami_core.contracts import LABELS, REGION_SIDE, Beam


def table(exemplars: pa.Table, beams: Sequence[Sequence[Beam]], *, captioner: str, run: str) -> pa.Table:
    """The labels of the neurons in `exemplars` (`contracts.EXEMPLARS`), in the same order.

    `beams` holds each neuron's proposals, best first, and nothing for a dead neuron. How far a label can be trusted is
    left open: see `pipeline.judge_labels`.
    """
    dead = [not proposals for proposals in beams]
    assert dead == pc.equal(pc.list_value_length(exemplars["images"]), 0).to_pylist(), "who has exemplars has captions"
    best = [proposals[0] if proposals else None for proposals in beams]
    columns = {
        **{name: exemplars[name] for name in ("subject", "layer", "unit", "threshold", "active_fraction")},
        **{name: [beam and getattr(beam, name) for beam in best] for name in Beam.__dataclass_fields__},
        "beams": [[asdict(beam) for beam in proposals] for proposals in beams],
        "exemplar_images": exemplars["keys"],
        "exemplar_activations": exemplars["activations"],
        "dead": dead,
        "captioner": pa.repeat(captioner, len(beams)),
        "run": pa.repeat(run, len(beams)),
        **{name: [None] * len(beams) for name in ("trust", "trust_auprc", "trust_shuffled", "scorer")},
    }
    return pa.table([_column(field, columns[field.name]) for field in LABELS], schema=LABELS)


def _column(field: pa.Field, values: Sequence | pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)


def unpack_regions(packed: Sequence[bytes]) -> Bool[np.ndarray, "regions side side"]:
    """Stored regions (`contracts.RegionsRow.regions`) as grids: true where the neuron is active."""
    bits = np.unpackbits(np.frombuffer(b"".join(packed), np.uint8))
    return bits.reshape(len(packed), REGION_SIDE, REGION_SIDE).astype(bool)
