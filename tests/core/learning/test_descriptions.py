"""Descriptions files: what is read back, and what is refused by name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core import contracts
from mami_core.errors import DescriptionsError
from mami_core.learning.descriptions import Neuron, by_neuron, descriptions_csv, read_descriptions

SAID = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).map(str.strip).filter(bool)
NEURONS = st.builds(Neuron, layer=SAID, unit=st.integers(0, 2**31 - 1))


@given(st.dictionaries(NEURONS, st.lists(SAID, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
def test_descriptions_come_back_as_they_were_written(described: dict[Neuron, tuple[str, ...]]) -> None:
    table = read_descriptions(descriptions_csv(described))
    contracts.check(table.schema, contracts.DESCRIPTIONS, where="the test")
    assert by_neuron(table) == described


def test_commas_quotes_and_line_ends_of_other_systems_are_read() -> None:
    data = '\ufefflayer,unit,summary\r\nlayer4,7,"red, round ""things"""\r\nlayer4,7, eyes \r\n'.encode()
    assert by_neuron(read_descriptions(data)) == {Neuron("layer4", 7): ('red, round "things"', "eyes")}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected the columns"),
        (b"layer,unit\na,1\n", "summary"),
        (b"layer,unit,summary\n", "at least one description"),
        (b"layer,unit,summary\na,1,eyes\na,one,eyes\n", "line 3.*'one'"),
        (b"layer,unit,summary\na,-1,eyes\n", "'-1'"),
        (b"layer,unit,summary\na,99999999999,eyes\n", "99999999999"),
        ("layer,unit,summary\na,\u0663,eyes\n".encode(), "unit number"),
        (b"layer,unit,summary\na,1,  \n", "line 2.*empty"),
        (b"layer,unit,summary\na,1\n", "line 2.*empty"),
        (b"\x80\x04\x95\xff\xfe", "UTF-8"),
        (b'layer,unit,summary\na,1,"eyes\n', "UTF-8|CSV"),
    ],
)
def test_what_is_no_descriptions_file_is_refused_with_its_line(data: bytes, message: str) -> None:
    with pytest.raises(DescriptionsError, match=message):
        read_descriptions(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DescriptionsError, match=r"nowhere\.csv"):
        read_descriptions(tmp_path / "nowhere.csv")


def test_the_published_descriptions_are_read(shared_data: Path) -> None:
    found = by_neuron(read_descriptions(shared_data / "annotations" / "MILANNOTATIONS_resnet152_imagenet.csv"))
    assert len(found) == 3126
    assert {len(descriptions) for descriptions in found.values()} == {3}
