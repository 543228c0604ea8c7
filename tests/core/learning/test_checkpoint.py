"""Checkpoints: what is saved comes back to the bit, and nothing else is accepted."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.evidence import Evidence, EvidenceConfig, Phrase
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.taught import Taught
from mami_core.captions.vocabulary import START, STOP, Vocabulary
from mami_core.errors import CheckpointError
from mami_core.features import EncoderConfig
from mami_core.learning.checkpoint import (
    CAPTIONER,
    CONFIG,
    ENCODER,
    FILES,
    LANGUAGE_MODEL,
    Trained,
    load,
    load_state,
    save,
    save_state,
)
from mami_core.learning.fit import TrainingState

Files = dict[str, bytes]


def trained(taught: tuple[str, ...] = (), shows: tuple[str, ...] = (), **shape: object) -> Trained:
    vocabulary = Vocabulary(("red", "café", "eyes"))
    settings: dict[str, Any] = {"num_features": 5, "hidden": 8, "embedding": 4, "attention_size": 6} | shape
    captioner = Captioner(CaptionerConfig(**settings), vocabulary, Taught.by(taught, vocabulary)).eval()
    captioner.feature_mean.copy_(torch.arange(5.0))
    if shows:
        phrases = tuple(Phrase(text, "noun") for text in shows)
        told_by = ((), *((number % 5, 4) for number in range(1, len(phrases))))
        config = EvidenceConfig(num_features=5, hidden=6, phrases=phrases, told_by=told_by)
        captioner.evidence = Evidence(config, vocabulary).eval()
    return Trained(
        captioner=captioner,
        language_model=LanguageModel(LanguageModelConfig(hidden=8, embedding=4, layers=2), vocabulary).eval(),
        encoder=EncoderConfig(name="torchvision:resnet18", levels=("layer1", "layer4"), input_size=64),
        encoder_id="0123456789abcdef",
        notes={"validation BLEU": 12.5},
    )


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"attentions": ("bahdanau",)},
        {"fusion": "weights"},
        {"fusion": "concatenation", "luong": "concat"},
        {"reading": "feeding", "num_ranks": 4},
        {"taught": ("red eyes", "red café")},
        {"shows": ("red", "red eyes")},
    ],
    ids=str,
)
@pytest.mark.parametrize("from_folder", [False, True])
def test_a_captioner_comes_back_to_the_bit(shape: dict, from_folder: bool, tmp_path: Path) -> None:
    before = trained(**shape)
    files = save(before)
    assert set(files) == set(FILES)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    after = load(tmp_path if from_folder else files)
    assert (after.id, after.encoder_id, after.notes) == (before.id, before.encoder_id, before.notes)
    assert after.encoder == before.encoder
    assert after.captioner.config == before.captioner.config
    assert after.captioner.vocabulary == before.captioner.vocabulary
    features, present = torch.randn(3, 4, 5), torch.ones(3, 4, dtype=torch.bool)
    config = DecodeConfig(evidence_weight=float("shows" in shape), beam_size=3, max_length=6)
    said, again = (caption(one.captioner, one.language_model, features, present, config) for one in (before, after))
    assert said == again
    assert save(after) == files


def test_options_that_came_later_leave_older_captioners_as_they_were() -> None:
    files = save(trained())
    config = json.loads(files[CONFIG])
    assert not config["captioner"].keys() & {"reading", "num_ranks"}
    for name in ("place", "scene"):
        del config["encoder"][name]
    older = load(files | {CONFIG: json.dumps(config).encode()})
    assert older.id == config["id"]
    assert older.captioner.config == trained().captioner.config
    assert older.encoder == trained().encoder


def test_evidence_that_does_not_know_what_is_usual_is_read_as_it_was_written() -> None:
    before = trained(shows=("red",))
    assert before.captioner.evidence is not None
    before.captioner.evidence.usual = None
    files = save(before)
    after = load(files)
    assert after.id == before.id != trained(shows=("red",)).id
    assert after.captioner.evidence is not None
    assert after.captioner.evidence.usual is None
    assert save(after) == files


@pytest.mark.parametrize("folder_known", [False, True])
def test_what_came_from_elsewhere_comes_back(folder_known: bool, tmp_path: Path) -> None:
    known = trained()
    vocabulary = Vocabulary(("red", "-", "'s"), "spacy")
    before = replace(
        known,
        captioner=Captioner(known.captioner.config, vocabulary).eval(),
        language_model=None,
        encoder=replace(known.encoder, weights=ENCODER, regions="milan"),
        decode=DecodeConfig(strategy="likelihood", rules="milan", beam_size=7),
    )
    files = save(before)
    assert set(files) == {CONFIG, CAPTIONER}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    after = load(tmp_path if folder_known else files)
    assert (after.id, after.language_model, after.decode) == (before.id, None, before.decode)
    assert after.captioner.vocabulary == vocabulary
    assert after.encoder.regions == "milan"
    assert after.encoder.weights == (str(tmp_path / ENCODER) if folder_known else ENCODER)
    assert after.to("cpu") is after


def test_loading_draws_nothing_from_the_callers_generator() -> None:
    files = save(trained(shows=("eyes",)))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load(files)
    assert torch.equal(torch.rand(1), expected)


def test_the_id_changes_with_whatever_changes_a_caption() -> None:
    one, ids = trained(shows=("eyes",)), set()
    assert one.language_model is not None
    with torch.no_grad():
        for network in (one.captioner, one.language_model):
            for tensor in network.state_dict().values():
                tensor.view(-1)[0] += 1
                ids.add(replace(one).id)
    ids.add(replace(one, encoder_id="another").id)
    one.captioner.taught = Taught.by(["red eyes"], one.captioner.vocabulary)
    ids.add(replace(one).id)
    assert one.captioner.evidence is not None
    renamed = EvidenceConfig(num_features=5, hidden=6, phrases=(Phrase("red", "noun"),))
    one.captioner.evidence.config = renamed
    ids.add(replace(one).id)
    assert len(ids) == len(one.captioner.state_dict()) + len(one.language_model.state_dict()) + 3
    assert replace(one, notes={"for": "people"}).id == replace(one).id


def changed_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Files], object]:
    def spoil(files: Files) -> None:
        tensors = load_tensors(files[name])
        change(tensors)
        files[name] = save_tensors(tensors)

    return spoil


def changed_config(change: Callable[[dict], object]) -> Callable[[Files], object]:
    def spoil(files: Files) -> None:
        config = json.loads(files[CONFIG])
        change(config)
        files[CONFIG] = json.dumps(config).encode()

    return spoil


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


def _misshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)] = torch.zeros(1, 2, 3)


def _retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)] = tensors[_first(tensors)].double()


def _teach_nothing(tensors: dict[str, torch.Tensor]) -> None:
    tensors["taught"] = torch.full((2, 3), STOP)


def _teach_others(tensors: dict[str, torch.Tensor]) -> None:
    tensors["taught"] = torch.tensor([[START, START, 99]])


def _nudge(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)] += 1


SPOILED = {
    "a file is missing": (lambda files: files.pop(LANGUAGE_MODEL), "there is no language_model"),
    "the weights are cut off": (
        lambda files: files.update({CAPTIONER: files[CAPTIONER][:-1]}),
        "captioner.safetensors",
    ),
    "the weights are empty": (lambda files: files.update({CAPTIONER: b""}), "captioner.safetensors"),
    "the weights are a pickle": (lambda files: files.update({CAPTIONER: pickle.dumps({"a": 1})}), "never read"),
    "the config is a pickle": (lambda files: files.update({CONFIG: pickle.dumps({"a": 1})}), "not the JSON"),
    "the config is cut off": (lambda files: files.update({CONFIG: files[CONFIG][:-9]}), "not the JSON"),
    "the config is no object": (lambda files: files.update({CONFIG: b"[]"}), "not the JSON"),
    "another version": (changed_config(lambda config: config.update(version=99)), "version 99.*expected 1"),
    "an unknown setting": (changed_config(lambda config: config["captioner"].update(more=1)), "does not describe"),
    "an impossible setting": (changed_config(lambda config: config["captioner"].update(hidden=0)), "does not describe"),
    "another size": (changed_config(lambda config: config["captioner"].update(hidden=9)), "do not fit"),
    "a size beyond all memory": (changed_config(lambda config: config["captioner"].update(hidden=10**6)), "do not fit"),
    "a size beyond all numbers": (changed_config(lambda config: config["captioner"].update(hidden=10**30)), "describe"),
    "a size that is a word": (changed_config(lambda config: config["captioner"].update(hidden="9")), "describe"),
    "levels that are none": (changed_config(lambda config: config["encoder"].update(levels=5)), "describe"),
    "no vocabulary": (changed_config(lambda config: config.pop("vocabulary")), "does not describe"),
    "a word too many": (changed_config(lambda config: config["vocabulary"].append("blue")), "do not fit"),
    "words of another order": (changed_config(lambda config: config["vocabulary"].reverse()), "two different"),
    "another encoder": (changed_config(lambda config: config.update(encoder_id="0")), "two different"),
    "a tensor is missing": (changed_tensors(CAPTIONER, lambda tensors: tensors.pop(_first(tensors))), "1 tensors do"),
    "a tensor too many": (
        changed_tensors(LANGUAGE_MODEL, lambda tensors: tensors.update(more=torch.zeros(1))),
        "more.*expected none",
    ),
    "a tensor of another shape": (changed_tensors(CAPTIONER, _misshape), "do not fit"),
    "a tensor of another type": (changed_tensors(CAPTIONER, _retype), "float64"),
    "phrases of other words": (
        changed_config(lambda config: config.update(evidence={"num_features": 5, "phrases": [["zebras", "noun"]]})),
        "zebras",
    ),
    "evidence of other features": (
        changed_config(lambda config: config.update(evidence={"num_features": 9, "phrases": [["red", "noun"]]})),
        "5 numbers an exemplar, and its evidence 9",
    ),
    "phrases without weights": (
        changed_config(lambda config: config.update(evidence={"num_features": 5, "phrases": [["red", "noun"]]})),
        "evidence.*found none",
    ),
    "sequences of words that are none": (
        changed_tensors(CAPTIONER, _teach_nothing),
        "captioner.safetensors.*begin a description.*Copy",
    ),
    "sequences of other words": (changed_tensors(CAPTIONER, _teach_others), "captioner.safetensors.*vocabulary of 7"),
    "weights of another captioner": (changed_tensors(CAPTIONER, _nudge), "two different"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_not_a_whole_captioner_is_refused(name: str) -> None:
    spoil, message = SPOILED[name]
    files = save(trained())
    spoil(files)
    with pytest.raises(CheckpointError, match=f"runs/x.*{message}"):
        load(files, where="runs/x")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        load(tmp_path)


def some_state() -> TrainingState:
    weights = {"a.weight": torch.randn(2, 3), "b": torch.randn(4)}
    moments = {"b/exp_avg": torch.randn(4), "b/step": torch.tensor(7.0)}
    return TrainingState(
        epoch=3, weights=weights, moments=moments, best_weights=weights, best_score=1 / 3, best_epoch=2
    )


def test_a_training_state_comes_back_to_the_bit() -> None:
    before = some_state()
    after = load_state(save_state(before))
    assert (after.epoch, after.best_score, after.best_epoch) == (3, 1 / 3, 2)
    for group in ("weights", "moments", "best_weights"):
        found, expected = getattr(after, group), getattr(before, group)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "data",
    [b"", pickle.dumps(1), save_tensors({"weights/a": torch.zeros(1)}), save_state(some_state())[:-1]],
    ids=["empty", "a pickle", "only tensors", "cut off"],
)
def test_what_is_no_training_state_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="runs/x"):
        load_state(data, where="runs/x")
