"""Held-out images: never among the exemplars; what they do is kept, and a label's trust follows from it alone."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mami_core import judging, pipeline
from mami_core.captions.decode import DecodeConfig
from mami_core.errors import ConfigError, ContractError
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.watch import WatchedFile, save_watched
from mami_core.images import LocalFiles, list_images
from mami_core.images.held_out import places, share_of
from mami_core.judging import Evidence, Seen, TrustConfig
from mami_core.pipeline import LabelConfig, Labelled
from mami_core.subjects import load_subject
from tests import tiny

COUNT, BROKEN = 60, 7


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tiny.write_photographs(tmp_path_factory.mktemp("images"), COUNT, broken=(BROKEN,))
    return list_images(str(folder), LocalFiles())


def labelled(images: pa.Table, trust: TrustConfig | None) -> Labelled:
    config = LabelConfig(
        search=SearchConfig(k=4, batch_size=8),
        decode=DecodeConfig(beam_size=4, max_length=5, num_captions=3),
        trust=trust,
    )
    subject, trained = load_subject(tiny.SUBJECT), tiny.captioner()
    return pipeline.label(subject, (), images, LocalFiles(), trained, config, scorer=tiny.scorer() if trust else None)


@pytest.fixture(scope="module")
def judged(images: pa.Table) -> Labelled:
    return labelled(images, TrustConfig(held_out=0.5))


@given(st.lists(st.text(), unique=True, max_size=30), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_an_image_stays_held_out_in_any_list_and_for_any_larger_share(
    keys: list[str], share: float, more: float
) -> None:
    found = places(keys)
    assert (places(keys[::-1])[::-1] == found).all()
    assert ((found < share) <= (found < share + more)).all()
    assert ((found >= 0) & (found < 1)).all()


def test_about_the_wanted_share_is_held_out_and_no_more_than_it_takes() -> None:
    found = places(f"folder/{number}.jpg" for number in range(20_000))
    assert abs((found < 0.2).mean() - 0.2) < 0.01
    assert share_of(1000, wanted=0.2) == 0.2
    assert share_of(1_000_000, wanted=0.2) == 0.01


def test_images_that_chose_exemplars_never_judge(judged: Labelled, images: pa.Table) -> None:
    choosing, held_out = judging.part(images, TrustConfig(held_out=0.5))
    assert choosing.num_rows + held_out.num_rows == COUNT
    shown = set(pc.list_flatten(judged.exemplars["keys"]).to_pylist())
    assert shown <= set(choosing["key"].to_pylist())
    assert not shown & set(held_out["key"].to_pylist())
    watched, _ = judging.watch_images(
        load_subject(tiny.SUBJECT), tuple(tiny.LAYERS), held_out, LocalFiles(), batch_size=8
    )
    assert set(watched.images.tolist()) <= set(held_out["image"].to_pylist())
    assert judging.part(images, None)[0] == images


def test_every_label_says_how_far_it_can_be_trusted_and_dead_ones_nothing(judged: Labelled) -> None:
    for row in judged.labels.to_pylist():
        assert (row["scorer"] is None) == row["dead"]
        assert row["dead"] <= (row["trust"] is None)
        for name in ("trust", "trust_shuffled"):
            assert row[name] is None or -1 <= row[name] <= 1
        assert row["trust_auprc"] is None or 0 <= row["trust_auprc"] <= 1
    assert judged.labels["trust"].null_count < judged.labels.num_rows / 4
    broken = [row for row in judged.dropped.to_pylist() if f"{BROKEN:03d}" in row["name"]]
    assert len(broken) == 1


def test_without_a_scorer_all_images_choose_and_nobody_judges(images: pa.Table) -> None:
    found = labelled(images, None).labels
    assert all(
        found[name].null_count == found.num_rows for name in ("trust", "trust_auprc", "trust_shuffled", "scorer")
    )
    config = LabelConfig(trust=TrustConfig())
    with pytest.raises(ConfigError, match="Trust takes both"):
        pipeline.label(load_subject(tiny.SUBJECT), (), images, LocalFiles(), tiny.captioner(), config)
    with pytest.raises(ConfigError, match="held_out is a share"):
        TrustConfig(held_out=1.0)


def test_trust_is_that_of_the_caption_and_shuffled_that_of_anothers(judged: Labelled, images: pa.Table) -> None:
    _, held_out = judging.part(images, TrustConfig(held_out=0.5))
    watched, _ = judging.watch_images(
        load_subject(tiny.SUBJECT), tuple(tiny.LAYERS), held_out, LocalFiles(), batch_size=8
    )
    seen = judging.see_images(tiny.scorer(), held_out, LocalFiles(), TrustConfig(held_out=0.5), batch_size=8)
    layer = judged.labels.filter(pc.equal(judged.labels["layer"], "clamped")).to_pylist()
    evidence = Evidence.of(watched.images, watched.activations["clamped"], seen)
    captions = [row["caption"] for row in layer]
    for row in layer:
        p = (
            torch.nn.functional.normalize(tiny.scorer().read(captions))
            @ torch.nn.functional.normalize(evidence.vectors.float()).T
        )
        both = torch.cat([evidence.activations[row["unit"]].float()[None], p])
        textbook = torch.corrcoef(both.double())[0, 1:]
        assert row["trust"] == pytest.approx(textbook[row["unit"]].item(), abs=0.01)
        others = textbook[torch.arange(len(layer)) != row["unit"]]
        assert (others - row["trust_shuffled"]).abs().min() < 0.01


def test_reranked_beams_are_in_the_order_of_trust_on_images_that_do_not_judge(images: pa.Table) -> None:
    config = TrustConfig(held_out=0.6, rerank=True)
    plain, reranked = (labelled(images, TrustConfig(held_out=0.6, rerank=rerank)) for rerank in (False, True))
    _, held_out = judging.part(images, config)
    seen = judging.see_images(tiny.scorer(), held_out, LocalFiles(), config, batch_size=8)
    assert 10 <= seen.chooses.sum() <= len(seen.images) - 10
    changed = 0
    for before, after in zip(plain.labels.to_pylist(), reranked.labels.to_pylist(), strict=True):
        assert sorted(beam["caption"] for beam in before["beams"]) == sorted(beam["caption"] for beam in after["beams"])
        if after["beams"]:
            assert (after["caption"], after["score"]) == (after["beams"][0]["caption"], after["beams"][0]["score"])
        changed += before["caption"] != after["caption"]
    assert changed
    watched, _ = judging.watch_images(
        load_subject(tiny.SUBJECT), tuple(tiny.LAYERS), held_out, LocalFiles(), batch_size=8
    )
    choosing = Evidence.of(watched.images, watched.activations["clamped"], seen).part(choosing=True)
    for row in reranked.labels.filter(pc.equal(reranked.labels["layer"], "clamped")).to_pylist():
        texts = judging.trust.fixed_point(tiny.scorer().read([beam["caption"] for beam in row["beams"]]))
        found = choosing.trust([row["unit"]] * len(texts), texts).correlation
        assert (found.diff() <= 0).all()


@settings(max_examples=5)
@given(cut=st.integers(0, 40), first=st.integers(0, 8))
def test_activations_and_vectors_survive_their_files_in_parts(cut: int, first: int, images: pa.Table) -> None:
    subject, layers, config = load_subject(tiny.SUBJECT), tuple(tiny.LAYERS), TrustConfig()
    parts = [images.slice(0, cut), images.slice(cut)]
    watched = [judging.watch_images(subject, layers, each, LocalFiles(), batch_size=8)[0] for each in (images, *parts)]
    for layer, activations in watched[0].activations.items():
        read = []
        for each in watched[1:]:
            data = save_watched(each)
            file = WatchedFile.open(lambda start, size, data=data: data[start : start + size])
            assert torch.equal(file.images, each.images)
            read.append(file.load(lambda start, size, data=data: data[start : start + size], layer, first, 8))
        assert torch.equal(torch.cat(read, dim=1), activations[first:8])
    seen = [judging.see_images(tiny.scorer(), each, LocalFiles(), config, batch_size=8) for each in (images, *parts)]
    joined = Seen.joined([Seen.from_bytes(each.to_bytes()) for each in seen[1:]])
    assert torch.equal(joined.vectors, seen[0].vectors)
    assert torch.equal(joined.images, seen[0].images)


def test_the_lowest_ends_are_watched_as_neurons_of_their_own(images: pa.Table) -> None:
    subject, layers = load_subject(tiny.SUBJECT), ("scores", "scores:lowest")
    watched, _ = judging.watch_images(subject, layers, images, LocalFiles(), batch_size=8)
    assert torch.equal(watched.activations["scores:lowest"], -watched.activations["scores"])
    nothing, _ = judging.watch_images(subject, layers, images.slice(0, 0), LocalFiles(), batch_size=8)
    assert {layer: part.shape for layer, part in nothing.activations.items()} == dict.fromkeys(layers, (16, 0))


def test_bytes_that_are_no_activations_are_refused() -> None:
    nothing = Seen(torch.zeros(1).long(), torch.zeros(1, 2, dtype=torch.int16), torch.zeros(1, dtype=torch.bool))
    for data in (b"", b"not at all", nothing.to_bytes()):
        with pytest.raises(ContractError, match="expected held-out activations"):
            WatchedFile.open(lambda start, size, data=data: data[start : start + size])
