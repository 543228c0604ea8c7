"""Dictionaries from the files that people publish: Prisma, saev, sae_lens, dictionary_learning, plain tensors."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mami_core.errors import SubjectError
from mami_core.subjects.reading.dictionary import Activation, Dictionary, Normalisation
from mami_core.subjects.weights import read_state_dict

_NAMES = {
    "encoder": ("W_enc", "encoder.weight", "enc.weight", "weight", "directions", "components"),
    "bias": ("b_enc", "encoder.bias", "enc.bias", "latent_bias", "bias_enc", "bias"),
    "pre": ("b_dec", "pre_bias", "decoder_bias", "decoder.bias", "dec.bias", "mean", "bias"),
    "threshold": ("threshold", "log_threshold", "thresholds"),
    "gate": ("b_gate", "gate_bias"),
    "magnitude": ("b_mag", "mag_bias"),
    "gain": ("r_mag",),
}
"""What each part is called, the first that is there counts."""
_KINDS = {
    *("", "none", "relu", "standard", "vanilla", "gated", "jumprelu", "topk", "batchtopk", "matryoshkabatchtopk"),
    *("transcoder", "skiptranscoder", "jumprelutranscoder", "jumpreluskiptranscoder"),
    *("autoencoder", "autoencodernew", "gatedautoencoder", "jumpreluautoencoder", "autoencodertopk"),
    *("batchtopksae", "matryoshkabatchtopksae", "sparseautoencoderconfig"),
    *("sae", "relusae", "standardsae", "vanillasae", "gatedsae", "jumprelusae", "topksae"),
}
"""What libraries call activations, architectures and classes that are read right, without anything but letters."""
_NORMALISES = re.compile(
    r"(normali[sz]e|standardi[sz]e|whiten)(_(input|activation|act|data)s?)?"
    r"|(input|activation|act|data)s?_((unit|layer)_?)?(norm|normali[sz]e|normali[sz]ation|standardi[sz]ation)"
)
"""Settings of what is done to inputs first; not of what is done to the decoder."""


def read_dictionary(path: str, layer: str) -> Dictionary:
    """A dictionary over `layer`, from a file or the folder it lies in.

    Layouts: sae_lens (a folder with cfg.json and sae_weights.safetensors), saev (a file that starts with a line of
    JSON), Prisma (a checkpoint with `cfg` and `state_dict`, or weights beside a config.json), dictionary_learning,
    and plain tensors: `weight` [n, units] with or without `bias`, `components` with `mean`.

    Raises:
        SubjectError: no such file, no tensors that are known, or a kind of dictionary that cannot be read right.
    """
    file, config = _find(Path(path))
    state, own = _load(file)
    config = {**config, **own}
    config = {**(config.get("trainer") or {}), **config}  # dictionary_learning's
    parts = {part: _pick(state, names) for part, names in _NAMES.items()}
    encoder = parts["encoder"]
    if encoder is None or encoder.ndim != 2:
        raise SubjectError(
            f"'{file}' holds no dictionary: expected W_enc, encoder.weight, or weight [latents, units]; "
            f"found {', '.join(list(state)[:6])}."
        )
    sparse = any(name in state for name in ("W_enc", "encoder.weight", "enc.weight"))
    if "W_enc" in state:
        encoder = encoder.T  # theirs is [units, latents]
    num_latents, num_units = encoder.shape
    gate, gain, offset = _gated(file, parts, config, sparse=sparse)
    bias, pre = parts["bias"] if gate is None else gate, parts["pre"]
    bias = torch.zeros(num_latents) if bias is None or len(bias) != num_latents else bias
    takes_off = (
        sparse
        and bool(config.get("apply_b_dec_to_input", not _leaves_input(config)))
        and "transcoder" not in str(config.get("architecture"))
    )
    pre = torch.zeros(num_units) if pre is None or len(pre) != num_units or not (takes_off or "mean" in state) else pre
    activation, k, threshold = _activation(file, state, config, parts["threshold"], sparse)
    activation = activation if gate is None else "gated"
    normalisation, scale = _normalisation(file, config, num_units)
    return Dictionary(
        layer=layer,
        encoder=encoder.contiguous(),
        bias=bias.float(),
        pre=pre.float(),
        activation=activation,
        k=k,
        threshold=threshold,
        gain=gain,
        offset=offset,
        normalisation=normalisation,
        scale=scale,
        id=_identity(state, config),
    )


def _find(path: Path) -> tuple[Path, dict[str, Any]]:
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix in (".safetensors", ".pt", ".pth"))
        found = [each for each in found if "sparsity" not in each.name] or found
        if not found:
            raise SubjectError(f"No dictionary in '{path}'. Expected a .safetensors or .pt file there.")
        path = found[0]
    if not path.is_file():
        raise SubjectError(f"No dictionary at '{path}'. Expected a file, or a folder with one.")
    beside = next((path.parent / name for name in ("cfg.json", "config.json") if (path.parent / name).is_file()), None)
    return path, json.loads(beside.read_text()) if beside else {}


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what the file itself says of them."""
    with file.open("rb") as opened:
        first = opened.read(1)
        if first != b"{":
            return _checkpoint(file)
        opened.seek(0)
        header = json.loads(opened.readline())
        state = torch.load(io.BytesIO(opened.read()), map_location="cpu", weights_only=True)
    config = header.get("cfg", header)
    return state, {**config, **{key: value for key, value in header.items() if key != "cfg"}}


