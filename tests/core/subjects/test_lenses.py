"""What is read off layers: attention heads, latents of dictionaries, the other ends of units."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.exemplars.search import SearchConfig, search
from mami_core.images import ImageBatch
from mami_core.subjects import (
    Ends,
    Subject,
    describe_layers,
    list_layers,
    match_layers,
    subject_of,
    with_dictionary,
    with_slices,
)
from mami_core.subjects.reading import lenses
from mami_core.subjects.reading.dictionary_files import read_dictionary
from tests.core.subjects.networks import Attend, OpenAttention, Transformer, plain

SIZE = 64


def transformer() -> Subject:
    return subject_of(Transformer(special=2), name="it", input_size=SIZE)


def read(subject: Subject, layers: tuple[str, ...], x: Tensor) -> dict:
    with torch.no_grad(), subject.trace(layers) as outputs:
        subject.network(x)
        return dict(outputs)


# --- heads ----------------------------------------------------------------------------------------------------------


def test_heads_of_a_fused_attention_are_the_norms_of_what_each_gives() -> None:
    subject = transformer()
    assert match_layers(subject, ["heads"]) == ("blocks.0.attn.heads", "blocks.1.attn.heads")
    x = torch.randn(2, 3, SIZE, SIZE)
    found = read(subject, ("blocks.0.attn.heads", "blocks.0.ln1"), x)
    attn = subject.network.get_submodule("blocks.0.attn")
    assert isinstance(attn, nn.MultiheadAttention)
    tokens: list[Tensor] = []
    handle = subject.network.get_submodule("blocks.0.ln1").register_forward_hook(
        lambda _module, _inputs, output: tokens.append(output)
    )
    with torch.no_grad():
        subject.network(x)
        handle.remove()
        mixed = F.linear(tokens[-1], attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (part.unflatten(2, (4, 8)).transpose(1, 2) for part in mixed.chunk(3, -1))
        each = F.scaled_dot_product_attention(q, k, v).norm(dim=3)  # [B, heads, T]
    torch.testing.assert_close(found["blocks.0.attn.heads"], each[:, :, 2:].unflatten(2, (8, 8)))


def test_heads_before_a_projection_are_read_where_that_begins() -> None:
    subject = subject_of(OpenAttention(special=1), name="it", input_size=SIZE)
    module = subject.network.get_submodule("blocks.1")
    assert isinstance(module, Attend)
    seen: list[Tensor] = []
    x = torch.randn(2, 3, SIZE, SIZE)
    found = read(subject, ("blocks.1.heads",), x)["blocks.1.heads"]
    handle = module.out.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        subject.network(x)
    handle.remove()
    expected = seen[0][:, 1:].unflatten(2, (8, 8)).norm(dim=3).transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(found, expected)


# --- ends -----------------------------------------------------------------------------------------------------------


def test_the_lowest_end_of_a_unit_is_a_neuron_of_its_own() -> None:
    subject = transformer()
    layers = match_layers(subject, ["blocks.1"], ends="both")
    assert layers == ("blocks.1", "blocks.1:lowest")
    assert match_layers(subject, ["blocks.1:lowest"]) == ("blocks.1:lowest",)
    found = read(subject, layers, torch.randn(2, 3, SIZE, SIZE))
    assert found["blocks.1:lowest"].equal(-found["blocks.1"])
    assert match_layers(subject, [], ends="lowest") == ("blocks.0:lowest", "blocks.1:lowest")


@pytest.mark.parametrize("ends", ["highest", "lowest", "both"])
def test_a_range_of_units_is_for_whichever_ends_are_read(ends: Ends) -> None:
    patterns, x = ["blocks.1[2:5]"], torch.randn(2, 3, SIZE, SIZE)
    subject = with_slices(transformer(), patterns)
    layers = match_layers(subject, patterns, ends=ends)
    assert [(info.first_unit, info.num_units) for info in describe_layers(subject, layers)] == [(2, 3)] * len(layers)
    found, whole = read(subject, layers, x), read(transformer(), layers, x)
    assert all(found[layer].equal(whole[layer][:, 2:5]) for layer in layers)


@pytest.mark.parametrize(("own", "units"), [("blocks.1:lowest[7:9]", (7, 2)), ("blocks.1:lowest", (0, 32))])
def test_the_lowest_ends_may_have_a_range_of_their_own(own: str, units: tuple[int, int]) -> None:
    patterns = ["blocks.1[2:5]", own]
    subject = with_slices(transformer(), patterns)
    infos = describe_layers(subject, match_layers(subject, patterns))
    assert [(info.name, info.first_unit, info.num_units) for info in infos] == [
        ("blocks.1", 2, 3),
        ("blocks.1:lowest", *units),
    ]


# --- dictionaries ---------------------------------------------------------------------------------------------------


def sparse(latents: int = 20, units: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "W_enc": torch.randn(units, latents, generator=generator),
        "b_enc": torch.randn(latents, generator=generator),
        "W_dec": torch.randn(latents, units, generator=generator),
        "b_dec": torch.randn(units, generator=generator),
    }


def folder(where: Path, state: dict[str, Tensor], config: dict) -> Path:
    where.mkdir()
    save_file(state, where / "sae_weights.safetensors")
    (where / "cfg.json").write_text(json.dumps(config))
    return where


def latents_of(x: Tensor, state: dict[str, Tensor], config: dict) -> Tensor:
    """The plain way: everything at once, [B, latents, h, w]."""
    inputs = x.movedim(1, -1)
    if config.get("normalize_activations") == "layer_norm":
        inputs = (inputs - inputs.mean(-1, keepdim=True)) / (inputs.std(-1, keepdim=True) + 1e-5)
    inputs = inputs - state["b_dec"] if config.get("apply_b_dec_to_input", True) else inputs
    before = inputs @ state["W_enc"] + state["b_enc"]
    if "r_mag" in state:
        before = before - state["b_enc"]
        strength = before * state["r_mag"].exp() + state["b_mag"]
        return torch.where(before + state["b_gate"] > 0, strength, 0).relu().movedim(-1, 1)
    if "threshold" in state:
        return torch.where(before > state["threshold"], before, 0).relu().movedim(-1, 1)
    if config.get("architecture") == "topk":
        highest = before.topk(config["k"], -1)
        return torch.zeros_like(before).scatter(-1, highest.indices, highest.values.relu()).movedim(-1, 1)
    return before.relu().movedim(-1, 1)


KINDS = {
    "relu": {"architecture": "standard"},
    "uncentred": {"architecture": "standard", "apply_b_dec_to_input": False},
    "normalised": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "topk": {"architecture": "topk", "k": 3},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [lenses.BLOCK, 2 * 64 * 7])
def test_latents_are_those_of_the_plain_way_whatever_the_blocks(
    kind: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lenses, "BLOCK", block)
    state, config = sparse(), KINDS[kind]
    if kind == "jumprelu":
        state["threshold"] = torch.rand(20)
    if kind == "gated":
        state |= {name: torch.randn(20) for name in ("r_mag", "b_gate", "b_mag")}
    subject = with_dictionary(transformer(), f"blocks.1={folder(tmp_path / 'sae', state, config)}")
    assert match_layers(subject, []) == ("blocks.1:sae",)
    found = read(subject, ("blocks.1", "blocks.1:sae"), torch.randn(2, 3, SIZE, SIZE))
    latents, expected = found["blocks.1:sae"], latents_of(found["blocks.1"], state, config)
    assert latents.shape == expected.shape == (2, 20, 8, 8)
    rows, units = torch.tensor([0, 1, 1, 0]), torch.tensor([3, 19, 0, 3])
    torch.testing.assert_close(latents[rows, units], expected[rows, units], rtol=1e-4, atol=1e-4)
    if block == lenses.BLOCK and isinstance(latents, Tensor):
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    else:
        parts = list(latents.blocks())
        assert len(parts) == 3
        torch.testing.assert_close(torch.cat([part for _, part in parts], 1), expected, rtol=1e-4, atol=1e-4)


def test_a_search_in_blocks_of_latents_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = with_dictionary(transformer(), f"blocks.1={folder(tmp_path / 'sae', sparse(), KINDS['topk'])}")
    pixels = torch.randint(256, (8, 3, SIZE, SIZE), dtype=torch.uint8)
    batches = [
        ImageBatch(pixels=(pixels[first : first + 4],), images=torch.arange(first, first + 4), num_valid=4)
        for first in (0, 4)
    ]
    states = []
    for block in (lenses.BLOCK, 4 * 64 * 6):
        monkeypatch.setattr(lenses, "BLOCK", block)
        config = SearchConfig(k=3, batch_size=4)
        states.append(search(subject, (), batches, config, on_bad=lambda image, why: pytest.fail(why))["blocks.1:sae"])
    whole, parts = states
    assert whole.topk.images().equal(parts.topk.images())
    torch.testing.assert_close(whole.topk.activations(), parts.topk.activations(), rtol=1e-5, atol=1e-5)
    assert whole.histogram.positions_seen == parts.histogram.positions_seen == 8 * 64
    assert whole.histogram.total().equal(parts.histogram.total())


def test_files_of_other_layouts_hold_the_same(tmp_path: Path) -> None:
    state = sparse()
    torch.save({"cfg": {"activation_fn_str": "relu"}, "state_dict": state}, tmp_path / "prisma.pt")
    saev(tmp_path / "old.pt", state, {"schema": 1, "cls": "TopK", "cfg": {"top_k": 4}})
    renamed = {"encoder.weight": state["W_enc"].T.contiguous(), "encoder.bias": state["b_enc"], "bias": state["b_dec"]}
    save_file(renamed, tmp_path / "dictionary_learning.safetensors")
    names = ("prisma.pt", "old.pt", "dictionary_learning.safetensors")
    found = [read_dictionary(str(tmp_path / name), "l") for name in names]
    assert [(each.activation, each.k) for each in found] == [("relu", 0), ("topk", 4), ("relu", 0)]
    for each in found:
        assert each.encoder.equal(state["W_enc"].T)
        assert each.pre.equal(state["b_dec"])


def saev(path: Path, state: dict[str, Tensor], header: dict) -> None:
    with path.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save(state, file)


def test_each_library_is_followed_where_they_differ(tmp_path: Path) -> None:
    """Saev's newer files, dictionary_learning's TopK with a threshold that it does not use, its JumpReLU and gated."""
    state = sparse()
    batch = {"cls": "BatchTopK", "params": {"top_k": 4}}
    saev(tmp_path / "saev.pt", state, {"schema": 2, "cfg": {"activation": batch}})
    encoder = {"encoder.weight": state["W_enc"].T.contiguous(), "encoder.bias": state["b_enc"], "b_dec": state["b_dec"]}
    counted = {"k": torch.tensor(5), "threshold": torch.tensor(-1.0)}
    topk = folder(tmp_path / "topk", encoder | counted, {"trainer": {"dict_class": "AutoEncoderTopK"}})
    learnt = encoder | counted | {"threshold": torch.tensor(0.3)}
    batch_topk = folder(tmp_path / "batch", learnt, {"trainer": {"dict_class": "BatchTopKSAE"}})
    jump = folder(tmp_path / "jump", state | {"threshold": torch.rand(20)}, {"dict_class": "JumpReluAutoEncoder"})
    mags = {name: torch.randn(20) for name in ("r_mag", "gate_bias", "mag_bias")}
    gated = folder(
        tmp_path / "gated",
        {"encoder.weight": encoder["encoder.weight"], "decoder_bias": state["b_dec"], **mags},
        {"dict_class": "GatedAutoEncoder"},
    )
    paths = (tmp_path / "saev.pt", topk, batch_topk, jump, gated)
    found = [read_dictionary(str(path), "l") for path in paths]
    assert [(each.activation, each.k) for each in found] == [
        ("topk", 4),
        ("topk", 5),
        ("threshold", 0),
        ("threshold", 0),
        ("gated", 0),
    ]
    taken_off = [bool(each.pre.any()) for each in found]
    assert taken_off == [False, True, True, False, True]


@pytest.mark.parametrize("said", [{"architectures": ["TopKSAE"]}, {"sae_type": "topk"}, {"architecture": "topk"}])
def test_a_dictionarys_kind_is_read_wherever_it_is_said(said: dict, tmp_path: Path) -> None:
    config = {**said, "k": 8, "normalize_decoder": True}
    found = read_dictionary(str(folder(tmp_path / "sae", sparse(), config)), "l")
    assert (found.activation, found.k, found.normalisation) == ("topk", 8, "none")


def test_a_normalisation_may_be_named_beside_one_that_is_not_known(tmp_path: Path) -> None:
    config = {"sae_type": "topk", "k": 8, "input_unit_norm": True, "normalize_activations": "layer_norm"}
    assert read_dictionary(str(folder(tmp_path / "sae", sparse(), config)), "l").normalisation == "layer_norm"


def test_inputs_scaled_to_a_constant_norm_get_that_of_their_width(tmp_path: Path) -> None:
    config = {"architecture": "standard", "normalize_activations": "constant_norm_rescale"}
    found = read_dictionary(str(folder(tmp_path / "sae", sparse(), config)), "l")
    torch.testing.assert_close(found.prepare(torch.randn(2, 32)).add(found.pre).norm(dim=1), torch.full((2,), 32**0.5))


def test_probes_directions_and_principal_components_are_dictionaries_too(tmp_path: Path) -> None:
    weight = torch.randn(5, 32)
    save_file({"weight": weight, "bias": torch.ones(5)}, tmp_path / "probe.safetensors")
    save_file({"components": weight, "mean": torch.ones(32)}, tmp_path / "pca.safetensors")
    subject = with_dictionary(transformer(), f"blocks.0={tmp_path / 'probe.safetensors'}")
    subject = with_dictionary(subject, f"blocks.0={tmp_path / 'pca.safetensors'}")
    found = read(subject, ("blocks.0", "blocks.0:probe", "blocks.0:pca"), torch.randn(2, 3, SIZE, SIZE))
    x = found["blocks.0"].movedim(1, -1)
    torch.testing.assert_close(found["blocks.0:probe"], (x @ weight.T + 1).movedim(-1, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["blocks.0:pca"], ((x - 1) @ weight.T).movedim(-1, 1), rtol=1e-4, atol=1e-4)
    assert [info.num_units for info in list_layers(subject) if ":" in info.name] == [5, 5]


def test_a_dictionary_over_a_vector_and_over_a_map_works(tmp_path: Path) -> None:
    save_file({"weight": torch.randn(5, 16)}, tmp_path / "w.safetensors")
    subject = with_dictionary(subject_of(plain(), name="it", input_size=SIZE), f"1={tmp_path / 'w.safetensors'}")
    assert read(subject, ("1:w",), torch.randn(2, 3, SIZE, SIZE))["1:w"].shape == (2, 5, 16, 16)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("blocks.1", "expected layer=FILE"),
        ("blocks.7=x", "no layer 'blocks.7'"),
        ("blocks.1=nowhere", "No dictionary at"),
        ("blocks.1={}/narrow.safetensors", "takes 16 inputs, but layer 'blocks.1'"),
        ("blocks.1={}/gated", "gated dictionary that lacks a part"),
        ("blocks.1={}/batch", "BatchTopK dictionary without its threshold"),
        ("blocks.1={}/nothing.safetensors", "holds no dictionary"),
        ("blocks.1={}/pursuit", "of the kind 'matchingpursuit', which is not known"),
        ("blocks.1={}/nameless", "comes with k = 32, and does not say of which kind"),
        ("blocks.1={}/centred", "says input_unit_norm = True"),
        ("blocks.1={}/ungated", "gated dictionary that lacks a part"),
    ],
)
def test_a_dictionary_that_cannot_be_read_right_is_refused(given: str, why: str, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(4, 16)}, tmp_path / "narrow.safetensors")
    save_file({"other": torch.zeros(4, 32)}, tmp_path / "nothing.safetensors")
    folder(tmp_path / "gated", sparse(), {"architecture": "gated"})
    folder(tmp_path / "pursuit", sparse(), {"architecture": "matching_pursuit"})
    folder(tmp_path / "batch", sparse(), {"activation_fn": "batchtopk", "k": 8})
    folder(tmp_path / "nameless", sparse(), {"expansion_factor": 32, "normalize_decoder": True, "k": 32, "d_in": 32})
    folder(tmp_path / "centred", sparse(), {"sae_type": "topk", "top_k": 8, "input_unit_norm": True})
    folder(tmp_path / "ungated", sparse(), {"dict_class": "GatedAutoEncoder"})
    with pytest.raises(SubjectError, match=why):
        with_dictionary(transformer(), given.format(tmp_path))


def test_a_threshold_or_another_function_may_be_chosen_for_batchtopk(tmp_path: Path) -> None:
    config = {"activation_fn": "batchtopk", "k": 8}
    chosen = folder(tmp_path / "level", sparse(), config | {"threshold": 0.5})
    other = folder(tmp_path / "other", sparse(), {"architecture": "topk", "k": 8})
    level = read_dictionary(str(chosen), "l").threshold
    assert level is not None
    assert float(level) == 0.5
    assert read_dictionary(str(other), "l").k == 8


def test_the_weights_identity_tells_dictionaries_apart(tmp_path: Path) -> None:
    first = folder(tmp_path / "sae", sparse(), {"architecture": "standard"})
    subject = transformer()
    one = with_dictionary(subject, f"blocks.1={first}")
    (first / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 2}))
    two = with_dictionary(subject, f"blocks.1={first}")
    assert len({subject.weights_id, one.weights_id, two.weights_id}) == 3
