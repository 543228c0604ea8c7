"""Features are made image by image and read neuron by neuron: the table in between.

Here is also the check that nothing was lost on the way.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Float16, Int8, UInt8
from torch import Tensor

from mami_core import contracts
from mami_core.errors import ContractError
from mami_core.exemplars.pairs import Pairs, pairs_of
from mami_core.features import from_halves


def features_table(
    pairs: Pairs,
    vectors: Float16[Tensor, "pairs features"],
    exponents: Int8[Tensor, " pairs"],
    regions: UInt8[Tensor, "pairs bytes"],
    num_features: int,
) -> pa.Table:
    """One row a pair (`contracts.features_schema`), in the order of the pairs: for stages, `by_neuron`.

    Vectors and exponents are what `features.to_halves` gives, regions what `exemplars.region.pack` does.
    """
    schema = contracts.features_schema(num_features)
    columns = {
        "layer": pa.DictionaryArray.from_arrays(pairs.layers.astype(np.int32), list(pairs.layer_names)).cast(
            pa.string()
        ),
        "unit": pairs.units,
        "rank": pairs.ranks.astype(np.int16),
        "image": pairs.images,
        "vector": _binary(vectors.numpy(), schema.field("vector").type),
        "exponent": exponents.numpy(),
        "region": _binary(regions.numpy(), schema.field("region").type),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _binary(rows: np.ndarray, kind: pa.DataType) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def regions_table(exemplars: pa.Table, features: pa.Table) -> pa.Table:
    """The regions of the neurons in `exemplars` (`contracts.REGIONS`), in the same order.

    `features` are those of all their exemplars, in any order; `assemble` has checked it.
    """
    _, order = _in_order_of(exemplars, features)
    lengths = pc.list_value_length(exemplars["images"]).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    kind = contracts.REGIONS.field("regions").type
    regions = features["region"].combine_chunks().take(pa.array(order))
    columns = [exemplars[name] for name in ("subject", "layer", "unit")]
    return pa.table([*columns, pa.ListArray.from_arrays(offsets, regions, type=kind)], schema=contracts.REGIONS)


def assemble(
    exemplars: pa.Table, features: pa.Table, k: int
) -> tuple[Float[Tensor, "neurons {k} features"], Bool[Tensor, "neurons {k}"]]:
    """Each neuron's feature vectors side by side, strongest exemplar first, and which places hold one.

    The vectors are float16 where each fits, float32 where one is beyond it.

    Raises:
        ContractError: a vector is missing, or there is one too many.
    """
    pairs = pairs_of(exemplars)
    pairs = pairs.take(pairs.by_neuron())
    width = features.schema.field("vector").type.byte_width // 2
    given, order = _in_order_of(exemplars, features)
    found = (given[order], features["rank"].to_numpy()[order], features["image"].to_numpy()[order])
    expected = (pairs.rows, pairs.ranks, pairs.images)
    if not all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True)):
        raise ContractError(
            f"expected the features of {len(pairs.rows)} exemplars of {exemplars.num_rows} neurons, found "
            f"{features.num_rows} that do not match them. An object of this run was changed; start a new output folder."
        )
    present = np.zeros((exemplars.num_rows, k), bool)
    present[pairs.rows, pairs.ranks] = True
    exponents = np.zeros((exemplars.num_rows, k), np.int8)
    exponents[given, features["rank"].to_numpy()] = features["exponent"].to_numpy()
    halves = _halves(features["vector"], width)
    if present.all() and np.array_equal(order, np.arange(len(order))):
        vectors = halves.view(*present.shape, width)  # as the stage before wrote them
    else:
        vectors = halves.new_zeros(*present.shape, width)
        vectors[torch.from_numpy(given), torch.from_numpy(features["rank"].to_numpy().astype(np.int64))] = halves
    return from_halves(vectors, torch.from_numpy(exponents)), torch.from_numpy(present)


def _in_order_of(exemplars: pa.Table, features: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Each feature's row in `exemplars` (−1 if none), and the order by row and rank."""
    layers = pc.unique(exemplars["layer"])
    rows = pc.index_in(_neuron_codes(features, layers), value_set=_neuron_codes(exemplars, layers))
    rows = rows.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return rows, np.lexsort((features["rank"].to_numpy(), rows))


def _neuron_codes(table: pa.Table, layers: pa.Array) -> pa.Array:
    """Layer and unit in one number."""
    layer = pc.index_in(table["layer"], value_set=layers).fill_null(-1).to_numpy().astype(np.int64)
    return pa.array((layer << 32) | table["unit"].to_numpy().astype(np.int64))


def _halves(column: pa.ChunkedArray, width: int) -> Float16[Tensor, "rows {width}"]:
    """The column's own memory where it is in one piece: it is most of what a stage holds. Not to be written into."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    count = len(array) * width
    numbers = pa.Array.from_buffers(pa.float16(), count, [None, array.buffers()[1]], offset=array.offset * width)
    return torch.from_dlpack(numbers).view(len(array), width)


def rows_of_ranges(features: pa.Table, ranges: Sequence[tuple[str, int, int]]) -> list[int]:
    """How many rows belong to each range of units, given as (layer, first unit, end), in the order of the table."""
    layers, units = features["layer"], features["unit"].to_numpy()
    of_layer = {layer: pc.equal(layers, layer).to_numpy() for layer in {layer for layer, _, _ in ranges}}
    return [int((of_layer[layer] & (first <= units) & (units < end)).sum()) for layer, first, end in ranges]
