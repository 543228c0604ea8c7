"""From annotated photographs to what is said of neurons: planted units are described by what they look for."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mami_core.errors import ConfigError, DescriptionsError
from mami_core.learning.dissected import (
    ConceptsConfig,
    ConceptTable,
    Demands,
    Exemplars,
    Finding,
    Lexicon,
    Observed,
    Photograph,
    WordNet,
    Words,
    balanced,
    concept_maps,
    concept_neurons,
    concept_table,
    findings,
    read_photographs,
    square,
)
from mami_core.learning.dissected.photographs import mask_values, words_said
from mami_core.learning.dissected.reading import exemplars_of, read_regions, read_units
from tests.annotating import BLUE, DEAD, RED, planted, write_photographs, write_wordnet


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return Lexicon(WordNet(write_wordnet(tmp_path_factory.mktemp("wordnet"))))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Photograph, ...]:
    return read_photographs(write_photographs(tmp_path_factory.mktemp("photographs") / "drawn"))


@pytest.fixture(scope="module")
def pixels(photographs: tuple[Photograph, ...]) -> np.ndarray:
    return np.stack([square(Image.open(photograph.path)).transpose(2, 0, 1) for photograph in photographs])


@pytest.fixture(scope="module")
def table(photographs: tuple[Photograph, ...], pixels: np.ndarray, lexicon: Lexicon) -> ConceptTable:
    maps = [
        concept_maps(photograph, shown.transpose(1, 2, 0), (80, 64), lexicon, None)
        for photograph, shown in zip(photographs, pixels, strict=True)
    ]
    return concept_table(maps, [photograph.source for photograph in photographs])


@pytest.fixture(scope="module")
def words(table: ConceptTable) -> Words:
    return Words(table.words, table.areas * np.array([word.kind != "place" for word in table.words]))


# --- words ---------------------------------------------------------------------------------------------------------


def test_a_name_gives_its_own_word_and_those_for_its_kinds(lexicon: Lexicon) -> None:
    assert {word.text for word in lexicon.words("Dog")} == {"dogs", "animals"}
    assert {word.text for word in lexicon.words("apple")} == {"apples", "fruit"}
    assert [word.text for word in lexicon.words("unheard-of thing")] == ["unheard-of things"]


def test_a_wordnet_number_is_a_meaning(lexicon: Lexicon) -> None:
    assert {word.text for word in lexicon.words("rex", "n00001200")} == {"rexes", "animals", "dogs"}


@pytest.mark.parametrize(
    ("one", "many"),
    [("fox", "foxes"), ("lady", "ladies"), ("goldfish", "goldfish"), ("cup of tea", "cups of tea"), ("ox", "oxen")],
)
def test_plurals(lexicon: Lexicon, one: str, many: str) -> None:
    assert lexicon.plural(one) == many


def test_something_else_than_wordnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.noun"):
        WordNet(tmp_path)


def test_sentences_are_searched_for_known_names() -> None:
    known = frozenset({"dog", "hot dog", "cherry"})
    assert list(words_said(["Two hot dogs and a dog, cherries!"], known)) == ["hot dog", "dog", "cherry"]


# --- photographs ---------------------------------------------------------------------------------------------------


def test_masks_boxes_and_polygons_say_where(photographs: tuple[Photograph, ...], tmp_path: Path) -> None:
    placed = photographs[0].annotations[0]
    assert placed.is_placed
    assert 0.04 < placed.inside(80, 64).mean() < 0.2
    coco = {
        "images": [{"id": 3, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"image_id": 3, "category_id": 1, "bbox": [0, 0, 20, 10], "segmentation": [[0, 0, 20, 0, 20, 10, 0, 10]]},
            {"image_id": 3, "category_id": 1, "bbox": [0, 0, 40, 10], "segmentation": {"counts": [], "size": []}},
            {"image_id": 3, "caption": "A dog."},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (found,) = read_photographs(f"{tmp_path}/coco.json:{tmp_path}/val")
    shares = [annotation.inside(40, 20).mean() for annotation in found.annotations]
    assert shares == pytest.approx([0.25, 0.5, 1.0], abs=0.08)
    assert found.annotations[2].phrases == ("A dog.",)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"annotations": [{"image_id": 3, "category_id": 99, "bbox": [0, 0, 2, 2]}]},
            r"annotations\[0\].*99.*categories",
        ),
        ({"annotations": [{"image_id": 4, "caption": "A dog."}]}, "image 4, which is not among"),
        ({"annotations": [{"image_id": 3, "category_id": 1}]}, r"annotations\[0\]: expected 'bbox'"),
        ({"images": [{"id": 3}]}, r"images\[0\]: expected 'file_name'"),
        ({"images": [{"id": 3, "file_name": "../a.jpg"}]}, "outside the folder"),
        ({"annotations": None}, "no annotations"),
    ],
)
def test_what_is_wrong_in_coco_s_file_is_named(tmp_path: Path, changed: dict, expected: str) -> None:
    right = {"images": [{"id": 3, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "dog"}], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(right | changed))
    with pytest.raises(DescriptionsError, match=expected):
        read_photographs(f"{tmp_path}/coco.json:{tmp_path}")


def test_masks_of_class_numbers_say_where_their_classes_are(tmp_path: Path) -> None:
    values = np.zeros((10, 20), np.uint8)
    values[:, 10:15], values[0, 0], values[0, 1] = 7, 9, 255
    for name in ("images/a/1.png", "images/2.png", "masks/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "classes.json").write_text('{"0": "unlabeled", "7": "dog", "8": "cat", "255": "void"}')
    (found,) = read_photographs(tmp_path)
    assert found.path == tmp_path / "images/a/1.png"
    (dog,) = found.annotations
    assert (dog.names, dog.inside(20, 10).mean()) == (("dog",), 0.25)
    (tmp_path / "classes.json").write_text("[]")
    with pytest.raises(DescriptionsError, match="class number: name"):
        read_photographs(tmp_path)


@pytest.mark.parametrize(("mode", "number"), [("1", 255), ("L", 7), ("P", 7), ("I;16", 700), ("I", 700)])
def test_masks_are_numbers_as_they_stand(tmp_path: Path, mode: str, number: int) -> None:
    kind = np.uint16 if mode == "I;16" else np.int32 if mode == "I" else np.uint8
    picture = Image.fromarray(np.full((4, 6), number, kind))
    if mode == "1":
        picture = picture.convert(mode)
    if mode == "P":
        picture.putpalette([value for one in range(256) for value in (255 - one,) * 3])
    assert picture.mode == mode
    picture.save(tmp_path / "mask.tiff")
    assert (mask_values(tmp_path / "mask.tiff") == number).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_of_something_else_than_numbers_is_named(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / "mask.png")
    with pytest.raises(DescriptionsError, match=rf"mask\.png: .*found mode {mode}\."):
        mask_values(tmp_path / "mask.png")


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_broken_mask_is_named(tmp_path: Path, kept: float) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(mask)
    mask.write_bytes(mask.read_bytes()[: int(kept * mask.stat().st_size)])
    with pytest.raises(DescriptionsError, match=r"mask\.png"):
        mask_values(mask)


@pytest.mark.parametrize(
    ("file", "text"),
    [("said.csv", 'image,caption\nb.jpg,"A dog, and a cat."\nb.jpg,A dog.\n'), ("said.json", None)],
)
def test_sentences_alone_are_annotations_without_a_place(tmp_path: Path, file: str, text: str | None) -> None:
    (tmp_path / file).write_text(text or '{"b.jpg": ["A dog, and a cat.", "A dog."]}')
    (found,) = read_photographs(f"{tmp_path}/{file}:{tmp_path}/flickr")
    assert (found.path, found.source) == (tmp_path / "flickr" / "b.jpg", "flickr")
    (said,) = found.annotations
    assert (said.phrases, said.is_placed) == (("A dog, and a cat.", "A dog."), False)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("said.csv", "image,text\nb.jpg,A dog.\n", "columns image and caption"),
        ("said.csv", "image,caption\nb.jpg\n", "a sentence of b.jpg, found None"),
        ("said.csv", "image,caption\n../b.jpg,A dog.\n", "outside the folder"),
        ("said.json", '{"b.jpg": [1]}', "a sentence of b.jpg, found 1"),
        (
            "said.json",
            '{"a.jpg": ["A cat."], "b.jpg": "dog"}',
            r"said\.json: .*a list of sentences of b.jpg, found 'dog'",
        ),
        ("said.json", '{"b.jpg": 5}', "a list of sentences of b.jpg, found 5"),
        ("said.json", '{"b.jpg": null}', "a list of sentences of b.jpg, found None"),
        ("said.csv", 'image,caption\nb.jpg,"A dog.\n', "columns image and caption.*unexpected end"),
        ("said.json", '["b.jpg"]', "expected COCO's JSON"),
        ("said.json", "{", "expected JSON"),
    ],
)
def test_what_is_wrong_in_a_file_of_sentences_is_named(tmp_path: Path, file: str, text: str, expected: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(DescriptionsError, match=expected):
        read_photographs(f"{tmp_path}/{file}:{tmp_path}")


@pytest.mark.parametrize("between", ["\n", "\u2028", "\x85", "\x0b", "\x0c"])
def test_a_sentence_may_have_any_space_within(tmp_path: Path, between: str) -> None:
    sentence = f"A dog,{between}and a cat."
    (tmp_path / "said.csv").write_text(f'image,caption\nb.jpg,"{sentence}"\n', encoding="utf-8")
    row = json.dumps({"image": "b.jpg", "phrases": [sentence]}, ensure_ascii=False)
    (tmp_path / "regions.jsonl").write_text(f"{row}\n", encoding="utf-8")
    for source in (f"{tmp_path}/said.csv:{tmp_path}", tmp_path):
        (found,) = read_photographs(source)
        assert found.annotations[0].phrases == (sentence,)


def test_folders_and_file_names_give_classes(tmp_path: Path) -> None:
    for name in ("n00001200/1.jpg", "n00001500_green_apple.jpg", "big_cat/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = {each.path.name: each.annotations[0] for each in read_photographs(tmp_path)}
    assert found["1.jpg"].wordnet == "n00001200"
    assert (found["n00001500_green_apple.jpg"].names, found["2.png"].names) == (("green apple",), ("big cat",))


@pytest.mark.parametrize("line", ["{", '{"names": []}', '{"image": "../a.jpg"}', '{"image": "/a.jpg"}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "regions.jsonl").write_text(f'{{"image": "a.jpg"}}\n{line}\n')
    with pytest.raises(DescriptionsError, match="line 2"):
        read_photographs(tmp_path)


# --- maps ----------------------------------------------------------------------------------------------------------


def test_words_are_true_where_masks_say(table: ConceptTable, photographs: tuple[Photograph, ...]) -> None:
    texts = [word.text for word in table.words]
    apple = next(i for i, photograph in enumerate(photographs) if photograph.path.name.startswith("apple"))
    areas = dict(zip(texts, table.areas[apple], strict=True))
    assert areas["apples"] == areas["fruit"] == pytest.approx(areas["red"], abs=0.05)
    assert areas["apples"] > 0.05
    assert areas["dogs"] == areas["animals"] == 0


# --- units ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted_findings(table: ConceptTable, words: Words, pixels: np.ndarray) -> list[Finding]:
    subject = planted()
    seen = read_units(subject, ("colours",), pixels)["colours"]
    shown = exemplars_of(seen.peaks, np.ones(len(pixels), bool), 8)
    units, ranks = np.nonzero(shown >= 0)
    pairs = [(int(shown[unit, rank]), int(unit)) for unit, rank in zip(units, ranks, strict=True)]
    found = read_regions(subject, pixels, {"colours": pairs}, {"colours": seen.histogram.quantile(0.9)})["colours"]
    regions = np.zeros((*shown.shape, found.shape[1]), np.uint8)
    regions[units, ranks] = found
    observed, peaks = Observed(table, Exemplars(shown, regions)), seen.peaks.astype(np.float32)
    return findings(observed, words, depth=0.8, demands=Demands(gain=4.0), peaks=peaks)


def test_planted_units_are_described_by_what_they_look_for(planted_findings: list[Finding]) -> None:
    assert planted_findings[RED].nouns[0] in ("apples", "fruit")
    assert planted_findings[BLUE].nouns[0] in ("dogs", "animals")
    assert "red" in planted_findings[RED].colours
    assert "blue" in planted_findings[BLUE].colours
    assert not planted_findings[DEAD]


def test_reading_does_not_depend_on_the_split(pixels: np.ndarray) -> None:
    whole = read_units(planted(), ("colours", "scores"), pixels)
    parts = [read_units(planted(), ("colours", "scores"), some) for some in (pixels[:13], pixels[13:])]
    for layer, seen in whole.items():
        np.testing.assert_array_equal(seen.peaks, np.concatenate([part[layer].peaks for part in parts]))
        counts = torch.stack([part[layer].histogram.counts for part in parts]).sum(0)
        assert torch.equal(seen.histogram.counts.long(), counts)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_exemplars_are_the_strongest_inside(k: int, num_photographs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    peaks = rng.integers(-2, 5, (num_photographs, 3)).astype(np.float16)
    inside = rng.random(num_photographs) < 0.7
    found = exemplars_of(peaks, inside, k)
    for unit in range(3):
        ranked = sorted((-float(peaks[p, unit]), p) for p in np.flatnonzero(inside) if peaks[p, unit] > 0)[:k]
        assert found[unit].tolist() == [p for _, p in ranked] + [-1] * (k - len(ranked))


# --- concepts and phrases ------------------------------------------------------------------------------------------


def test_concept_neurons_show_what_they_are_said_to_show(table: ConceptTable, words: Words) -> None:
    config = ConceptsConfig(per_word=2.0, k=8, seed=3)
    observed, found = concept_neurons(table, words, config, Demands())
    again, same = concept_neurons(table, words, config, Demands())
    np.testing.assert_array_equal(observed.exemplars.regions, again.exemplars.regions)
    assert found == same
    numbers = {word.text: number for number, word in enumerate(table.words)}
    for photographs, finding in zip(observed.exemplars.photographs, found, strict=True):
        if len(finding.nouns) == 1 and finding.nouns[0] in ("apples", "dogs"):
            assert (table.areas[photographs, numbers[finding.nouns[0]]] > 0).mean() >= 0.5


@given(st.lists(st.sampled_from(["dogs", "cats", "red cars"]), min_size=1, max_size=200), st.floats(0.05, 1))
def test_nothing_is_said_too_often_and_nothing_rare_is_lost(texts: list[str], share: float) -> None:
    said = {number: (text, f"{text} on grass {number}") for number, text in enumerate(texts)}
    kept = balanced(said, share, np.random.default_rng(0))
    counts = Counter(text for of_one in kept.values() for text in of_one)
    most = max(20, int(share * 2 * len(texts)))
    assert all(counts[text] == min(most, texts.count(text)) for text in set(texts))
    assert all(kept[number][-1] == texts_of[-1] for number, texts_of in said.items())
