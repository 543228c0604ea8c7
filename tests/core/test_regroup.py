"""Exemplars turned around to images and back to neurons: nothing lost, nothing twice, nothing in another's place."""

from dataclasses import dataclass
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core import contracts
from mami_core.errors import ContractError
from mami_core.exemplars.pairs import Pairs, pairs_of
from mami_core.features import to_halves
from mami_core.regroup import assemble, features_table, regions_table, rows_of_ranges

K, WIDTH, IMAGES = 4, 3, 9


@dataclass
class Neurons:
    """An exemplars table, and the feature vector that each of its exemplars has."""

    rows: list[dict]
    vectors: dict[tuple[str, int, int], np.ndarray]
    """By layer, unit and rank."""

    @property
    def table(self) -> pa.Table:
        return contracts.from_rows(self.rows, contracts.EXEMPLARS)


@st.composite
def neurons(draw: st.DrawFn) -> Neurons:
    """Up to three layers with units that have 0 to K exemplars each."""
    units = draw(
        st.lists(st.tuples(st.sampled_from(["a", "b", "c.d"]), st.integers(0, 5)), unique=True, min_size=1).map(sorted)
    )
    rows, vectors = [], {}
    largest = draw(st.sampled_from([1, 2**15, 2**30]))
    for layer, unit in units:
        images = draw(st.lists(st.integers(0, IMAGES - 1), unique=True, max_size=K))
        rows.append(row(layer, unit, images, threshold=len(rows) / 8))
        for rank in range(len(images)):
            # Some numbers are beyond float16, which ends at 65,504.
            vectors[layer, unit, rank] = np.array([len(vectors), unit * largest, rank], np.float32)
    return Neurons(rows, vectors)


def row(layer: str, unit: int, images: list[int], threshold: float = 0.0) -> dict:
    return {
        "subject": "tiny",
        "layer": layer,
        "unit": unit,
        "images": images,
        "keys": [str(image) for image in images],
        "activations": [float(image) for image in images],
        "threshold": threshold,
        "active_fraction": 0.5,
    }


def features_of(found: Neurons, images: list[int] | None = None) -> pa.Table:
    """What encoding these images gives, or all of them."""
    pairs = pairs_of(found.table, None if images is None else np.array(images, np.int64))
    pairs = pairs.take(pairs.by_neuron())
    neurons = found.table.to_pylist()
    vectors = [
        found.vectors[neurons[neuron]["layer"], neurons[neuron]["unit"], rank]
        for neuron, rank in zip(pairs.rows.tolist(), pairs.ranks.tolist(), strict=True)
    ]
    stacked = torch.from_numpy(np.array(vectors, np.float32).reshape(-1, WIDTH))
    return features_table(pairs, *to_halves(stacked), torch.from_numpy(packed_regions(pairs)), WIDTH)


