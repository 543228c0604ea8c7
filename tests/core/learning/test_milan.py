"""A decoder of MILAN becomes a captioner that says the same, compared with MILAN's equations stated plainly.

With `-rP` each test shows how many things it compared and the largest difference: the table in docs/milan.md.
"""

import json
import pickle
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mami_core.captions.decode import DecodeConfig, Strategy, caption
from mami_core.captions.vocabulary import PAD
from mami_core.errors import CheckpointError, ConfigError
from mami_core.exemplars.region import milan_regions
from mami_core.features import Encoder, EncoderConfig, load_encoder
from mami_core.learning import checkpoint
from mami_core.learning.checkpoint import ENCODER, Trained
from mami_core.learning.losses import attention_loss, word_loss
from mami_core.learning.milan import LEVELS, import_milan
from mami_core.tokenizers import write
from tests.milan import Milan, mask, milan

pytest.importorskip("spacy", reason="MILAN's files hold spaCy's configuration")

NEURONS, K = 12, 5


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def theirs() -> Milan:
    return milan(1)


@pytest.fixture(scope="module")
def folder(theirs: Milan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imported captioner's folder."""
    place = tmp_path_factory.mktemp("milan")
    for name, data in import_milan(theirs.save(place / "milan.pth")).items():
        (place / name).write_bytes(data)
    return place


@pytest.fixture(scope="module")
def ours(folder: Path) -> Trained:
    return checkpoint.load(folder)


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(NEURONS, K, 1024, generator=torch.Generator().manual_seed(7))


PRESENT = torch.ones(NEURONS, K, dtype=torch.bool)


def shown(what: str, number: int, difference: float) -> None:
    print(f"{what}: {number:,} compared, largest difference {difference:.1e}")  # noqa: T201 - pytest keeps it


def our_numbers(theirs: Milan, words: Tensor) -> Tensor:
    """Our number of each of MILAN's words."""
    v = len(theirs.words)
    return torch.tensor([*range(4, v + 4), 1, 2, 0, 3])[words]


# --- captions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lm_weight", [0.0, 0.3])
def test_greedy_captions_are_milans(theirs: Milan, ours: Trained, features: Tensor, lm_weight: float) -> None:
    strategy: Strategy = "while_decoding" if lm_weight else "likelihood"
    config = DecodeConfig(strategy=strategy, beam_size=1, lm_weight=lm_weight, max_length=9, rules="milan")
    differences, texts = [], set()
    for row, found in enumerate(caption(ours.captioner, ours.language_model, features, PRESENT, config)):
        said = theirs.greedy(features[[row]], length=9, lm_weight=lm_weight)
        assert found[0].caption == write(theirs.ordinary(said), "spacy")
        differences.append(abs(found[0].log_p_caption - theirs.log_p(features[[row]], said)))
        texts.add(found[0].caption)
    shown(f"greedy captions, λ = {lm_weight}", len(differences), max(differences))
    assert max(differences) < 1e-4
    assert len(texts) > NEURONS / 2


@pytest.mark.parametrize("lm_weight", [0.0, 0.3])
def test_beams_are_milans(theirs: Milan, ours: Trained, features: Tensor, lm_weight: float) -> None:
    strategy: Strategy = "while_decoding" if lm_weight else "likelihood"
    config = DecodeConfig(
        strategy=strategy, beam_size=6, num_captions=6, lm_weight=lm_weight, max_length=7, rules="milan"
    )
    differences, lengths, special = [], set(), 0
    for row, found in enumerate(caption(ours.captioner, ours.language_model, features, PRESENT, config)):
        beams = theirs.beam(features[[row]], size=6, length=7, lm_weight=lm_weight)
        assert [each.caption for each in found] == [write(theirs.ordinary(said), "spacy") for _, said in beams]
        differences += [abs(each.score - score) for each, (score, _) in zip(found, beams, strict=True)]
        lengths |= {len(theirs.ordinary(said)) for _, said in beams}
        special += sum(word >= len(theirs.words) and word != theirs.stop for _, said in beams for word in said)
    shown(f"captions of beams, λ = {lm_weight}", len(differences), max(differences))
    assert max(differences) < 1e-4
    assert len(lengths) > 2
    assert special, "padding, start and unknown words are said too, as MILAN's beam allows"


def test_reranked_captions_are_milans(theirs: Milan, ours: Trained, features: Tensor) -> None:
    config = DecodeConfig(beam_size=6, lm_weight=0.4, max_length=7, rules="milan")
    likeliest = caption(ours.captioner, ours.language_model, features, PRESENT, replace(config, strategy="likelihood"))
    differences, changed = [], 0
    found = caption(ours.captioner, ours.language_model, features, PRESENT, config)
    for row, (reranked, likely) in enumerate(zip(found, likeliest, strict=True)):
        score, said = theirs.rerank(features[[row]], size=6, length=7, lm_weight=0.4)
        assert reranked[0].caption == write(theirs.ordinary(said), "spacy")
        differences.append(abs(reranked[0].score - score))
        changed += reranked[0].caption != likely[0].caption
    shown("reranked captions", len(differences), max(differences))
    assert max(differences) < 1e-4
    assert changed, "reranking matters"


def test_log_probabilities_of_any_words_are_milans(theirs: Milan, ours: Trained, features: Tensor) -> None:
    words = torch.randint(len(theirs.words) + 4, (NEURONS, 10), generator=torch.Generator().manual_seed(3))
    order = our_numbers(theirs, torch.arange(len(theirs.words) + 4)).argsort()
    expected, attentions = theirs.forced(features, words)
    found, weights = ours.captioner(features, PRESENT, our_numbers(theirs, words))
    shown("log p(word | E)", expected.numel(), float((found - expected[..., order]).abs().max()))
    torch.testing.assert_close(found, expected[..., order], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(weights["bahdanau"], attentions, atol=1e-5, rtol=1e-4)
    shown("attention weights", attentions.numel(), float((weights["bahdanau"] - attentions).abs().max()))
    assert ours.language_model is not None
    assert theirs.lm is not None
    by_itself = ours.language_model(our_numbers(theirs, words))
    expected = torch.stack([theirs.lm.forced(row, theirs.start) for row in words.tolist()])[..., order]
    shown("log p(word)", expected.numel(), float((by_itself - expected).abs().max()))
    torch.testing.assert_close(by_itself, expected, atol=1e-4, rtol=1e-5)


def test_a_training_loss_is_milans(theirs: Milan, ours: Trained, features: Tensor) -> None:
    words = torch.randint(len(theirs.words), (NEURONS, 7), generator=torch.Generator().manual_seed(4))
    words[:, -1] = theirs.stop
    mine = our_numbers(theirs, words)
    log_probs, weights = ours.captioner(features, PRESENT, mine)
    found = word_loss(log_probs, mine) / mine.numel() + attention_loss(weights, mine, PRESENT) / NEURONS
    expected = theirs.loss(features, words)
    shown("training loss", 1, float((found - expected).abs()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_padding_pays_no_attention_here_and_does_in_milan(theirs: Milan, ours: Trained, features: Tensor) -> None:
    words = torch.full((NEURONS, 9), theirs.pad)
    words[:, :4] = torch.tensor([3, 1, 2, theirs.stop])

    def losses(length: int) -> tuple[Tensor, Tensor]:
        mine = our_numbers(theirs, words[:, :length])
        log_probs, weights = ours.captioner(features, PRESENT, mine)
        found = word_loss(log_probs, mine) / int((mine != PAD).sum())
        return found + attention_loss(weights, mine, PRESENT) / NEURONS, theirs.loss(features, words[:, :length])

    (ours_short, theirs_short), (ours_padded, theirs_padded) = losses(4), losses(9)
    torch.testing.assert_close(ours_short, theirs_short, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_padded, ours_short, atol=1e-5, rtol=1e-5)
    assert abs(theirs_padded - theirs_short) > 0.1, "in MILAN a loss depends on the longest of its batch"


# --- what the captioner sees -------------------------------------------------------------------------------------


def agreement(encoder: Encoder, theirs: Milan) -> None:
    pixels = torch.randint(256, (3, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    maps = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(6))
    masks = torch.stack([mask(each, threshold) for each, threshold in zip(maps, (0.2, 1.3, 9.0), strict=True)])
    assert [bool(each.any()) for each in masks] == [True, True, False]
    expected = theirs.encode(pixels.float() / 255, masks[:, None].float())
    pyramid = encoder.pyramid(pixels)
    found = torch.cat([encoder.pool([level[row] for level in pyramid], masks[[row]]) for row in range(3)])
    assert not found[2].any(), "an empty mask gives zeros"
    shown(f"features of {theirs.encoder_name}", found.numel(), float((found - expected).abs().max()))
    # Random weights of a hundred layers give numbers of a hundred thousands, which cancel in part.
    rounding = max(1e-4, 1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=rounding, rtol=1e-4)


def test_features_under_masks_are_milans(theirs: Milan, ours: Trained) -> None:
    encoder = load_encoder(ours.encoder)
    assert encoder.id == ours.encoder_id
    assert encoder.region_size == 224
    agreement(encoder, theirs)


@pytest.mark.parametrize(
    ("name", "num_features"),
    [("alexnet", 1152), ("resnet50", 3904), pytest.param("resnet101", 3904, marks=pytest.mark.slow)],
)
def test_other_encoders_of_milan_are_read_at_the_same_levels(name: str, num_features: int) -> None:
    """Of AlexNet what its in-place ReLUs leave of its convolutions."""
    encoder = load_encoder(
        EncoderConfig(
            name=f"torchvision:{name}", weights="random:0", levels=LEVELS[name], input_size=224, regions="milan"
        )
    )
    network = encoder._subject.network
    agreement(encoder, milan(2, encoder=name, num_features=num_features, lm=False, network=network))


@pytest.mark.parametrize("shape", [(7, 7), (13, 13), (56, 56), (1, 1), (5, 9)])
def test_regions_are_netdissects(shape: tuple[int, int]) -> None:
    maps = torch.randn(4, *shape, generator=torch.Generator().manual_seed(8))
    thresholds = torch.tensor([0.3, 0.9, -0.1, 8.0])
    found = milan_regions(maps, thresholds, 224)
    expected = torch.stack([mask(each, float(t)) for each, t in zip(maps, thresholds, strict=True)])
    different = int((found != expected).sum())
    shown(f"cells of regions of {shape[0]} × {shape[1]} maps", expected.numel(), different)
    assert different == 0
    assert not found[3].any(), "no peak is added where all lies below the threshold"


def test_regions_of_the_project_see_other_things(ours: Trained) -> None:
    encoder = load_encoder(ours.encoder)
    other = encoder.drawing("mami")
    assert (other.region_size, encoder.region_size) == (112, 224)
    assert other.id != encoder.id
    assert encoder.drawing(None).id == encoder.id


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_decoder_says_how_it_is_decoded(theirs: Milan, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = theirs.save(tmp_path / "milan.pth", strategy="greedy", temperature=0.5, length=20)
    config = json.loads(import_milan(file)["config.json"])["decode"]
    assert (config["strategy"], config["beam_size"], config["lm_weight"]) == ("while_decoding", 1, 0.5)
    assert (config["max_length"], config["rules"], config["length_penalty"]) == (20, "milan", 0)
    assert not caplog.records, "nothing is doubtful, and nothing to be warned of"


def test_a_decoder_without_a_language_model_goes_by_likelihood(theirs: Milan, features: Tensor, tmp_path: Path) -> None:
    alone = milan(2, lm=False, network=theirs.encoder.get_submodule("encoder.model"))
    files = import_milan(alone.save(tmp_path / "milan.pth"))
    assert set(files) == {"config.json", "captioner.safetensors", ENCODER}
    trained = checkpoint.load(files)
    assert trained.language_model is None
    assert trained.decode is not None
    config = replace(trained.decode, beam_size=6, max_length=6)
    for row, found in enumerate(caption(trained.captioner, None, features, PRESENT, config)):
        score, said = alone.beam(features[[row]], size=6, length=6)[0]
        assert found[0].caption == write(alone.ordinary(said), "spacy")
        assert found[0].score == pytest.approx(score, abs=1e-4)
        assert found[0].log_p_language is None
    with pytest.raises(ConfigError, match="language model"):
        caption(trained.captioner, None, features, PRESENT, replace(config, strategy="rerank"))


def test_files_from_a_gpu_of_any_precision_and_with_a_reranker_are_read(
    theirs: Milan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = {name: t.double() if t.is_floating_point() else t for name, t in theirs.state_dict().items()}
    state["reranker.clip_with_masks.model.logit_scale"] = torch.zeros((), dtype=torch.float16)
    properties = theirs.properties(reranker_kwargs={"name": "ViT-B/32", "jit": False}, strategy="sample")
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(properties | {"state_dict": state}, tmp_path / "milan.pth")
    monkeypatch.undo()
    found, expected = (import_milan(file) for file in (tmp_path / "milan.pth", theirs.save(tmp_path / "plain.pth")))
    assert all(found[name] == expected[name] for name in ("captioner.safetensors", ENCODER))
    assert json.loads(found["config.json"])["decode"]["strategy"] == "rerank"
    assert "its CLIP reranker is not" in caplog.text
    assert "'sample' is not one of labels" in caplog.text


@pytest.mark.parametrize("module", ["thinc.config", "confection", "confection._config"])
def test_spacys_configuration_is_read_under_all_its_names(
    theirs: Milan, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Config(dict):
        def __init__(self, **content: Any) -> None:
            super().__init__(**content)
            self.is_interpolated = True

    Config.__module__, Config.__qualname__ = module, "Config"
    stands_in = types.ModuleType(module)
    stands_in.__dict__["Config"] = Config
    monkeypatch.setitem(sys.modules, module, stands_in)
    tokenizer = (Config(nlp=Config(lang="en", pipeline=[]), training=None), b"rules")
    assert ENCODER in import_milan(theirs.save(tmp_path / "milan.pth", tokenizer=tokenizer))


class Dangerous:
    """Unpickled, it would end the test."""

    def __reduce__(self) -> tuple:
        return sys.exit, ("run",)


def refused(content: Any, file: Path) -> str:
    torch.save(content, file)
    with pytest.raises(CheckpointError) as error:
        import_milan(file)
    return str(error.value)


def test_what_is_no_decoder_is_refused_saying_what_it_holds(theirs: Milan, tmp_path: Path) -> None:
    file, state = tmp_path / "milan.pth", theirs.state_dict()
    whole = theirs.properties() | {"state_dict": state}
    assert "exit" in refused(whole | {"children": Dangerous()}, file)
    assert "PyramidConvEncoder" in refused(whole | {"children": {}}, file)
    assert "'properties'" in refused(state, file)
    assert "'properties'" in refused([1, 2], file)
    assert "'state_dict'" in refused(theirs.properties(), file)
    assert "classifier.weight" in refused(whole | {"state_dict": state | {"classifier.weight": PRESENT}}, file)
    assert "expected 16 words" in refused(
        whole | {"state_dict": state | {"embedding.weight": torch.zeros(7, 12)}}, file
    )
    without = {name: tensor for name, tensor in state.items() if name != "feature_gate.0.bias"}
    assert "no weights called 'feature_gate.0.bias'" in refused(whole | {"state_dict": without}, file)
    assert "cannot be taken over" in refused(
        whole | {"state_dict": state | {"output.1.bias": torch.zeros(20, 2)}}, file
    )
    for wrong in (torch.full((20, 12), torch.nan), torch.zeros(20, 12, dtype=torch.int64)):
        assert "embedding.weight" in refused(whole | {"state_dict": state | {"embedding.weight": wrong}}, file)
    spatial = theirs.properties(encoder={"properties": {"config": "resnet152"}, "children": {}})
    assert "resnet152" in refused(spatial | {"state_dict": state}, file)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="whole file"):
        import_milan(file)
    for content in (pickle.dumps({"properties": Dangerous()}, protocol=2), b"hello", b""):
        file.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            import_milan(file)
        assert "weights_only" not in str(error.value), "torch's advice is to run it all the same"
    with pytest.raises(CheckpointError, match="no such file"):
        import_milan(tmp_path / "absent.pth")
