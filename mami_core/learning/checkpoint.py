"""A trained captioner as files: `config.json` and safetensors, restored strictly. No pickle, in or out.

A captioner without a language model has no `language_model.safetensors`. One that came with its encoder's weights has
them beside it, as `encoder.safetensors`.
"""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig
from mami_core.captions.evidence import Evidence, EvidenceConfig, Phrase
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.taught import Taught
from mami_core.captions.vocabulary import Vocabulary
from mami_core.errors import CheckpointError, MamiError
from mami_core.features import EncoderConfig
from mami_core.learning.fit import TrainingState

VERSION = 1

CONFIG, CAPTIONER, LANGUAGE_MODEL = "config.json", "captioner.safetensors", "language_model.safetensors"
FILES = (CONFIG, CAPTIONER, LANGUAGE_MODEL)
"""What a checkpoint's folder holds; the language model may be absent."""
_TAUGHT = "taught"
"""Beside the captioner's weights, where it knows them: the sequences of words that it was taught."""
ENCODER = "encoder.safetensors"
"""The encoder's weights, where they are beside the captioner. They are loaded as a weights file, not with `FILES`."""

Network = TypeVar("Network", bound=nn.Module)
_STATE_GROUPS = ("weights", "moments", "best_weights")
_STATE_NUMBERS = "training"


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """A captioner with all it needs: its language model, and which encoder's features it reads."""

    captioner: Captioner
    language_model: LanguageModel | None
    """None where there is none: captions are then chosen by their likelihood."""
    encoder: EncoderConfig
    encoder_id: str
    """`Encoder.id` of the encoder that it was trained on."""
    decode: DecodeConfig | None = None
    """How it is meant to be decoded, where that is not this project's way."""
    notes: dict[str, Any] = field(default_factory=dict)
    """For people: what it was trained on, and its scores. JSON values."""

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits that change with anything that changes a caption."""
        digest = hashlib.sha256(json.dumps(_identity(self), sort_keys=True).encode())
        for network in filter(None, (self.captioner, self.language_model)):
            for name, tensor in sorted(network.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        if self.captioner.taught is not None:
            digest.update(self.captioner.taught.sequences.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "Trained":
        """This captioner, its networks moved to `device`."""
        for network in filter(None, (self.captioner, self.language_model)):
            network.to(device)
        return self


_SINCE_VERSION_1 = {"reading": "before", "num_ranks": 0}
"""The captioner's options that came later, with the value that says what captioners did before."""


def _identity(trained: Trained) -> dict[str, Any]:
    model, vocabulary = trained.language_model, trained.captioner.vocabulary
    shape = dataclasses.asdict(trained.captioner.config)
    evidence = trained.captioner.evidence
    identity: dict[str, Any] = {
        "version": VERSION,
        # What came later is said only where it is used, so that a captioner keeps the id that it was saved with.
        "captioner": {name: value for name, value in shape.items() if _SINCE_VERSION_1.get(name) != value},
        "language_model": model and dataclasses.asdict(model.config),
        "vocabulary": list(vocabulary.words),
        "encoder_id": trained.encoder_id,
    }
    if evidence is not None:
        identity["evidence"] = {name: of for name, of in dataclasses.asdict(evidence.config).items() if of != ()}
    return identity if vocabulary.tokenizer == "words" else identity | {"tokenizer": vocabulary.tokenizer}


def in_half_precision(trained: Trained) -> Trained:
    """The same captioner with its weights rounded to half precision: another id, and `save` needs half the space."""
    rounded = copy.deepcopy(trained)
    for network in filter(None, (rounded.captioner, rounded.language_model)):
        network.load_state_dict({name: tensor.half().float() for name, tensor in network.state_dict().items()})
    return rounded