def packed_regions(pairs: Pairs) -> np.ndarray:
    """A region that tells whose it is."""
    told = np.stack([pairs.layers, pairs.units, pairs.ranks, pairs.images], 1).astype(np.uint8)
    return np.tile(told, contracts.REGION_SIDE**2 // 8 // 4)


@given(found=neurons(), images=st.none() | st.sets(st.integers(0, IMAGES - 1)))
def test_pairs_are_every_exemplar_by_image(found: Neurons, images: set[int] | None) -> None:
    pairs = pairs_of(found.table, None if images is None else np.array(sorted(images), np.int64))
    expected = [
        (image, number, rank, neuron["layer"], neuron["unit"], neuron["threshold"])
        for number, neuron in enumerate(found.table.to_pylist())
        for rank, image in enumerate(neuron["images"])
        if images is None or image in images
    ]
    layers = [pairs.layer_names[layer] for layer in pairs.layers]
    columns = (pairs.images, pairs.rows, pairs.ranks, layers, pairs.units, pairs.thresholds)
    assert list(zip(*columns, strict=True)) == sorted(expected, key=lambda pair: pair[0])  # stable: by row, then rank
    for image in range(IMAGES):
        here = pairs.of_image(image)
        assert set(pairs.images[here]) <= {image}
        assert here.stop - here.start == sum(pair[0] == image for pair in expected)


@given(found=neurons(), order=st.randoms(use_true_random=False), chunk=st.integers(1, IMAGES))
def test_every_vector_comes_to_its_neuron_and_rank(found: Neurons, order: Random, chunk: int) -> None:
    parts = [features_of(found, list(range(start, start + chunk))) for start in range(0, IMAGES, chunk)]
    order.shuffle(parts)
    vectors, present = assemble(found.table, pa.concat_tables(parts), K)
    for number, neuron in enumerate(found.table.to_pylist()):
        count = len(neuron["images"])
        assert present[number].tolist() == [True] * count + [False] * (K - count)
        for rank in range(count):
            expected = found.vectors[neuron["layer"], neuron["unit"], rank]
            assert vectors[number, rank].tolist() == expected.tolist()
        assert not vectors[number, count:].any()


@given(found=neurons(), order=st.randoms(use_true_random=False), chunk=st.integers(1, IMAGES))
def test_every_region_comes_to_its_neuron_and_rank(found: Neurons, order: Random, chunk: int) -> None:
    parts = [features_of(found, list(range(start, start + chunk))) for start in range(0, IMAGES, chunk)]
    order.shuffle(parts)
    table = regions_table(found.table, pa.concat_tables(parts))
    contracts.check(table.schema, contracts.REGIONS, where="the test")
    layers = list(dict.fromkeys(found.table["layer"].to_pylist()))
    for neuron, where in zip(found.table.to_pylist(), table.to_pylist(), strict=True):
        assert (where["layer"], where["unit"]) == (neuron["layer"], neuron["unit"])
        told = [
            (layers.index(neuron["layer"]), neuron["unit"], rank, image) for rank, image in enumerate(neuron["images"])
        ]
        assert [tuple(region[:4]) for region in where["regions"]] == told


@given(found=neurons().filter(lambda found: found.vectors), data=st.data())
def test_a_missing_doubled_or_misplaced_vector_is_refused(found: Neurons, data: st.DataObject) -> None:
    whole = features_of(found)
    at = data.draw(st.integers(0, whole.num_rows - 1))
    one = whole.slice(at, 1)
    without = pa.concat_tables([whole.slice(0, at), whole.slice(at + 1)])
    other_image = one.set_column(3, whole.schema.field("image"), [[one["image"][0].as_py() + 1]])
    other_unit = one.set_column(1, whole.schema.field("unit"), pa.array([99], pa.int32()))
    other_layer = one.set_column(0, whole.schema.field("layer"), [["z"]])
    wrong = [without, pa.concat_tables([whole, one])]
    wrong += [pa.concat_tables([without, changed]) for changed in (other_image, other_unit, other_layer)]
    for features in wrong:
        with pytest.raises(ContractError, match=f"expected the features of {whole.num_rows} exemplars"):
            assemble(found.table, features, K)


@given(found=neurons(), size=st.integers(1, 4))
def test_features_are_in_the_order_of_the_ranges(found: Neurons, size: int) -> None:
    features = features_of(found)
    layers = dict.fromkeys(found.table["layer"].to_pylist())
    ranges = [(layer, first, min(first + size, 6)) for layer in layers for first in range(0, 6, size)]
    counts = rows_of_ranges(features, ranges)
    start = 0
    for (layer, first, end), count in zip(ranges, counts, strict=True):
        part = features.slice(start, count)
        assert set(part["layer"].to_pylist()) <= {layer}
        assert all(first <= unit < end for unit in part["unit"].to_pylist())
        start += count
    assert start == features.num_rows


@given(found=neurons())
def test_the_features_table_survives_parquet(found: Neurons) -> None:
    features = features_of(found)
    schema = contracts.features_schema(WIDTH)
    assert features.schema.equals(schema, check_metadata=True)
    groups = [features.slice(0, 1), features.slice(1, 0), features.slice(1)]
    file = contracts.open_parquet(contracts.to_parquet(groups, schema, compression="none"), schema, where="x")
    assert file.num_row_groups == 3, "an empty range of units has its row group too"
    assert file.read().equals(features)


def test_neurons_of_which_none_was_ever_active_need_no_features() -> None:
    found = Neurons([row("a", 0, []), row("a", 1, [])], {})
    vectors, present = assemble(found.table, features_of(found), K)
    assert vectors.shape == (2, K, WIDTH)
    assert not present.any()
