"""What `quality.py` compares: every way is a change to one captioner, trained on the same neurons."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mami_core.captions.attention import ATTENTIONS, AttentionName
from mami_core.captions.captioner import CaptionerConfig

SIZES = {"hidden": 256, "embedding": 96, "attention_size": 128}
SUBSETS: tuple[tuple[AttentionName, ...], ...] = tuple(
    subset for size in (1, 2, 3) for subset in itertools.combinations(ATTENTIONS, size)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of making a captioner."""

    group: str
    """The table it belongs to."""
    name: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the captioner's configuration."""
    learning: Mapping[str, Any] = field(default_factory=dict)
    """Changes to `LearningConfig`."""
    columns: tuple[str, ...] = ("levels",)
    """Parts of the exemplars' vectors."""
    join: bool = False
    """Learn one compound description a neuron."""

    def captioner(self, num_features: int) -> CaptionerConfig:
        """The captioner's configuration."""
        sizes: dict[str, Any] = {**SIZES, **self.shape}
        if sizes.get("luong") == "dot":
            sizes["hidden"] = num_features
        return CaptionerConfig(num_features=num_features, **sizes)


def ways() -> Iterator[Way]:
    """All of them."""
    for join in (False, True):
        for subset in SUBSETS:
            group = "compound" if join else "subsets"
            yield Way(group=group, name=" + ".join(subset), shape={"attentions": subset}, join=join)
    for fusion, subset in itertools.product(("concatenation", "weights"), SUBSETS[3:]):
        name = f"{' + '.join(subset)}, {fusion}"
        yield Way(group="fusions", name=name, shape={"attentions": subset, "fusion": fusion})
    mami, alone = {"attentions": ATTENTIONS}, {"attentions": ("bahdanau",)}
    readings: dict[str, dict[str, Any]] = {
        "Luong concat": {"luong": "concat"},
        "Luong dot": {"luong": "dot"},
        "self-attention's mean": {"self_context": "mean"},
        "read after the LSTM": {"reading": "after"},
        "input feeding": {"reading": "feeding"},
    }
    for name, change in readings.items():
        yield Way(group="readings", name=f"three, {name}", shape=mami | change)
    scaled = {"luong": "scaled"}
    yield Way(group="readings", name="three, Luong scaled", shape=mami | scaled)
    yield Way(group="readings", name="three, Luong scaled, weights", shape=mami | scaled | {"fusion": "weights"})
    for name in ("read after the LSTM", "input feeding"):
        yield Way(group="readings", name=f"bahdanau, {name}", shape=alone | readings[name])
    for who, shape in (("three", mami), ("bahdanau", alone)):
        yield Way(group="beyond", name=f"{who}, place", shape=shape, columns=("levels", "place"))
        yield Way(group="beyond", name=f"{who}, scene", shape=shape, columns=("levels", "scene"))
        yield Way(group="beyond", name=f"{who}, ranks", shape=shape | {"num_ranks": 15})
        yield Way(group="beyond", name=f"{who}, exemplar dropout .3", shape=shape, learning={"exemplar_dropout": 0.3})
        yield Way(group="beyond", name=f"{who}, smoothing .1", shape=shape, learning={"label_smoothing": 0.1})
        yield Way(group="beyond", name=f"{who}, no attention penalty", shape=shape, learning={"attention_penalty": 0.0})
        yield Way(group="beyond", name=f"{who}, dropout .3", shape=shape | {"dropout": 0.3})
    together = {"num_ranks": 15, "dropout": 0.3}
    more = {"learning": {"exemplar_dropout": 0.3}, "columns": ("levels", "place", "scene")}
    weights = {"fusion": "weights"}
    yield Way(group="together", name="bahdanau, ranks + dropouts", shape=alone | together, learning=more["learning"])
    yield Way(group="together", name="bahdanau, all of it", shape=alone | together, **more)
    two = {"attentions": ("bahdanau", "self")} | weights
    yield Way(group="together", name="bahdanau + self, weights, all of it", shape=two | together, **more)
    name = "three, Luong scaled, weights, all of it"
    yield Way(group="together", name=name, shape=mami | scaled | weights | together, **more)
