"""The exemplars table from a finished search: what a neuron's features and caption are made from."""

import pyarrow as pa
import torch

from mami_core.contracts import EXEMPLARS
from mami_core.exemplars.states import LayerState


def exemplars_table(
    subject: str,
    layer: str,
    state: LayerState,
    keys: pa.Array | pa.ChunkedArray,
    *,
    quantile: float = 0.99,
    first_unit: int = 0,
) -> pa.Table:
    """One row of `contracts.EXEMPLARS` per unit, in the units' order.

    Args:
        subject: The subject's name.
        layer: The layer's name.
        state: What all images together gave for the layer, or for a range of its units.
        keys: The images' names, each at the place of its number: a column of the images table.
        quantile: The share of all positions of all images that do not exceed the threshold.
        first_unit: The number of the state's first unit.
    """
    state = state.to("cpu")
    present = state.topk.present()
    offsets = torch.cat([present.new_zeros(1, dtype=torch.int32), present.sum(1).cumsum(0, dtype=torch.int32)])
    images = pa.array(state.topk.images()[present].numpy())
    lists = {
        "images": images,
        "keys": keys.take(images),
        "activations": pa.array(state.topk.activations()[present].numpy()),
    }
    columns = {
        "subject": pa.repeat(subject, state.num_units),
        "layer": pa.repeat(layer, state.num_units),
        "unit": pa.array(range(first_unit, first_unit + state.num_units), pa.int32()),
        **{name: _lists(name, offsets, values) for name, values in lists.items()},
        "threshold": pa.array(state.histogram.quantile(quantile).numpy()),
        "active_fraction": pa.array(state.histogram.active_fraction().numpy()),
    }
    return pa.Table.from_arrays([columns[name] for name in EXEMPLARS.names], schema=EXEMPLARS)


def _lists(name: str, offsets: torch.Tensor, values: pa.Array | pa.ChunkedArray) -> pa.ListArray:
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pa.ListArray.from_arrays(pa.array(offsets.numpy()), flat, type=EXEMPLARS.field(name).type)
