"""How true phrases are of exemplars: as a plain loop over the words finds it, and captions say what phrases say."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mami_core.captions.evidence import Phrase
from mami_core.features import pool
from mami_core.features.forms import FORMS, NUM_FORMS, form_shares
from mami_core.features.looks import COLOURS, FILLING, FINE, GRID, LOOKS
from mami_core.learning.dissected import (
    Exemplars,
    Finding,
    Lexicon,
    Observed,
    Phrasebook,
    WordNet,
    concept_table,
    descriptions,
    phrasebook,
    truth_of,
)
from mami_core.learning.dissected.maps import SEEN, Maps
from mami_core.learning.dissected.phrases import said
from mami_core.learning.dissected.truth import told_by_pixels
from mami_core.learning.dissected.units import BESIDE, REGION
from mami_core.learning.dissected.words import Kind, Word

KINDS: dict[str, Kind] = {
    "dogs": "thing",
    "people": "thing",
    "heads": "part",
    "trees": "stuff",
    "grass": "stuff",
    "kitchens": "scene",
    "wood": "material",
    "dotted things": "look",
}

DOGS, POODLES = Word("dogs", "thing"), Word("poodles", "thing", own=True)
CONTEXTS = {
    "people": "with people",
    "trees": "among trees",
    "grass": "on grass",
    "kitchens": "in kitchens",
    "white backgrounds": "on white backgrounds",
}
"""Those that the photographs show."""


@pytest.fixture(scope="module")
def observed() -> Observed:
    """Thirty photographs of which words of every kind are true somewhere, and twelve units."""
    rng = np.random.default_rng(0)
    words = [Word(text, kind) for text, kind in KINDS.items()] + [POODLES]
    maps = []
    for _ in range(30):
        chosen = rng.choice(len(words), 5, replace=False).tolist()
        spots = rng.random((5, GRID, GRID)) < rng.random((5, 1, 1)) ** 3
        shown = {words[w]: cells.astype(np.float32) for w, cells in zip(chosen, spots, strict=True)}
        if POODLES in shown:
            shown[DOGS] = np.maximum(shown[POODLES], shown.get(DOGS, 0))
        animals = np.ones((GRID, GRID), np.float32) if rng.random() < 0.5 else shown.get(DOGS)
        named = shown if animals is None else {Word("animals", "thing"): animals, **shown}
        share = rng.random((len(SEEN), 1)) ** 3 * (rng.random((len(SEEN), 1)) < 0.5)
        maps.append(Maps(named, np.packbits(rng.random((len(SEEN), FINE**2)) < share, axis=1)))
    photographs = rng.integers(-1, 30, (12, 5))
    regions = np.packbits(rng.random((12, 5, REGION**2)) < rng.random((12, 5, 1)) ** 2, axis=2)
    return Observed(concept_table(maps, ["one"] * 30), Exemplars(photographs, regions))


@pytest.fixture(scope="module")
def book(observed: Observed) -> Phrasebook:
    return phrasebook(observed.table, Lexicon(), classes=False)


def test_a_phrase_is_as_true_as_the_truest_word_that_is_said_so(observed: Observed, book: Phrasebook) -> None:
    table, exemplars = observed.table, observed.exemplars
    truth, phrases = truth_of(observed, book), book.phrases
    assert set(table.contexts) == CONTEXTS.keys()
    assert truth.shape == (12, 5, len(phrases))
    for unit, rank in np.ndindex(12, 5):
        photograph = exemplars.photographs[unit, rank]
        if photograph < 0:
            assert not truth[unit, rank].any()
            continue
        (hits,) = table.hits(exemplars.photographs[unit, [rank]], exemplars.regions[unit, [rank]])
        expected = dict.fromkeys((phrase.text for phrase in phrases), 0.0)
        for word, hit in zip(table.words, hits.tolist(), strict=True):
            for phrase in said(word):
                expected[phrase.text] = max(expected[phrase.text], hit)
        expected["poodles"] = max(expected["poodles"], expected["dogs"])
        for name, text in CONTEXTS.items():
            context = table.in_context[photograph, table.contexts.index(name)]
            expected[text] = max(expected[text], float(context))
        for name, text in (("dogs", "near dogs"), ("animals", "near animals"), ("people", "with people")):
            (number,) = (w for w, word in enumerate(table.words) if word.text == name)
            is_near = table.areas[photograph, number] > 0.01 and hits[number] < BESIDE
            expected[text] = max(expected[text], float(is_near))
        assert truth[unit, rank].tolist() == [round(255 * float(expected[phrase.text])) for phrase in phrases]
    assert ((truth > 0) & (truth < 255)).any()


def test_what_pixels_tell_need_not_be_learned(observed: Observed, book: Phrasebook) -> None:
    looks, forms = range(3, 3 + len(SEEN)), range(3 + len(SEEN), 3 + len(SEEN) + NUM_FORMS)
    told_by = told_by_pixels(book.phrases, looks, forms)
    told = [number for number, by in enumerate(told_by) if by]
    assert {phrase.kind for phrase in book.phrases} - {book.phrases[number].kind for number in told} == {
        "noun",
        "context",
        "place",
    }
    truth, exemplars = truth_of(observed, book), observed.exemplars
    compared = 0
    for unit, rank in np.argwhere(exemplars.present).tolist():
        packed = observed.table.seen[exemplars.photographs[unit, rank]], exemplars.regions[unit, [rank]]
        level, bits = (torch.from_numpy(np.unpackbits(of, axis=1).reshape(-1, FINE, FINE)).bool() for of in packed)
        of_region = pool([level.float()], bits)[0]
        times = torch.tensor([1 if word.text in FILLING else 2 for word in SEEN])
        features = torch.cat([torch.zeros(3), times * of_region, 2 * form_shares(bits)[0]])
        for number in told:
            found = float(features[list(told_by[number])].max().clamp(0, 1))
            assert abs(255 * found - truth[unit, rank, number]) < 1.5  # where it was rounded twice
            compared += 0 < found < 1
    assert compared > 100
    assert told_by_pixels(book.phrases, range(0)) == ()
    of_forms = told_by_pixels(book.phrases, range(0), range(NUM_FORMS))
    texts = {phrase.text: by for phrase, by in zip(book.phrases, of_forms, strict=True) if by}
    assert texts["horizontal strips"] == (FORMS.index("horizontal strips"),)
    assert texts["strips"] == (0, 1, 2, 3)
    assert "black" not in texts


def test_what_is_known_of_a_unit_is_true_of_all_that_drives_it(observed: Observed, book: Phrasebook) -> None:
    dogs = next(number for number, word in enumerate(observed.table.words) if word.text == "dogs")
    present, plainly = observed.exemplars.present, truth_of(observed, book)
    given = truth_of(observed, book, [[], [], [dogs], *([[]] * 9)])
    at = {phrase.text: number for number, phrase in enumerate(book.phrases)}
    for name in ("dogs", "poodles"):
        assert (given[2, present[2], at[name]] == 255).all()
        assert not given[2, ~present[2], at[name]].any()
    assert (given[2, present[2], at["dogs"]] > plainly[2, present[2], at["dogs"]]).any()
    others = [number for name, number in at.items() if name not in ("dogs", "poodles")]
    assert np.array_equal(given[:, :, others], plainly[:, :, others])
    assert np.array_equal(np.delete(given, 2, 0), np.delete(plainly, 2, 0))


def test_each_text_is_once_and_has_one_kind(book: Phrasebook) -> None:
    phrases = book.phrases
    texts = [phrase.text for phrase in phrases]
    assert texts == sorted(set(texts))
    kinds = dict(phrases)
    assert [kinds[text] for text in ("black", "lines", "specks", "outlines", "rising to the right", "wood")] == [
        "colour",
        "look",
        "look",
        "look",
        "side",
        "noun",
    ]
    assert "near poodles" not in kinds
    assert "near people" not in kinds


@pytest.mark.parametrize(
    ("word", "phrases"),
    [
        (Word("dogs", "thing"), {"dogs": "noun"}),
        (Word("red", "colour"), {"red": "colour"}),
        (
            Word("left", "place"),
            {"on the left of the picture": "place", "the left side of pictures": "place"},
        ),
        (
            Word("smooth areas", "low"),
            {"plain": "surface", "smooth areas": "surface", "plain areas": "surface"},
        ),
        (Word("crossing lines", "low"), {"crossing lines": "look"}),
        (
            Word("outlines on white backgrounds", "low"),
            {"outlines on white backgrounds": "look", "outlines": "look", "on white backgrounds": "context"},
        ),
        (
            Word("thin dark lines", "low"),
            {"thin dark lines": "look", "lines": "look", "thin": "size", "dark": "tone"},
        ),
        (Word("bright specks", "low"), {"bright specks": "look", "specks": "look", "spots": "look", "bright": "tone"}),
        (Word("red spots", "low"), {"red spots": "look", "spots": "look", "red": "colour"}),
        (
            Word("diagonal edges rising to the right", "low"),
            {
                "diagonal edges rising to the right": "look",
                "edges": "look",
                "diagonal": "turn",
                "rising to the right": "side",
            },
        ),
    ],
)
def test_how_captions_say_a_word(word: Word, phrases: dict[str, str]) -> None:
    assert said(word) == tuple(itertools.starmap(Phrase, phrases.items()))


LITTLE = {"and", "areas", "between", "of", "often", "on", "other", "things", "with"}
"""What captions say besides."""


@pytest.mark.parametrize("seed", range(3))
def test_captions_of_what_was_found_are_phrases_and_little_else(book: Phrasebook, seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = sorted((phrase.text for phrase in book.phrases), key=len, reverse=True)
    nouns = [text for text, kind in KINDS.items() if text != "people"]
    for _ in range(300):
        colours = tuple(rng.choice(COLOURS, 2, replace=False).tolist())
        finding = Finding(
            nouns=tuple(rng.permutation(nouns)[: rng.integers(3)].tolist()),
            colours=colours[: rng.integers(3)],
            low=tuple(rng.choice(LOOKS, rng.integers(4), replace=False).tolist()),
            context=tuple(rng.choice(["people", "dogs", "grass"], rng.integers(2)).tolist()),
            place=str(rng.choice(["top", "left", "corners"])) if rng.random() < 0.5 else None,
            often=frozenset(colours[:1]) if rng.random() < 0.3 else frozenset(),
        )
        for caption in descriptions(finding, rng) if finding else ():
            left = f" {caption} ".replace(",", " ").replace(" ", "  ")
            for text in texts:
                left = left.replace(f" {text.replace(' ', '  ')} ", " ")
            assert set(left.split()) <= LITTLE, caption


def test_a_table_needs_no_annotations_and_no_exemplars() -> None:
    bits = np.random.default_rng(0).random((4, len(SEEN), FINE**2)) < 0.3
    bits[:, 5] = False  # what no photograph shows
    table = concept_table([Maps({}, np.packbits(of_one, axis=1)) for of_one in bits], ["one"] * 4)
    at = table.of_seen.start
    assert table.hits(np.zeros(0, np.int64), np.zeros((0, FINE**2 // 8), np.uint8)).shape == (0, len(table.words))
    assert table.words_in(0).tolist() == [at + number for number in range(len(SEEN)) if number != 5]
    cells = bits[1, 7].reshape(GRID, 2, GRID, 2).mean((1, 3))
    np.testing.assert_allclose(table.cells(1, at + 7), cells)
    np.testing.assert_allclose(table.areas[:, table.of_seen], bits.mean(2), rtol=1e-5)
    region = np.random.default_rng(1).random((1, FINE**2)) < 0.2
    (hits,) = table.hits(np.array([2]), np.packbits(region, axis=1))
    times = [1 if word.text in FILLING else 2 for word in SEEN]
    expected = np.minimum(1, times * (bits[2] & region).sum(1) / region.sum())
    np.testing.assert_allclose(hits[table.of_seen], expected, atol=1e-3)
    without = [number for number, word in enumerate(SEEN) if word.text == "white backgrounds"]
    bits[:, without] = False
    table = concept_table([Maps({}, np.packbits(of_one, axis=1)) for of_one in bits], ["one"] * 4)
    assert "white backgrounds" not in table.contexts


def test_a_name_is_true_of_what_drives_its_class_or_else_where_the_word_for_its_kind_is(shared_data: Path) -> None:
    """A skipper is a butterfly where butterflies are, whatever else WordNet calls so."""
    lexicon = Lexicon(WordNet(shared_data / "text" / "wordnet.zip"))
    everywhere = np.ones((GRID, GRID), np.float32)
    skippers, monarchs = (Word(name, "thing", own=True) for name in ("skippers", "monarchs"))
    half = everywhere.copy()
    half[: GRID // 2] = 0
    named = [{Word("people", KINDS["people"]): half, Word("animals", "thing"): half, DOGS: half}] * 6
    for own in (skippers, monarchs):
        named += [{own: half, Word("butterflies", "thing"): everywhere, Word("animals", "thing"): everywhere}] * 6
    nothing = np.zeros((len(SEEN), FINE**2 // 8), np.uint8)
    table = concept_table([Maps(of_one, nothing) for of_one in named], ["one"] * 18)
    book = phrasebook(table, lexicon, classes=True)
    names = {number: word.text for number, word in enumerate(table.words)}
    names |= {statement: f"class {number}" for number, statement in enumerate(book.classes)}
    texts = {
        phrase.text: {names.get(statement, "") for statement in statements}
        for phrase, statements in zip(book.phrases, book.statements, strict=True)
    }
    assert texts["skippers"] == {"skippers", "butterflies"}
    assert texts["monarchs"] == {"monarchs", "class 323"}
    assert texts["dalmatians"] == {"class 251"}
    assert texts["cardigans"] == {"class 264", "class 474"}
    assert "dalmatians" not in {phrase.text for phrase in phrasebook(table, lexicon, classes=False).phrases}
    photographs, regions = np.array([[0, 12], [1, -1]]), np.full((2, 2, REGION**2 // 8), 255, np.uint8)
    known = [[book.classes[264]], [book.classes[251]]]
    truth = truth_of(Observed(table, Exemplars(photographs, regions)), book, known)
    at = {phrase.text: number for number, phrase in enumerate(book.phrases)}
    assert (truth[0, :, at["cardigans"]] == 255).all()
    assert truth[1, :, at["dalmatians"]].tolist() == [255, 0]
    assert not truth[0, :, at["dalmatians"]].any()
    assert truth[0, 1, at["monarchs"]] > 0
