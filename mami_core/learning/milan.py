"""A decoder of MILAN → a checkpoint of ours that says the same.

MILAN (Hernandez et al., 2022, arXiv 2201.11114) saves a decoder with `torch.save` as nested dictionaries
`{"properties", "children", "state_dict"}`: the vocabulary, the encoder's name, the sizes, and the weights of the
decoder, of its language model if it has one, and of its encoder. spaCy's configuration lies among the properties as a
dictionary of a class of its own, which is read as an ordinary one; its rules are spaCy's for English, and nothing else
of it is needed. MILAN numbers V words 0…V−1 and then the start word, the stop word, padding and unknown words.
"""

import dataclasses
import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, Strategy
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import Vocabulary
from mami_core.errors import CheckpointError, MamiError
from mami_core.features import EncoderConfig, load_encoder
from mami_core.learning.checkpoint import ENCODER, Network, Trained, save

logger = logging.getLogger(__name__)

_RESNET = ("conv1", "layer1", "layer2", "layer3", "layer4")
LEVELS = {
    # MILAN reads AlexNet's convolutions, after the ReLUs that follow them have overwritten what they gave.
    "alexnet": ("features.1", "features.4", "features.7", "features.9", "features.11"),
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
}
"""The levels of MILAN's encoders, by torchvision's names."""

_SPACY_CONFIGS = ("thinc.config.Config", "confection.Config", "confection._config.Config")
"""What spaCy's configuration was called over the years: a dictionary each time."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ENCODER_PREFIX = "encoder.encoder.model."
_RERANKER = "reranker."
_LEFT_OUT = ("encoder.", _RERANKER)
_STRATEGIES: dict[str, Strategy] = {"greedy": "while_decoding", "beam": "while_decoding", "rerank": "rerank"}
_NO_CHECKPOINT = "{}: expected a whole file that torch.save wrote; this one is cut off, or of another kind."
_KNOWN = re.compile(r"(encoder|lm|init_[hc]|embedding|attend|feature_gate|lstm|output|reranker)\..+")
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class _File:
    """What a decoder's file holds, looked at."""

    words: tuple[str, ...]
    encoder: str
    properties: Mapping[str, Any]
    language_model: Mapping[str, Any] | None
    """The properties of the language model."""
    tensors: dict[str, Tensor]
    """The state, without the encoder's."""
    encoder_tensors: dict[str, Tensor]


def import_milan(file: Path) -> dict[str, bytes]:
    """The files of a checkpoint that captions as this decoder of MILAN does, its encoder's weights among them.

    Raises:
        CheckpointError: no decoder of MILAN, one with an encoder that is not known here, or a file that holds more than
            tensors and plain values.
    """
    found = _looked_at(_read(file), str(file))
    weights = save_tensors(found.encoder_tensors)
    encoder = EncoderConfig(
        name=f"torchvision:{found.encoder}",
        weights=ENCODER,
        preprocessing="IMAGENET1K_V1",  # MILAN's mean and deviation: checked
        levels=LEVELS[found.encoder],
        input_size=224,
        pooling="bilinear",
        regions="milan",
    )
    try:
        trained = Trained(
            captioner=_captioner(found),
            language_model=_language_model(found),
            encoder=encoder,
            encoder_id=_encoder_id(encoder, weights),
            decode=_decode(found),
            notes={"imported": "a decoder of MILAN"},
        )
    except KeyError as error:
        raise CheckpointError(f"{file}: has no weights called {error}, which every decoder of MILAN has.") from error
    except (RuntimeError, LookupError, TypeError, ValueError, MamiError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file}: its weights or its properties cannot be taken over: {reason}") from error
    return save(trained) | {ENCODER: weights}


# --- reading -----------------------------------------------------------------------------------------------------


def _read(file: Path) -> Any:
    """The file's content. Only tensors, plain values and dictionaries are made, whatever stands in it."""
    try:
        with torch.serialization.safe_globals([(OrderedDict, name) for name in _SPACY_CONFIGS]), catch_warnings():
            simplefilter("ignore")  # torch's advice on files that are not its own
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: expected a decoder of MILAN here, and there is no such file.") from error
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{file}: holds '{refused[1]}', and unpickling it could run anything. A decoder of MILAN holds "
                f"tensors, plain values and spaCy's configuration ({', '.join(_SPACY_CONFIGS)})."
            ) from error
        raise CheckpointError(_NO_CHECKPOINT.format(file)) from error  # torch's words advise to run it all the same
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(_NO_CHECKPOINT.format(file)) from error