def _checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if file.suffix != ".safetensors":
        try:
            whole = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # read_state_dict says what is wrong
            whole = {}
        if isinstance(whole, Tensor):
            return {"weight": whole}, {}
        if isinstance(whole, dict) and isinstance(whole.get("cfg"), dict):
            return read_state_dict(str(file)), whole["cfg"]
    return read_state_dict(str(file)), {}


def _pick(state: dict[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    return next((state[name] for name in names if name in state), None)


def _kind(said: object) -> str:
    """Letters alone of what a library calls a kind: "torch.nn.ReLU()" and "relu" are one."""
    return re.sub("[^a-z]", "", str(said or "").lower().rpartition(".")[2])


def _kinds(config: dict[str, Any], *, sparse: bool) -> list[str]:
    """What a file's settings call the dictionary, in letters alone; nothing where they do not say."""
    architectures = (config.get("architectures") or []) if sparse else []  # a probe may lie beside its network's
    said = [config.get("architecture"), config.get("sae_type"), config.get("dict_class")]
    said += [architectures] if isinstance(architectures, str) else architectures
    return [kind for kind in map(_kind, said) if kind]


def _leaves_input(config: dict[str, Any]) -> bool:
    """Whether the decoder's bias is not taken off.

    Saev leaves it since its files have an `activation`, and dictionary_learning does for its JumpReLU.
    """
    return isinstance(config.get("activation"), dict) or "JumpRelu" in str(config.get("dict_class"))


def _gated(
    file: Path, parts: dict[str, Tensor | None], config: dict[str, Any], *, sparse: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of a gated dictionary the gate's bias, and gain and offset of the strength: exp(r) (Wx + b_mag / exp(r))."""
    gate, magnitude, gain = parts["gate"], parts["magnitude"], parts["gain"]
    if gate is None and not any("gated" in kind for kind in _kinds(config, sparse=sparse)):
        return None, None, None
    if gate is None or magnitude is None or gain is None:
        raise SubjectError(
            f"'{file}' is a gated dictionary that lacks a part: expected b_gate, r_mag and b_mag, or gate_bias, r_mag "
            "and mag_bias."
        )
    gate, gain = gate.float(), gain.float().exp()
    return gate, gain, magnitude.float() - gain * gate


def _activation(
    file: Path, state: dict[str, Tensor], config: dict[str, Any], threshold: Tensor | None, sparse: bool
) -> tuple[Activation, int, Tensor | None]:
    said = next(
        (config[name] for name in ("activation_fn_str", "activation_fn", "activation", "cls") if config.get(name)), ""
    )
    settings = {**config, **(config.get("activation_fn_kwargs") or {})}
    if isinstance(said, dict):  # saev's: {"cls": …, "params": {…}}
        settings |= {**said, **(said.get("params") or {})}
        said = said.get("cls") or said.get("key") or ""
    kinds = [_kind(said), *_kinds(config, sparse=sparse)]
    if unknown := [kind for kind in kinds if kind not in _KINDS]:
        raise SubjectError(
            f"'{file}' is a dictionary of the kind '{unknown[0]}', which is not known here. Known are standard (ReLU), "
            "topk, batchtopk, jumprelu and gated ones, and transcoders of these."
        )
    name = " ".join(kinds)
    said_k = int(settings.get("k") or settings.get("top_k") or 0)
    if sparse and said_k and set(kinds) <= {"", "none", "sae"}:
        raise SubjectError(
            f"'{file}' comes with k = {said_k}, and does not say of which kind it is. Say it in the cfg.json beside "
            'it: "architecture": "topk" for the k highest at each position, "standard" for ReLU.'
        )
    k = said_k or (int(state["k"]) if "k" in state else 0)
    if "batchtopk" in name and isinstance(config.get("activation"), dict):
        name = "topk"  # saev's library takes the k highest at each position when it reads such a file
    if "topk" in name and "batchtopk" not in name:
        if k < 1:
            raise SubjectError(f"'{file}' is a TopK dictionary that does not say its k; expected it in cfg.json.")
        return "topk", k, None
    if threshold is None and "threshold" in config:
        threshold = torch.tensor(float(config["threshold"]))
    unlearnt = threshold is None or ("k" in state and bool((threshold < 0).all()))
    if unlearnt and ("batchtopk" in name or "k" in state):
        raise SubjectError(
            f"'{file}' is a BatchTopK dictionary without its threshold: which latents are active would depend on the "
            "other images of a batch. Save the threshold that it learnt (sae_lens converts it to JumpReLU), or say in "
            'the cfg.json beside it what is to be read instead: "threshold": NUMBER, or "architecture": "topk" for the '
            "k highest at each position, which is another function."
        )
    if threshold is not None:
        level = threshold.exp() if "log_threshold" in state else threshold
        return "threshold", 0, level.float()
    if "jump" in name:
        raise SubjectError(f"'{file}' is a JumpReLU dictionary, but there is no 'threshold' in it.")
    return ("relu" if sparse else "linear"), 0, None


def _normalisation(file: Path, config: dict[str, Any], num_units: int) -> tuple[Normalisation, float]:
    odd = [name for name, value in config.items() if _NORMALISES.fullmatch(name.lower()) and _is_on(value)]
    if odd and "normalize_activations" not in config:
        raise SubjectError(
            f"'{file}' says {odd[0]} = {config[odd[0]]}: how its inputs are normalised is not known here. Say it in "
            'the cfg.json beside it: "normalize_activations": "none", "layer_norm" (mean and deviation at each '
            'position) or "unit_norm".'
        )
    said = str(config.get("normalize_activations") or "none").lower()
    scale = float(config.get("scaling_factor") or config.get("activation_norm_scaling_factor") or 1.0)
    if said in ("none", "false"):
        return "none", scale
    if said in ("layer_norm", "layernorm", "true"):
        return "layer_norm", scale
    if said in ("unit_norm", "constant_norm_rescale"):
        norm = float(num_units) ** 0.5 if said == "constant_norm_rescale" else 1.0
        return "unit_norm", norm
    if said == "expected_average_only_in" and scale != 1.0:
        return "none", scale
    raise SubjectError(
        f"'{file}' was trained on inputs normalised as '{said}', whose numbers are not in it. Fold them into the "
        "weights (sae_lens: fold_activation_norm_scaling_factor) and save it anew."
    )


def _is_on(value: object) -> bool:
    return bool(value) and str(value).lower() not in ("none", "false", "no")


def _identity(state: dict[str, Tensor], config: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
