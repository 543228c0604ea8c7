"""The labels table: one row a neuron, in the exemplars' order, as its row class says."""

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core import contracts, labels
from mami_core.contracts import Beam, LabelsRow

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
NOTHING = Beam(caption="", score=0.0, log_p_caption=-0.0, log_p_language=0.0)
beams = st.builds(
    Beam,
    caption=st.text(),
    score=numbers,
    log_p_caption=numbers,
    log_p_language=numbers,
    support=st.none() | numbers,
)


@st.composite
def neurons(draw: st.DrawFn) -> tuple[list[dict], list[list[Beam]]]:
    """Rows of exemplars, and captions for those that have any."""
    rows, proposals = [], []
    for unit in range(draw(st.integers(0, 5))):
        count = draw(st.integers(0, 3))
        rows.append(
            {
                "subject": "tiny",
                "layer": draw(st.sampled_from(["a", "b.c"])),
                "unit": unit,
                "images": list(range(count)),
                "keys": draw(st.lists(st.text(), min_size=count, max_size=count)),
                "activations": draw(st.lists(numbers, min_size=count, max_size=count)),
                "threshold": draw(numbers),
                "active_fraction": draw(st.floats(0, 1)),
            }
        )
        proposals.append(draw(st.lists(beams, min_size=1, max_size=3)) if count else [])
    return rows, proposals


def exemplars(rows: list[dict]) -> pa.Table:
    return contracts.from_rows(rows, contracts.EXEMPLARS)


def labels_of(rows: list[dict], proposals: list[list[Beam]]) -> pa.Table:
    return labels.table(exemplars(rows), proposals, captioner="c1", run="r1")


@given(found=neurons())
def test_a_row_says_what_exemplars_and_beams_say(found: tuple[list[dict], list[list[Beam]]]) -> None:
    rows, proposals = found
    table = labels_of(rows, proposals)
    assert table.schema.equals(contracts.LABELS, check_metadata=True)
    for row, neuron, offered in zip(table.to_pylist(), exemplars(rows).to_pylist(), proposals, strict=True):
        row["beams"] = [Beam(**beam) for beam in row["beams"]]
        assert LabelsRow(**row) == LabelsRow(
            **{name: neuron[name] for name in ("subject", "layer", "unit", "threshold", "active_fraction")},
            caption=offered[0].caption if offered else None,
            score=offered[0].score if offered else None,
            log_p_caption=offered[0].log_p_caption if offered else None,
            log_p_language=offered[0].log_p_language if offered else None,
            support=offered[0].support if offered else None,
            beams=offered,
            exemplar_images=neuron["keys"],
            exemplar_activations=neuron["activations"],
            dead=not offered,
            captioner="c1",
            run="r1",
            end="highest",
        )


@given(found=neurons())
def test_labels_survive_parquet(found: tuple[list[dict], list[list[Beam]]]) -> None:
    table = labels_of(*found)
    data = contracts.to_parquet(table, contracts.LABELS)
    assert contracts.from_parquet(data, contracts.LABELS, where="x").equals(table)
    assert contracts.to_parquet(table, contracts.LABELS) == data


def test_a_score_of_zero_is_a_score() -> None:
    row = {"subject": "s", "layer": "a", "unit": 0, "images": [0], "keys": ["x"], "activations": [1.0]}
    (label,) = labels_of([row | {"threshold": 0.0, "active_fraction": 1.0}], [[NOTHING]]).to_pylist()
    assert (label["caption"], label["score"], label["log_p_language"]) == ("", 0.0, 0.0)
    assert math.copysign(1, label["log_p_caption"]) == -1


@given(found=neurons().filter(lambda found: found[0]))
def test_a_neuron_has_captions_exactly_if_it_has_exemplars(found: tuple[list[dict], list[list[Beam]]]) -> None:
    rows, proposals = found
    swapped = [[] if offered else [NOTHING] for offered in proposals]
    with pytest.raises(AssertionError, match="who has exemplars has captions"):
        labels_of(rows, swapped)