def _looked_at(content: Any, where: str) -> _File:
    properties = _properties(content, where)
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{where}: expected the decoder's weights under 'state_dict', found none.")
    if odd := [name for name in state if not _KNOWN.fullmatch(name)]:
        raise CheckpointError(f"{where}: not MILAN's decoder alone; it has weights called {', '.join(odd[:_SHOWN])}.")
    for name, tensor in state.items():
        if not name.startswith(_LEFT_OUT) and not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise CheckpointError(f"{where}: expected finite weights; {name} ({tensor.dtype}) holds something else.")
    if any(name.startswith(_RERANKER) for name in state):
        logger.warning(
            "%s: the decoder is taken over, and its CLIP reranker is not: captions are in the order that they had "
            "before CLIP. With `--rerank trust --scorer CLIP_FOLDER`, jobs.label has CLIP put them into an order of "
            "its own.",
            where,
        )
    indexer = _properties(properties.get("indexer"), f"{where}, indexer")
    words = _properties(indexer.get("vocab"), f"{where}, vocab").get("tokens")
    if not isinstance(words, Sequence) or not words or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{where}: expected the vocabulary's words as a list of texts.")
    _check_tokenizer(_properties(indexer.get("tokenize"), f"{where}, tokenize"), where)
    language_model = properties.get("lm")
    rows = state["embedding.weight"].shape[0] if "embedding.weight" in state else 0
    if rows != len(words) + 4:
        raise CheckpointError(f"{where}: expected {len(words)} words and 4 special ones, found weights for {rows}.")
    return _File(
        words=tuple(words),
        encoder=_encoder(content, properties, where),
        properties=properties,
        language_model=None if language_model is None else _properties(language_model, f"{where}, lm"),
        tensors={name: tensor.float() for name, tensor in state.items() if not name.startswith(_LEFT_OUT)},
        encoder_tensors=_encoder_tensors(state, where),
    )


