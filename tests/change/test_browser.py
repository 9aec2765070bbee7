"""The page in a real browser, on a desktop and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from hf_cxr.change import ChangeReport, compare_models, write_change
from tests.change.films import GROWN, make_side
from tests.change.test_report import COST

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: the page was tried in no browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("change")
    change = compare_models("test films", make_side(), make_side(GROWN, 2.0, seed=1), n_resamples=100)
    write_change(folder, ChangeReport(change, COST, change))
    (folder / "figures").rename(folder / "elsewhere")  # the page needs no other file
    return folder / "change.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_stands_alone(page, width):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 844})
        asked, faults = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda message: faults.append(message.text))
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert tab.locator("img").count() == 4
        verdict = tab.locator("p").first
        assert verdict.inner_text().startswith("On the hospital's films: of 2 findings")
        assert verdict.bounding_box()["y"] < 500  # in sight without scrolling
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert faults == []
        browser.close()
