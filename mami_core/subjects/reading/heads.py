"""What each attention head gives, before the projection that mixes heads: read where that goes in.

`nn.MultiheadAttention` calls no module for its projection; its attention is computed once more without it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mami_core.subjects.reading.layout import Layout
from mami_core.subjects.reading.watch import Passage, Place

HEADS = ".heads"
"""Ends the name of a layer whose units are an attention module's heads."""

_COUNTS = ("num_heads", "num_attention_heads", "heads", "n_heads", "n_head", "nhead")

INSIDE = "before projection"
"""The side of a place inside `nn.MultiheadAttention`."""


def num_heads(module: nn.Module) -> int:
    """How many heads an attention module says that it has; 0 where it says nothing."""
    counts = (getattr(module, name, None) for name in _COUNTS)
    return next((count for count in counts if isinstance(count, int) and count > 0), 0)


def place_of_heads(
    name: str, network: nn.Module, passages: dict[Place, Passage], layouts: dict[Place, Layout | str]
) -> tuple[Place, Layout | str] | None:
    """Where the heads' outputs of an attention module are side by side, and how they are read; None for other modules.

    It is what goes into the last linear layer inside, unless that is what goes into the module.
    """
    module = network.get_submodule(name)
    if not num_heads(module):
        return None
    if isinstance(module, nn.MultiheadAttention):
        layout = next((found for place, found in layouts.items() if place == Place(name, 0, "output", (0,))), None)
        return None if layout is None else (Place(name, 0, INSIDE), layout)
    inside = {path for path, part in module.named_modules(prefix=name) if isinstance(part, nn.Linear) and path != name}
    places = [place for place in passages if place.module in inside and place.side == "input" and place.call == 0]
    if len(places) < 2:  # a projection alone would read what goes into the module
        return None
    last = places[-1]
    layout = layouts[last]
    if isinstance(layout, Layout) and passages[last].shape[layout.units] % num_heads(module):
        return last, f"the {passages[last].shape[layout.units]} numbers into '{last.module}' are not those of its heads"
    return last, layout


def without_projection(attention: nn.MultiheadAttention, inputs: tuple, named: dict[str, Any]) -> Tensor:
    """What the heads give, side by side, in the shape of the attention's output; from the inputs of its last call."""
    query, key, value = (
        inputs[index] if index < len(inputs) else named[name] for index, name in enumerate(("query", "key", "value"))
    )
    if attention.batch_first:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    weight = attention.out_proj.weight
    unmixed = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    separate = not attention._qkv_same_embed_dim
    output, _ = nn.functional.multi_head_attention_forward(
        query,
        key,
        value,
        attention.embed_dim,
        attention.num_heads,
        attention.in_proj_weight,
        attention.in_proj_bias,
        attention.bias_k,
        attention.bias_v,
        attention.add_zero_attn,
        0.0,
        unmixed,
        None,
        training=False,
        key_padding_mask=named.get("key_padding_mask"),
        need_weights=False,
        attn_mask=named.get("attn_mask"),
        use_separate_proj_weight=separate,
        q_proj_weight=attention.q_proj_weight if separate else None,
        k_proj_weight=attention.k_proj_weight if separate else None,
        v_proj_weight=attention.v_proj_weight if separate else None,
    )
    return output.transpose(0, 1) if attention.batch_first else output
