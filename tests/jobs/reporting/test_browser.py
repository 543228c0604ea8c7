"""The report in a real browser, opened from disk: what people do with it, and what it must not do."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import report
from jobs.engine import runtime
from jobs.report import ReportJob
from jobs.storage import Storage
from tests import tiny
from tests.jobs.reporting.browser import Visit, browsing, find_browser
from tests.jobs.reporting.conftest import relabelled, support_of
from tests.jobs.tiny_label import labels_of, tiny_job, work_here

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")
BROWSER = find_browser()
NO_BROWSER = "no Chromium here (apt-get install chromium, or MAMI_BROWSER=its path)"
pytestmark = [pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER), pytest.mark.xdist_group("report")]
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing(str(BROWSER)) as running:
        yield running


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def visit(browser: Any, drawn: Storage, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit of the tiny report at each size; at its end nothing was asked for elsewhere and nothing complained."""
    visiting = Visit(browser, drawn.url, viewport=request.param)
    yield visiting
    visiting.close()


@pytest.fixture
def laptop(browser: Any, drawn: Storage) -> Iterator[Visit]:
    visiting = Visit(browser, drawn.url, viewport=LAPTOP)
    yield visiting
    visiting.close()


def captions_on(page: Any) -> list[str]:
    return page.locator(".card h2").all_inner_texts()


def counted(page: Any, text: str) -> None:
    page.locator("main .note", has_text=text).wait_for()


def test_the_overview_tells_what_was_labelled(visit: Visit, finished: Storage) -> None:
    page = visit.open()
    labels = labels_of(finished).to_pandas()
    facts = dict(
        zip(page.locator(".facts dt").all_inner_texts(), page.locator(".facts dd").all_inner_texts(), strict=True)
    )
    assert facts["Neurons"] == str(len(labels))
    assert facts["Dead"] == "1"
    assert facts["Different captions"] == str(labels.caption.nunique())
    assert facts["Images dropped"] == "2"
    assert page.locator("tbody tr").count() == len(tiny.LAYERS)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the side"


def test_searching_as_you_type_leaves_what_was_searched_for(visit: Visit, finished: Storage) -> None:
    captions = labels_of(finished)["caption"].drop_null().to_pylist()
    word = captions[0].split()[0]
    page = visit.open("#/gallery")
    page.keyboard.press("/")
    page.keyboard.type(word)
    counted(page, f"{sum(word in caption for caption in captions)} of 40 neurons")
    assert all(word in caption for caption in captions_on(page))
    assert f"q={word}" in page.url
    page.reload()
    counted(page, f"{sum(word in caption for caption in captions)} of 40 neurons")
    assert page.locator("#search").input_value() == word, "the address is a link to what is shown"
    page.fill("#search", "nobody says this")
    counted(page, "0 of 40 neurons")


def test_filters_and_sorting(laptop: Visit, finished: Storage) -> None:
    labels = labels_of(finished).to_pandas()
    page = laptop.open("#/gallery")
    counted(page, "40 of 40")
    page.get_by_label("Dead ones too", exact=True).uncheck()
    counted(page, "39 of 40")
    page.get_by_label("Sort by", exact=True).select_option("score")
    best = labels.sort_values("score", ascending=False)
    page.locator(".card h2", has_text=best.caption.iloc[0]).first.wait_for()
    scores = [float(text.replace("−", "-")) for text in page.locator(".card .numbers b >> nth=0").all_inner_texts()]
    assert scores[0] == pytest.approx(best.score.iloc[0], abs=0.006)
    page.get_by_label("Layer", exact=True).select_option("clamped")
    counted(page, "8 of 8 neurons")
    middle = float(labels[labels.layer == "clamped"].score.median())
    page.get_by_label("Score at least", exact=True).fill(str(round(middle, 2)))
    page.locator("main .note", has_text=re.compile(r"^[2-6] of 8 neurons")).wait_for()


