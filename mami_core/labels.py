"""Captions → the labels table: one row a neuron, dead ones included."""

from collections.abc import Sequence

import pyarrow as pa

from mami_core import contracts
from mami_core.contracts import Beam


def table(
    exemplars: pa.Table,
    beams: Sequence[Sequence[Beam]],
    *,
    captioner: str,
    run: str,
) -> pa.Table:
    """The labels of the neurons in `exemplars` (`contracts.EXEMPLARS`), in the same order.

    `beams` holds each neuron's proposals, best first, and nothing for a dead neuron.
    """
    rows = exemplars.to_pylist()
    assert len(rows) == len(beams), "every neuron has its list of beams, dead ones an empty list"
    labels = [_row(row, proposals, captioner=captioner, run=run) for row, proposals in zip(rows, beams, strict=True)]
    return contracts.from_rows(labels, contracts.LABELS)


def _row(exemplars: dict, beams: Sequence[Beam], *, captioner: str, run: str) -> dict:
    dead = not exemplars["images"]
    assert dead == (not beams), "a neuron is captioned exactly if it has exemplars"
    best = beams[0] if beams else None
    return {
        "subject": exemplars["subject"],
        "layer": exemplars["layer"],
        "unit": exemplars["unit"],
        "caption": best.caption if best else None,
        "score": best.score if best else None,
        "log_p_caption": best.log_p_caption if best else None,
        "log_p_language": best.log_p_language if best else None,
        "beams": [
            {
                "caption": beam.caption,
                "score": beam.score,
                "log_p_caption": beam.log_p_caption,
                "log_p_language": beam.log_p_language,
            }
            for beam in beams
        ],
        "exemplar_images": exemplars["keys"],
        "exemplar_activations": exemplars["activations"],
        "threshold": exemplars["threshold"],
        "active_fraction": exemplars["active_fraction"],
        "dead": dead,
        "captioner": captioner,
        "run": run,
    }