def save(trained: Trained) -> dict[str, bytes]:
    """The files of a checkpoint, by name. Weights that half precision can hold are stored in it."""
    config = _identity(trained) | {
        "id": trained.id,
        "encoder": dataclasses.asdict(trained.encoder),
        "notes": trained.notes,
    }
    if trained.decode:
        config["decode"] = dataclasses.asdict(trained.decode)
    files = {
        CONFIG: (json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        CAPTIONER: _to_bytes(_narrowed(trained.captioner.state_dict()) | _taught_of(trained.captioner)),
    }
    if trained.language_model:
        files[LANGUAGE_MODEL] = _to_bytes(_narrowed(trained.language_model.state_dict()))
    return files


def load(files: Mapping[str, bytes] | Path, *, where: str = "the captioner") -> Trained:
    """The captioner that `save` wrote, ready to caption.

    Args:
        files: The checkpoint's files by name, or its folder. Only with a folder is the place of the encoder's weights
            known, where they are in it.
        where: What messages call it.

    Raises:
        CheckpointError: a file is missing, cut off, of another version or kind, or does not fit the others.
    """
    folder = files if isinstance(files, Path) else None
    files = _read(files) if isinstance(files, Path) else files
    config = _config(files[CONFIG], where) if CONFIG in files else {}
    wanted = FILES if config.get("language_model", True) else (CONFIG, CAPTIONER)
    missing = [name for name in wanted if name not in files]
    if missing:
        raise CheckpointError(
            f"{where}: expected {', '.join(wanted)}, but there is no {', '.join(missing)}. Give the folder that "
            "jobs.train wrote its captioner to."
        )
    language_model = None
    weights = _tensors(files[CAPTIONER], f"{where}, {CAPTIONER}")
    try:
        vocabulary = Vocabulary(tuple(config["vocabulary"]), config.get("tokenizer", "words"))
        # Without memory until the weights come: nothing is drawn, and no impossible size is allocated.
        with torch.device("meta"):
            captioner = Captioner(CaptionerConfig(**config["captioner"]), vocabulary)
            if "evidence" in config:
                captioner.evidence = Evidence(_evidence_config(config["evidence"]), vocabulary)
                if "evidence.usual" not in weights:
                    captioner.evidence.usual = None
            if config["language_model"] is not None:
                language_model = LanguageModel(LanguageModelConfig(**config["language_model"]), vocabulary)
        encoder_settings: dict[str, Any] = {**config["encoder"], "levels": tuple(config["encoder"]["levels"])}
        if folder and encoder_settings["weights"] == ENCODER:
            encoder_settings["weights"] = str(folder / ENCODER)
        encoder = EncoderConfig(**encoder_settings)
        decode = DecodeConfig(**config["decode"]) if "decode" in config else None
    except (KeyError, TypeError, RuntimeError, MamiError) as error:
        raise CheckpointError(f"{where}: {CONFIG} does not describe a captioner of this version: {error}.") from error
    if captioner.evidence is not None and captioner.evidence.config.num_features != captioner.config.num_features:
        raise CheckpointError(
            f"{where}: its captioner reads {captioner.config.num_features} numbers an exemplar, and its evidence "
            f"{captioner.evidence.config.num_features}. Copy the captioner's folder again, all of it."
        )
    captioner.taught = _taught(weights, len(vocabulary), f"{where}, {CAPTIONER}")
    if language_model:
        of_language = f"{where}, {LANGUAGE_MODEL}"
        language_model = _restore(language_model, _tensors(files[LANGUAGE_MODEL], of_language), of_language)
    trained = Trained(
        captioner=_restore(captioner, weights, f"{where}, {CAPTIONER}"),
        language_model=language_model,
        encoder=encoder,
        encoder_id=config["encoder_id"],
        decode=decode,
        notes=config.get("notes", {}),
    )
    if trained.id != config.get("id"):
        raise CheckpointError(
            f"{where}: its weights and its {CONFIG} are of two different captioners (expected {config.get('id')}, "
            f"found {trained.id}). Copy the folder again, whole."
        )
    return trained


def _read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def _config(data: bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(data)
        version = config["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: {CONFIG} is not the JSON that jobs.train writes.") from error
    if version != VERSION:
        raise CheckpointError(
            f"{where}: written as version {version}, expected {VERSION}. Load it with the version of this project that "
            "wrote it, or train again."
        )
    return config


def _evidence_config(settings: dict[str, Any]) -> EvidenceConfig:
    phrases, told_by = settings["phrases"], settings.get("told_by", ())
    settings = settings | {"phrases": tuple(Phrase(*phrase) for phrase in phrases)}
    settings |= {"told_by": tuple(map(tuple, told_by)), "filling": tuple(settings.get("filling", ()))}
    return EvidenceConfig(**settings)


def _taught(weights: dict[str, Tensor], num_words: int, where: str) -> Taught | None:
    """What the captioner knows of its training descriptions, taken out of its weights."""
    if _TAUGHT not in weights:
        return None
    try:
        return Taught(weights.pop(_TAUGHT).long(), num_words)
    except (RuntimeError, MamiError) as error:
        raise CheckpointError(f"{where}: {error} Copy the captioner's folder again, all of it.") from error


def _restore(network: Network, stored: Mapping[str, Tensor], where: str) -> Network:
    """The network with the tensors of a safetensors file, ready to be used."""
    expected = network.state_dict()
    tensors = {name: _widened(tensor, expected.get(name)) for name, tensor in stored.items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wanted = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in expected.items()}
    if found != wanted:
        names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        first = names[0]
        raise CheckpointError(
            f"{where}: {len(names)} tensors do not fit the configuration, such as {first}: expected "
            f"{wanted.get(first, 'none')}, found {found.get(first, 'none')}."
        )
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval()


def _widened(tensor: Tensor, expected: Tensor | None) -> Tensor:
    """What was stored in half precision is computed with in single precision."""
    is_half = expected is not None and (tensor.dtype, expected.dtype) == (torch.float16, torch.float32)
    return tensor.float() if is_half else tensor


def _tensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{where}: expected a whole safetensors file, found {len(data)} bytes that are none ({error}). Pickles are "
            "never read."
        ) from error


def _narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In half precision, if not a bit is lost by it."""
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    return halves if all(torch.equal(halves[name].float(), tensors[name]) for name in halves) else dict(tensors)


def _taught_of(captioner: Captioner) -> dict[str, Tensor]:
    """What a checkpoint holds of the sequences that the captioner was taught."""
    if captioner.taught is None:
        return {}
    small = captioner.taught.num_words <= torch.iinfo(torch.int16).max
    return {_TAUGHT: captioner.taught.sequences.to(torch.int16 if small else torch.int32)}


def _to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


# --- training on its way -----------------------------------------------------------------------------------------


def save_state(state: TrainingState) -> bytes:
    """All of a training's state after an epoch, as one safetensors file."""
    tensors = {
        # Copies, because safetensors refuses two names for one tensor: the best weights may be the latest.
        f"{group}/{name}": tensor.clone()
        for group in _STATE_GROUPS
        for name, tensor in getattr(state, group).items()
    }
    numbers = {"epoch": state.epoch, "best_score": state.best_score, "best_epoch": state.best_epoch}
    return save_tensors(tensors, metadata={_STATE_NUMBERS: json.dumps({"version": VERSION, **numbers})})


def load_state(data: bytes, *, where: str = "the training state") -> TrainingState:
    """What `save_state` was given.

    Raises:
        CheckpointError: cut off, of another version, or no such file.
    """
    tensors = _tensors(data, where)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        numbers = json.loads(header["__metadata__"][_STATE_NUMBERS])
        if numbers.pop("version") != VERSION:
            raise KeyError("version")
        groups: dict[str, Any] = {group: {} for group in _STATE_GROUPS}
        for full, tensor in tensors.items():
            group, _, name = full.partition("/")
            groups[group][name] = tensor
        return TrainingState(**groups, **numbers)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: not a training state of this version ({error!r}).") from error