def _properties(content: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or not isinstance(content.get("properties"), Mapping):
        kind = (
            f"a dictionary of {sorted(map(str, content))[:_SHOWN]}" if isinstance(content, Mapping) else type(content)
        )
        raise CheckpointError(
            f"{where}: expected what MILAN saves, a dictionary with 'properties' and 'children'; found {kind}."
        )
    return content["properties"]


def _check_tokenizer(settings: Mapping[str, Any], where: str) -> None:
    expected = {"lemmatize": False, "lowercase": True, "ignore_stop": False, "ignore_punct": False}
    found = {name: settings.get(name) for name in expected}
    if found != expected:
        logger.warning(
            "%s: cuts texts with %s, which is not MILAN's usual way (%s). Captions are the same; texts that are cut "
            "anew are cut in the usual way.",
            *(where, found, expected),
        )


def _encoder(content: Mapping[str, Any], properties: Mapping[str, Any], where: str) -> str:
    children = content.get("children")
    kind = children.get("encoder") if isinstance(children, Mapping) else None
    name = _properties(properties.get("encoder"), f"{where}, encoder").get("config")
    if kind != "PyramidConvEncoder" or name not in LEVELS:
        raise CheckpointError(
            f"{where}: expected a PyramidConvEncoder of {', '.join(LEVELS)}; this decoder reads {kind} of {name}."
        )
    return str(name)


def _encoder_tensors(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    for name, expected in (("encoder.mean", _MEAN), ("encoder.std", _STD)):
        if name in state and not torch.allclose(state[name].flatten().float(), torch.tensor(expected), atol=1e-3):
            raise CheckpointError(f"{where}: expected ImageNet's {name} {expected}, found {state[name].flatten()}.")
    found = {
        name.removeprefix(_ENCODER_PREFIX): (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in state.items()
        if name.startswith(_ENCODER_PREFIX)
    }
    if not found:
        raise CheckpointError(f"{where}: expected the encoder's weights as {_ENCODER_PREFIX}…, found none.")
    return found


def _encoder_id(config: EncoderConfig, weights: bytes) -> str:
    with TemporaryDirectory(prefix="mami-encoder-") as folder:
        file = Path(folder) / ENCODER
        file.write_bytes(weights)
        try:
            return load_encoder(dataclasses.replace(config, weights=str(file))).id
        except MamiError as error:
            raise CheckpointError(str(error).replace(str(file), _ENCODER_PREFIX[:-1])) from error


def _decode(found: _File) -> DecodeConfig:
    """How MILAN decodes with it."""
    stated = found.properties.get("strategy") or "rerank"
    if not isinstance(stated, str) or stated not in _STRATEGIES:
        # "sample" draws captions at random: of those it could draw, the best one is what a label is.
        logger.warning("MILAN's strategy '%s' is not one of labels; 'rerank' is used instead.", stated)
        stated = "rerank"
    return DecodeConfig(
        strategy=_STRATEGIES[stated] if found.language_model else "likelihood",
        beam_size=1 if stated == "greedy" else found.properties.get("beam_size", 50),
        lm_weight=found.properties.get("temperature", 0.2),
        max_length=found.properties.get("length", 15),
        rules="milan",
    )


# --- the mapping -------------------------------------------------------------------------------------------------


def _captioner(found: _File) -> Captioner:
    t, order = found.tensors, _order(found.words)
    embedding, hidden = t["embedding.weight"].shape[1], t["lstm.weight_hh"].shape[1]
    num_features = t["attend.key_to_hidden.weight"].shape[1]
    config = CaptionerConfig(
        num_features=num_features,
        attentions=("bahdanau",),
        embedding=embedding,
        hidden=hidden,
        attention_size=len(t["attend.query_to_hidden.weight"]),
        dropout=found.properties.get("dropout", 0.5),
    )
    bahdanau = "attentions.each.bahdanau"
    with torch.device("meta"):
        captioner = Captioner(config, Vocabulary(found.words, "spacy"))
    return _filled(
        captioner,
        {
            "feature_mean": torch.zeros(num_features),
            "feature_scale": torch.ones(num_features),
            **_linear("initial_hidden", t, "init_h.0"),
            **_linear("initial_cell", t, "init_c.0"),
            f"{bahdanau}.query.weight": t["attend.query_to_hidden.weight"],
            f"{bahdanau}.query.bias": t["attend.query_to_hidden.bias"] + t["attend.key_to_hidden.bias"],
            f"{bahdanau}.key.weight": t["attend.key_to_hidden.weight"],
            f"{bahdanau}.energy": t["attend.output.0.weight"][0],  # its bias is the same for all exemplars
            **_linear("context_gate", t, "feature_gate.0"),
            "embedding.weight": t["embedding.weight"][order],
            "word_gates.weight": t["lstm.weight_ih"][:, :embedding],
            "word_gates.bias": t["lstm.bias_ih"] + t["lstm.bias_hh"],
            "context_gates.weight": t["lstm.weight_ih"][:, embedding:],
            "hidden_gates.weight": t["lstm.weight_hh"],
            **_linear("output", t, "output.1", order),
        },
    )


def _language_model(found: _File) -> LanguageModel | None:
    if found.language_model is None:
        return None
    t, order = found.tensors, _order(found.words)
    layers = sum(bool(re.fullmatch(r"lm\.lstm\.weight_hh_l\d+", name)) for name in t)
    config = LanguageModelConfig(
        embedding=t["lm.embedding.weight"].shape[1],
        hidden=t["lm.lstm.weight_hh_l0"].shape[1],
        layers=layers,
        dropout=found.language_model.get("dropout", 0.5),
    )
    with torch.device("meta"):
        model = LanguageModel(config, Vocabulary(found.words, "spacy"))
    state = {"embedding.weight": t["lm.embedding.weight"][order], **_linear("output", t, "lm.output.0", order)}
    for layer in range(layers):
        state |= {
            f"input_gates.{layer}.weight": t[f"lm.lstm.weight_ih_l{layer}"],
            f"input_gates.{layer}.bias": t[f"lm.lstm.bias_ih_l{layer}"] + t[f"lm.lstm.bias_hh_l{layer}"],
            f"hidden_gates.{layer}.weight": t[f"lm.lstm.weight_hh_l{layer}"],
        }
    return _filled(model, state)


def _order(words: Sequence[str]) -> list[int]:
    """MILAN's number of each of our words: padding, start, stop, unknown, and the ordinary ones."""
    v = len(words)
    return [v + 2, v, v + 1, v + 3, *range(v)]


def _linear(ours: str, tensors: Mapping[str, Tensor], theirs: str, rows: Sequence[int] | None = None) -> dict:
    """A linear layer's weight and bias under our name, with some of its rows in this order."""
    pick = slice(None) if rows is None else rows
    return {f"{ours}.{part}": tensors[f"{theirs}.{part}"][pick] for part in ("weight", "bias")}


def _filled(network: Network, state: Mapping[str, Tensor]) -> Network:
    network.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, strict=True, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return network.eval()
