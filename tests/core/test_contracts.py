import dataclasses
import typing

import pyarrow as pa
import pytest

from mami_core import contracts
from mami_core.errors import ContractError

TABLES = {
    "images": (contracts.IMAGES, contracts.ImageRow),
    "generated": (contracts.GENERATED, contracts.GeneratedRow),
    "exemplars": (contracts.EXEMPLARS, contracts.ExemplarsRow),
    "features": (contracts.features_schema(4), contracts.FeaturesRow),
    "regions": (contracts.REGIONS, contracts.RegionsRow),
    "labels": (contracts.LABELS, contracts.LabelsRow),
    "dropped": (contracts.DROPPED, contracts.DroppedRow),
    "descriptions": (contracts.DESCRIPTIONS, contracts.DescriptionsRow),
    "scores": (contracts.SCORES, contracts.ScoresRow),
    "measures": (contracts.MEASURES, contracts.MeasuresRow),
}

BEAM = {"caption": "red circles", "score": -1.0, "log_p_caption": -2.0, "log_p_language": -5.0, "support": 0.5}
ROWS = {
    "images": {
        "image": 0,
        "key": "a.jpg",
        "path": "s3://b/a.jpg",
        "offset": None,
        "size": 9,
        "row": None,
        "column": None,
    },
    "generated": {"key": "latent 0", "image": b"PNG", "latent": b"12345678"},
    "exemplars": {
        "subject": "s",
        "layer": "l",
        "unit": 3,
        "images": [5, 2],
        "keys": ["five", "two"],
        "activations": [2.0, 1.5],
        "threshold": 0.5,
        "active_fraction": 0.25,
    },
    "features": {
        "layer": "l",
        "unit": 3,
        "rank": 0,
        "image": 5,
        "vector": b"12345678",
        "exponent": 0,
        "region": b"1" * 392,
    },
    "regions": {"subject": "s", "layer": "l", "unit": 3, "regions": [b"1" * 392, b"0" * 392]},
    "labels": {
        "subject": "s",
        "layer": "l",
        "unit": 3,
        "caption": "red circles",
        "score": -1.0,
        "log_p_caption": -2.0,
        "log_p_language": -5.0,
        "beams": [BEAM],
        "exemplar_images": ["five"],
        "exemplar_activations": [2.0],
        "threshold": 0.5,
        "active_fraction": 0.25,
        "dead": False,
        "captioner": "c",
        "run": "r",
        "support": 0.5,
        "trust": 0.25,
        "trust_auprc": 0.5,
        "trust_shuffled": -0.125,
        "weights": "0123456789abcdef",
        "end": "highest",
        "scorer": "eyes 0123",
    },
    "dropped": {
        "subject": "s",
        "stage": "exemplars",
        "kind": "image",
        "name": "a.jpg",
        "image": 0,
        "layer": None,
        "unit": None,
        "reason": "truncated",
    },
    "descriptions": {"layer": "l", "unit": 3, "description": "red circles"},
    "scores": {
        "subject": "s",
        "captioner": "c",
        "grouping": "length",
        "group": "5 to 8 words",
        "source": "constant",
        "text": "red circles",
        "num_neurons": 3,
        "num_texts": 3,
        "num_distinct": 1,
        "bleu": 4.5,
        "rouge_l": 0.25,
        "bleu_nltk": 4.25,
        "sacrebleu": 5.5,
        "sacrebleu_signature": "nrefs:3|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "bertscore_precision": 0.5,
        "bertscore_recall": 0.25,
        "bertscore_f1": None,
        "bertscore_model": "all-MiniLM-L6-v2 layer 6",
    },
    "measures": {
        "subject": "s",
        "captioner": "c",
        "grouping": "layer",
        "group": "fc",
        "measure": "trust",
        "source": "constant",
        "text": "red circles",
        "num_neurons": 3,
        "value": 0.5,
        "low": 0.25,
        "high": None,
        "judge": "eyes 0123",
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_table_and_row_have_the_same_columns(name: str) -> None:
    schema, row = TABLES[name]
    assert [field.name for field in dataclasses.fields(row)] == schema.names
    hints = typing.get_type_hints(row)
    nullable = {name for name, hint in hints.items() if type(None) in typing.get_args(hint)}
    assert nullable == {field.name for field in schema if field.nullable}


@pytest.mark.parametrize("name", TABLES)
def test_rows_survive_parquet(name: str) -> None:
    schema, _ = TABLES[name]
    table = contracts.from_rows([ROWS[name]] * 3, schema)
    data = contracts.to_parquet(table, schema)
    assert data == contracts.to_parquet(table, schema)
    back = contracts.from_parquet(data, schema, where="memory")
    assert back.to_pylist() == [ROWS[name]] * 3
    assert contracts.identity(back.schema) == contracts.identity(schema)


def test_a_table_of_another_version_is_refused() -> None:
    old = contracts.LABELS.with_metadata({b"table": b"labels", b"version": b"0"})
    data = contracts.to_parquet(contracts.from_rows([ROWS["labels"]], contracts.LABELS).cast(old), old)
    with pytest.raises(ContractError, match=r"'labels' version 3, found 'labels' version 0"):
        contracts.from_parquet(data, contracts.LABELS, where="part-0")


@pytest.mark.parametrize("columns", [None, ["trust", "caption", "support", "scorer"], ["beams"]])
@pytest.mark.parametrize("former", contracts.LABELS_BEFORE)
def test_labels_of_versions_before_are_read_with_nulls_for_what_they_lack(
    former: pa.Schema, columns: list[str] | None
) -> None:
    row = {name: ROWS["labels"][name] for name in former.names}
    row["beams"] = [{name: BEAM[name] for name in BEAM if name != "support"}]
    old = contracts.to_parquet(contracts.from_rows([row] * 2, former), former)
    found = contracts.read_labels(old, where="x", columns=columns)
    expected = dict.fromkeys(contracts.LABELS.names) | row | {"beams": [BEAM | {"support": None}]}
    assert found.to_pylist() == [{name: expected[name] for name in columns or expected}] * 2
    assert contracts.identity(found.schema) == ("labels", 3)


def test_labels_of_this_version_are_read_as_they_are_and_others_refused() -> None:
    new = contracts.from_rows([ROWS["labels"]] * 2, contracts.LABELS)
    assert contracts.read_labels(contracts.to_parquet(new, contracts.LABELS), where="x") == new
    for schema in (contracts.IMAGES, contracts.LABELS.with_metadata({b"table": b"labels", b"version": b"4"})):
        with pytest.raises(ContractError, match=r"expected table 'labels' version 3, found"):
            contracts.read_labels(contracts.to_parquet(schema.empty_table(), schema), where="x")


def test_a_table_with_other_columns_is_refused() -> None:
    fewer = pa.schema(list(contracts.IMAGES)[:-1], metadata=contracts.IMAGES.metadata)
    with pytest.raises(ContractError, match="column: string"):
        contracts.check(fewer, contracts.IMAGES, where="images")


def test_bytes_that_are_no_parquet_are_refused() -> None:
    with pytest.raises(ContractError, match="expected a Parquet file"):
        contracts.from_parquet(b"not at all", contracts.IMAGES, where="images")


def test_one_row_group_a_table() -> None:
    schema, row = TABLES["images"][0], ROWS["images"]
    tables = [contracts.from_rows([row] * n, schema) for n in (2, 0, 3)]
    file = contracts.open_parquet(contracts.to_parquet(tables, schema), schema, where="memory")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 0, 3]
