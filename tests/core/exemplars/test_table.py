import pyarrow as pa
import pytest
import torch

from mami_core.contracts import EXEMPLARS, check, from_parquet, to_parquet
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.table import exemplars_table

KEYS = pa.array([f"photo {number}.jpg" for number in range(4)])


def state() -> LayerState:
    filled = LayerState.empty(3, 2)
    vectors = torch.tensor([[1.0, 0.0, -1.0], [3.0, -1.0, 0.5], [2.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    filled.topk.update(vectors, torch.arange(4))
    filled.histogram.update(vectors)
    return filled


@pytest.mark.parametrize("keys", [KEYS, pa.chunked_array([KEYS[:1], KEYS[1:]])])
def test_a_row_per_unit_with_its_exemplars(keys: pa.Array | pa.ChunkedArray) -> None:
    table = exemplars_table("net", "fc", state(), keys, first_unit=7)
    check(table.schema, EXEMPLARS, where="here")
    rows = table.to_pylist()
    assert [row["unit"] for row in rows] == [7, 8, 9]
    assert {(row["subject"], row["layer"]) for row in rows} == {("net", "fc")}
    assert [row["images"] for row in rows] == [[1, 3], [], [1]]
    assert [row["keys"] for row in rows] == [["photo 1.jpg", "photo 3.jpg"], [], ["photo 1.jpg"]]
    assert [row["activations"] for row in rows] == [[3, 3], [], [0.5]]
    assert [row["active_fraction"] for row in rows] == [1, 0, 0.25]
    assert rows[0]["threshold"] == pytest.approx(3, rel=1 / 8)
    assert rows[1]["threshold"] == 0


def test_the_table_survives_parquet() -> None:
    table = exemplars_table("net", "fc", state(), KEYS)
    table.validate(full=True)
    assert from_parquet(to_parquet(table, EXEMPLARS), EXEMPLARS, where="here").equals(table)


def test_another_quantile_gives_another_threshold() -> None:
    table = exemplars_table("net", "fc", state(), KEYS, quantile=0.2)
    assert table["threshold"][0].as_py() == pytest.approx(1, rel=1 / 8)


def test_no_units_give_no_rows() -> None:
    table = exemplars_table("net", "fc", LayerState.empty(0, 2), KEYS)
    assert table.schema.equals(EXEMPLARS)
    assert table.num_rows == 0