def test_support_is_shown_sorted_and_filtered_by(browser: Any, supported: Storage) -> None:
    rows = labels_of(supported).to_pylist()
    known = [support for row in rows if (support := support_of(row)) is not None]
    visiting = Visit(browser, f"{supported.url}/report", viewport=LAPTOP)
    page = visiting.open()
    assert "Support" in page.locator("thead th").all_inner_texts()
    assert page.locator("figure [aria-label^='Support from']").count() == 1
    assert page.locator(".meaning dt").all_text_contents() == ["Score", "Support", "Peak", "Dead"]
    page = visiting.open("#/gallery")
    support = page.locator(".card .numbers span", has_text="support").locator("b")
    for sort, ends in (("support", max), ("unsupported", min)):
        page.get_by_label("Sort by", exact=True).select_option(sort)
        page.locator(".card").first.locator(".numbers", has_text=f"support {ends(known):.2f}").wait_for()
        shown = [float(text) for text in support.all_inner_texts()]
        assert shown == sorted(shown, reverse=ends is max)
    page.get_by_label("Support at least", exact=True).fill("0.65")
    counted(page, f"{sum(round(one, 2) >= 0.65 for one in known)} of 40 neurons")
    assert "&support=0.6" in page.url
    page.locator(".card a").first.click()
    page.locator(".exemplars").wait_for()
    assert "support 0." in page.locator("main .numbers").inner_text()
    table = page.locator("section", has_text="Captions weighed").locator("tr").all_inner_texts()
    assert table[0].endswith("Support")
    assert len(table[1].split("\t")) == 5
    page = visiting.open("#/gallery?support=abc")
    counted(page, "40 of 40 neurons")
    assert "Support at least any" in page.locator("main").inner_text()
    page = visiting.open(f"#/gallery?support={max(known) + 0.004}")
    counted(page, f"{sum(one > max(known) - 0.001 for one in known)} of 40 neurons")
    visiting.close()


def test_nothing_is_said_of_support_where_the_run_has_none(laptop: Visit) -> None:
    page = laptop.open()
    assert "support" not in page.locator("main").inner_text().lower()
    page = laptop.open("#/gallery")
    page.locator(".card").nth(1).wait_for()
    assert "support" not in page.locator("main").inner_text().lower()
    page.locator(".card a").nth(1).click()
    page.locator(".exemplars").wait_for()
    assert "support" not in page.locator("main").inner_text().lower()


def test_a_neuron_is_opened_and_left_again(visit: Visit, finished: Storage) -> None:
    page = visit.open("#/gallery?sort=score")
    page.locator(".card").nth(1).wait_for()
    card = page.locator(".card").nth(1)
    caption, where = card.locator("h2").inner_text(), card.locator(".where").inner_text()
    layer, unit = where.split(" / ")
    card.locator("a").click()
    page.locator(".exemplars").wait_for()
    (label,) = [row for row in labels_of(finished).to_pylist() if (row["layer"], row["unit"]) == (layer, int(unit))]
    assert page.locator("h1").inner_text().startswith(caption)
    assert page.locator(".exemplars figcaption span").all_inner_texts() == label["exemplar_images"]
    assert page.locator(".attention tbody th").all_inner_texts() == caption.split()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.go_back()
    page.locator(".card").nth(1).wait_for()
    assert page.locator(".card").nth(1).locator(".where").inner_text() == where
    page.go_forward()
    page.locator(".exemplars").wait_for()
    page.keyboard.press("Escape")
    page.locator(".card").first.wait_for()


def test_every_view_is_reached_by_the_keyboard_alone(laptop: Visit) -> None:
    page = laptop.open("#/gallery")
    page.keyboard.press("/")
    page.keyboard.press("Enter")
    focused = "document.activeElement.closest('[data-place]')?.dataset.place"
    assert page.evaluate(focused) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "1"
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    last = int(page.evaluate(focused))
    assert last > 30, "rows that were not drawn at first are reached"
    page.keyboard.press("Enter")
    page.locator(".exemplars").wait_for()
    first = page.url
    page.keyboard.press("j" if "unit=15" not in first else "k")
    page.wait_for_url(lambda url: url != first)


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_runs_stand_side_by_side_the_same_neuron_in_the_same_row(
    browser: Any, beside: ReportJob, finished: Storage, another: Storage, size: dict
) -> None:
    runs = [labels_of(storage).to_pandas() for storage in (finished, another)]
    runs = [run[run.subject == tiny.SUBJECT].set_index(["layer", "unit"]).sort_index() for run in runs]
    differ = runs[0].caption.fillna("") != runs[1].caption.fillna("")
    visiting = Visit(browser, str(beside.output), viewport=size)
    page = visiting.open()
    page.get_by_role("link", name="Side by side").first.click()
    counted(page, f"40 of 40 neurons. The captions of {differ.sum()} differ.")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the side"
    where = page.locator(".card .where").all_inner_texts()
    assert where[0::2] == where[1::2], "the same neuron in the same row"
    tops = page.locator(".card").evaluate_all("cards => cards.map(card => card.getBoundingClientRect().top)")
    assert tops[0::2] == tops[1::2]
    first = (where[0].split(" / ")[0], int(where[0].split(" / ")[1]))
    assert captions_on(page)[:2] == [run.caption[first] for run in runs]
    assert page.locator(".heads a").all_inner_texts() == [f"{tiny.SUBJECT} (run)", f"{tiny.SUBJECT} (other)"]
    page.get_by_label("Only what differs", exact=True).check()
    counted(page, f"{differ.sum()} of 40 neurons")
    word = runs[1].caption[differ].dropna().iloc[0].split()[0]
    page.fill("#search", word)
    said = [run.caption[differ].fillna("").str.contains(word, regex=False) for run in runs]
    counted(page, f"{(said[0] | said[1]).sum()} of 40 neurons")
    page.reload()
    counted(page, f"{(said[0] | said[1]).sum()} of 40 neurons")
    page.locator(".card a").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('[data-place]').dataset.place") == "1"
    page.keyboard.press("Enter")
    page.locator(".exemplars").wait_for()
    assert "(other)" in page.locator("h1 small").inner_text()
    page.go_back()
    page.locator(".heads").wait_for()
    page.get_by_label(f"{tiny.OTHER_SUBJECT} (other)", exact=True).check()
    page.wait_for_url(lambda url: "of=0+1+2" in url)
    page.locator(".heads a").nth(2).wait_for()  # the address changes first
    assert page.locator(".heads a").count() == 3
    visiting.close()


