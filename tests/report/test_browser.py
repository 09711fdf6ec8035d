"""The page in headless Chromium, as a person uses it: no error, keys decide, what is downloaded is taken back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loginmea_fast as lf
from loginmea_fast.report import write_report
from loginmea_fast.runs.aligning import read_decisions
from tests.report.conftest import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium with its chromedriver here: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(browser: Any, page: Path, width: int = 1400) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(page.as_uri())
    until(lambda: browser.find_elements("css selector", ".plot .main-svg"))
    assert browser.get_log("browser") == [], "no error in the console"


def until(done: Any, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def press(browser: Any, keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(keys).perform()


def shown(browser: Any) -> list[str]:
    """Labels of the rows, at once: a row may be gone the next moment."""
    script = "return [...document.querySelectorAll('.row')].map((row) => row.getAttribute('aria-label'))"
    found: list[str] = browser.execute_script(script)
    return found


def chosen(browser: Any, name: str) -> str:
    """An attribute of the chosen row."""
    script = f"return document.querySelector('.row[aria-selected=true]').getAttribute('{name}')"
    return str(browser.execute_script(script))


def test_figures_and_matches_are_there_at_both_widths(browser: Any, directory: Path) -> None:
    page = write_report(directory)
    for width in (1400, 390):
        show(browser, page, width)
        figures = browser.find_elements("css selector", "#figures > div")
        assert len(figures) >= 3
        assert all(figure.find_elements("css selector", ".main-svg") for figure in figures)
        assert shown(browser)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, "nothing sticks out to the side"


def test_a_label_does_not_run(browser: Any, directory: Path) -> None:
    show(browser, write_report(directory))
    browser.find_element("id", "search").send_keys("onerror")
    until(lambda: len(shown(browser)) == 1)
    title = "return document.querySelector('#detail h2').textContent"
    until(lambda: browser.execute_script(title) == HOSTILE)
    assert "ran" not in browser.title
    assert browser.get_log("browser") == []


def test_only_what_is_seen_is_in_the_page(browser: Any, directory: Path) -> None:
    show(browser, write_report(directory))
    assert len(shown(browser)) < 40
    press(browser, "\ue010")  # End
    until(lambda: chosen(browser, "aria-posinset") == chosen(browser, "aria-setsize"))
    assert len(shown(browser)) < 40


def test_decisions_by_keyboard_are_kept_downloaded_and_taken_back(
    browser: Any, directory: Path, downloads: Path, found: lf.Alignment
) -> None:
    page = write_report(directory)
    show(browser, page)
    browser.execute_script("localStorage.clear()")
    show(browser, page)
    first = shown(browser)[0]
    press(browser, "r")
    until(lambda: shown(browser)[0].endswith("rejected"))
    press(browser, "a")
    until(lambda: shown(browser)[1].endswith("accepted"))
    press(browser, "au")
    until(lambda: not shown(browser)[2].endswith("accepted"))
    show(browser, page)
    assert shown(browser)[0].endswith("rejected"), "kept by the browser"
    press(browser, "d")
    file = until(lambda: next(iter(downloads.glob("decisions.tsv")), None))
    decisions = read_decisions(file, found.pair)
    assert (len(decisions.accepted), len(decisions.rejected)) == (1, 1)
    left, right = decisions.rejected[0].tolist()
    assert first.startswith(f"{found.pair.names[left]} and {found.pair.names[right]}, confidence")
    again = lf.align(
        found.pair,
        method="propagate",
        seeds=found.known,
        decisions=decisions,
        pivots=False,
        propagation_width=64,
        backend="reference",
    )
    matched = set(zip(again.left.tolist(), again.right.tolist(), strict=True))
    assert (left, right) not in matched
    assert tuple(decisions.accepted[0].tolist()) in matched


def test_another_candidate_is_accepted_in_place_of_the_match(browser: Any, directory: Path) -> None:
    show(browser, write_report(directory))
    browser.execute_script("localStorage.clear()")
    show(browser, write_report(directory))
    press(browser, "2")
    press(browser, "1")  # an entity has one partner: the second takes the place of the first
    until(lambda: shown(browser)[0].endswith("rejected"))
    table = browser.execute_script("return matches.decisions.table()").splitlines()
    assert table[0] == "left\tright\tdecision"
    assert [line.split("\t")[2] for line in table[1:]] == ["rejected", "accepted"]
    assert table[1].split("\t")[0] == table[2].split("\t")[0]


def test_identifiers_with_quotes_come_back(
    browser: Any, directory: Path, found: lf.Alignment, tmp_path: Path
) -> None:
    show(browser, write_report(directory))
    quoted = [uri for uri in found.pair.uris if '"' in uri]
    place = [entity["id"] for entity in browser.execute_script("return matches.entities")].index(quoted[0])
    script = "matches.shown = [matches.columns.left.indexOf(arguments[0])]; matches.choose(0)"
    browser.execute_script("localStorage.clear(); matches.decisions.kept.clear()")
    browser.execute_script(script, place)
    browser.execute_script("matches.decide('accepted')")
    (tmp_path / "d.tsv").write_text(
        browser.execute_script("return matches.decisions.table()"), encoding="utf-8"
    )
    (accepted,) = read_decisions(tmp_path / "d.tsv", found.pair).accepted.tolist()
    assert found.pair.uris[accepted[0]] == quoted[0]


def test_a_browser_that_keeps_nothing_says_so(browser: Any, directory: Path) -> None:
    script = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    number = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        show(browser, write_report(directory))
        assert "download your decisions" in browser.find_element("id", "warning").text
        press(browser, "a")
        until(lambda: shown(browser)[0].endswith("accepted"))
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", number)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("http://a.example/b/label", "label"),
        ("http://www.w3.org/2000/01/rdf-schema#label", "label"),
        ("http://a.example/Gr%C3%B6%C3%9Fe", "Größe"),
        ("http://a.example/100%", "100%"),
        ("http://a.example/type http://a.example/City", "type City"),
        ("geonames:country timezone", "country timezone"),
        ("date of birth", "date of birth"),
    ],
)
def test_relations_and_attributes_are_called_by_the_end_of_their_iris(
    browser: Any, directory: Path, name: str, told: str
) -> None:
    """Whole IRIs filled the columns, a few letters a line on a phone."""
    show(browser, write_report(directory))
    assert browser.execute_script("return local(arguments[0])", name) == told


@pytest.mark.parametrize("width", [1400, 390])
def test_pictures_stand_beside_each_other(browser: Any, pictured: Path, width: int) -> None:
    show(browser, write_report(pictured), width)
    data = "matches.shown.findIndex((at) => [matches.columns.left[at], matches.columns.right[at]]"
    place = browser.execute_script(f"return {data}.every((e) => matches.entities[e].picture))")
    browser.execute_script("matches.choose(arguments[0])", place)
    images = until(lambda: browser.find_elements("css selector", "#detail img"))
    assert len(images) == 2
    until(lambda: browser.execute_script("return [...document.images].every((i) => i.complete)"))
    for image in images:
        assert image.get_attribute("naturalWidth") == "96"
        assert image.get_attribute("alt").startswith("Picture of ")
    boxes = [image.rect for image in images]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_a_run_has_its_curves(browser: Any, run: Path) -> None:
    show(browser, write_report(run))
    assert not browser.find_element("id", "decide").is_displayed()
    assert len(browser.find_elements("css selector", "#figures .main-svg")) >= 5
