"""What a labelling run says when it ends."""

import pytest

from jobs.engine.plan import open_plan, write_manifest
from jobs.labelling import summary
from jobs.labelling.layout import DROPPED
from jobs.storage import Storage
from mami_core import contracts


def neuron(
    unit: int, layer: str, activations: list[float], caption: str | None = "a dog", trust: float | None = None
) -> dict:
    return {
        "subject": "net",
        "layer": layer,
        "unit": unit,
        "caption": caption,
        "beams": [],
        "exemplar_images": [str(number) for number in range(len(activations))],
        "exemplar_activations": activations,
        "threshold": 1.0,
        "active_fraction": 0.5,
        "dead": caption is None,
        "captioner": "c",
        "run": "r",
        "trust": trust,
    }


def said(
    disk: Storage,
    *parts: list[dict],
    count: int = 60,
    k: int = 4,
    trust: dict | None = None,
    notes: tuple[str, ...] = (),
) -> list[str]:
    plan = open_plan(disk, {"images": {"count": count}, "search": {"k": k}, "trust": trust})
    paths = [f"labels/{number}.parquet" for number in range(len(parts))]
    for path, rows in zip(paths, parts, strict=True):
        disk.write(path, contracts.to_parquet(contracts.from_rows(rows, contracts.LABELS), contracts.LABELS))
    disk.write(DROPPED, contracts.to_parquet(contracts.DROPPED.empty_table(), contracts.DROPPED))
    write_manifest(disk, plan, [*paths, DROPPED])
    return summary.of_labels(disk, [], maps={("net", "a"), ("net", "b")}, notes=notes, seconds=1.0).splitlines()


def test_variety_is_told_by_the_commonest_caption(disk: Storage) -> None:
    rows = [neuron(unit, "a", [3, 2, 2, 2], "a cat" if unit else "a dog") for unit in range(4)]
    lines = said(disk, rows, [neuron(0, "b", [], None), neuron(1, "b", [9, 9, 9, 9], "a cow")], notes=("2 .heic",))
    assert "5 neurons labelled, 1 dead (active on no image), 0 rows dropped" in lines
    assert "3 different captions; the commonest for 60.0% of the neurons: a cat" in lines
    assert "Images: 2 .heic" in lines
    assert not any("Too few images" in line for line in lines)


def test_exemplars_below_their_threshold_mean_too_few_images(disk: Storage) -> None:
    few = [neuron(unit, "a", [3, 0.5, 0.5, 0.5]) for unit in range(10)]
    enough = [neuron(unit, "b", [3, 2, 2, 2]) for unit in range(10)]
    (line,) = (line for line in said(disk, few, enough) if "Too few images" in line)
    assert "38% of the exemplars (75% in a) lie below their neuron's own threshold" in line
    assert "About 240 images would do" in line, "four times as many: one of four exceeded it"


def test_units_that_are_as_high_on_many_images_need_no_more_of_them(disk: Storage) -> None:
    lines = said(disk, [neuron(unit, "a", [0.95, 0.95, 0.94, 0.93]) for unit in range(10)])
    assert not any("Too few images" in line for line in lines), "their threshold is within its error of all of them"


def test_units_without_maps_need_no_region(disk: Storage) -> None:
    lines = said(disk, [neuron(unit, "scores", [3, 0.5, 0.5, 0.5]) for unit in range(10)])
    assert not any("Too few images" in line for line in lines)


def test_a_run_of_dead_neurons_says_so_and_nothing_else(disk: Storage) -> None:
    lines = said(disk, [neuron(0, "a", [], None)])
    assert "0 neurons labelled, 1 dead (active on no image), 0 rows dropped" in lines
    assert not any("caption" in line or "Too few" in line for line in lines)


def test_it_says_how_many_neurons_have_fewer_exemplars_than_asked_for(disk: Storage) -> None:
    rows = [neuron(unit, "a", [9.0] * number) for unit, number in enumerate((15, 14, 4, 3, 1))]
    lines = said(disk, [*rows, neuron(5, "a", [], None)], k=15)
    assert "4 neurons have fewer than 15 exemplars, 2 fewer than 4: their support says little." in lines


def test_few_exemplars_of_one_neuron(disk: Storage) -> None:
    lines = said(disk, [neuron(0, "a", [9.0] * 4), neuron(1, "a", [9.0] * 3)])
    assert "1 neuron has fewer than 4 exemplars: its support says little." in lines


def test_of_enough_exemplars_nothing_is_said(disk: Storage) -> None:
    assert not any("fewer than" in line for line in said(disk, [neuron(0, "a", [9.0] * 4)]))


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("trust", [None, 0.2])
def test_trust_that_was_asked_for_and_is_null_is_said(disk: Storage, trust: float | None, asked: bool) -> None:
    rows = [neuron(0, "a", [9.0] * 4, trust=trust), neuron(1, "a", [9.0] * 4), neuron(2, "a", [], None)]
    lines = said(disk, rows, trust={"held_out": 0.1} if asked else None)
    assert any(line.startswith("0 judged: too few") for line in lines) == (asked and trust is None)


def test_one_is_said_in_the_singular(disk: Storage) -> None:
    lines = said(disk, [neuron(0, "a", [9.0] * 4)])
    assert lines[1] == "1 neuron labelled, 0 dead (active on no image), 0 rows dropped"
    assert lines[2].startswith("1 different caption; ")