def test_pictures_and_lists_have_names_for_those_who_cannot_see(laptop: Visit) -> None:
    page = laptop.open("#/gallery")
    page.locator(".card").first.wait_for()
    assert page.evaluate(_UNNAMED) == 0
    card = page.locator(".card").first
    assert card.get_attribute("aria-posinset") == "1"
    assert card.get_attribute("aria-setsize") == "40"
    card.locator("a").click()
    page.locator(".exemplars").wait_for()
    assert page.evaluate(_UNNAMED) == 0
    assert page.locator("h1").count() == 1


_UNNAMED = """[...document.querySelectorAll('[role=img], input, select, nav, [role=list]')]
  .filter(element => !element.ariaLabel).length"""


def test_light_and_dark_can_both_be_read(browser: Any, drawn: Storage) -> None:
    for scheme in ("light", "dark"):
        visiting = Visit(browser, drawn.url, viewport=LAPTOP, color_scheme=scheme)
        page = visiting.open()
        for selector in ("h1", ".quiet", "a", ".facts dt"):
            assert page.evaluate(_CONTRAST, selector) > 4.5, (scheme, selector)
        visiting.close()


_CONTRAST = """selector => {
  const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => {
    v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const element = document.querySelector(selector);
  let back = element; while (getComputedStyle(back).backgroundColor.endsWith(', 0)')) back = back.parentElement;
  const colours = [getComputedStyle(element).color, getComputedStyle(back).backgroundColor];
  const [a, b] = colours.map(light).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05); }"""


def test_markup_in_captions_and_names_stays_text(browser: Any, finished: Storage, tmp_path: Path) -> None:
    """Captions come from a network and file names from anybody: a page must not obey them."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"

    def change(row: dict) -> None:
        if not row["dead"]:
            row["caption"] = row["beams"][0]["caption"] = evil
            row["exemplar_images"] = [f"{evil}\u2028</script>{name}" for name in row["exemplar_images"]]

    storage = relabelled(finished, str(tmp_path / "run"), change)
    assert report.run(ReportJob(runs=(storage.url,), title=evil)) == 0
    visiting = Visit(browser, f"{storage.url}/report", viewport=LAPTOP)
    page = visiting.open()
    assert page.locator("h1").inner_text() == evil
    page = visiting.open(f"#/gallery?q={evil}")
    page.locator(".card").first.wait_for()
    assert captions_on(page)[0] == evil
    page.locator(".card a").first.click()
    page.locator(".exemplars").wait_for()
    assert page.locator(".exemplars figcaption span").first.inner_text().startswith(evil)
    assert page.locator("main img, main script").count() == 0
    visiting.close()


def test_layers_and_subjects_with_any_name_are_found(browser: Any, inputs: Path, tmp_path: Path) -> None:
    job = dataclasses.replace(tiny_job(inputs, tmp_path / "run"), subject=("python:tests.tiny:awkward",))
    storage = work_here(job)
    runtime.write_run_json(storage, job)
    assert report.run(ReportJob(runs=(storage.url,))) == 0
    visiting = Visit(browser, f"{storage.url}/report", viewport=LAPTOP)
    page = visiting.open()
    page.locator("tbody th a").click()
    page.locator(".card a").nth(1).click()
    page.locator(".exemplars").wait_for()
    assert page.locator("h1 small").inner_text().count("/") >= 2
    page.reload()
    page.locator(".exemplars").wait_for()
    visiting.close()


def test_a_report_that_lost_a_file_says_so(browser: Any, finished: Storage, tmp_path: Path) -> None:
    job = ReportJob(runs=(finished.url,), output=str(tmp_path / "site"))
    assert report.run(job) == 0
    (tmp_path / "site/data/0/00000.js").unlink()
    visiting = Visit(browser, tmp_path / "site", viewport=LAPTOP)
    page = visiting.page
    page.goto(f"{visiting.start}index.html#/gallery")
    page.locator("[role=alert]", has_text="Run mami report again").wait_for()
    visiting.complaints.clear()  # the browser says that the file is missing, and shall
    visiting.close()
