"""The page in a real browser."""

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from hf_cxr.demo import phantoms
from hf_cxr.demo.words import WARNING, percent
from tests.demo.films import NASTY, phantom, put
from tests.demo.site import CHROMIUM, DESKTOP, PHONE, Visitor, served
from tests.models.dicom_files import film as dicom
from tests.models.dicom_files import gradient

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: the page was tried in no browser")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(read):
    with served(read, max_entropy=0.3, max_megabytes=1) as site:
        yield site


@pytest.fixture
def visit(browser, site):
    """Open the page; after the test: nothing failed, left this machine, or was kept."""
    visitors = []

    def visit(viewport=DESKTOP, **options):
        visitors.append(Visitor(browser, site, viewport, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        assert not visitor.faults
        assert not visitor.abroad()
        assert len(visitor.asked) > 10
        visitor.await_forgetting()
        visitor.close()
    assert not site.left()


def test_the_page_says_what_it_is(visit):
    visitor = visit()
    assert WARNING in visitor.tab.title()
    assert visitor.tab.get_by_text(f"{WARNING}.").is_visible()
    facts = visitor.tab.locator(".cxr-facts").inner_text()
    for words in (
        "tiny (densenet121; 22 labels, taxonomy nih)",
        "Not calibrated",
        "Chosen on validation films",
        "30 passes of Monte Carlo dropout",
        "more than 0.30 nats",
        "Deleted as soon as it is read",
    ):
        assert words in facts
    assert "at most 1 MB" in visitor.tab.locator("#cxr-ask").inner_text()
    assert visitor.tab.locator("footer").count() == 0  # no API page, no settings


def test_a_synthetic_film_is_drawn_and_read(visit, read, hierarchy):
    visitor = visit()
    visitor.draw("Cardiomegaly")
    rows = visitor.rows()
    assert len(rows) == len(hierarchy.names)
    film = phantoms.draw("Cardiomegaly", 1)
    reading = read(film, n_passes=30)
    for name in hierarchy.names:
        assert percent(reading["probabilities"][name]).replace("\u00a0", " ") in rows[name]
    np.testing.assert_array_equal(np.asarray(visitor.film()), np.asarray(film))
    assert "of no patient. Drawn into it: Cardiomegaly" in visitor.tab.locator(".cxr-viewer").inner_text()
    assert "Cleared by the gate" in visitor.tab.locator(".cxr-said").inner_text()
    assert "does not mean healthy" in visitor.tab.locator(".cxr-said").inner_text()
    visitor.draw("Cardiomegaly", 2)
    assert (np.asarray(visitor.film()) != np.asarray(film)).any()


def test_labels_run_no_code(visit):
    visitor = visit()
    visitor.draw()
    assert NASTY in visitor.rows()
    visitor.choose(NASTY)
    assert visitor.tab.locator(".shown").inner_text() == f"Heatmap of {NASTY}"
    assert visitor.tab.evaluate("window.hacked") is None


@pytest.mark.parametrize("deep", [False, True])
def test_a_film_is_uploaded_and_read(visit, read, tmp_path, deep):
    path = put(phantom(deep=deep), tmp_path / "my film.png")
    visitor = visit()
    for _ in range(2):  # the same again, too
        visitor.give(path)
        visitor.await_caption("my film.png, 400 × 512 pixels. The black bars")
        visitor.tab.evaluate("document.querySelector('.cxr-viewer').remove()")
    reading = read(str(path), n_passes=30, max_entropy=0.3)
    rows = visitor.rows()
    for name, probability in reading["probabilities"].items():
        assert percent(probability).replace("\u00a0", " ") in rows[name]
    said = visitor.tab.locator(".cxr-said").inner_text()
    assert ("Flagged" in said) == (not reading["gate"]["cleared"])
    assert ("Left to a reader" in said) == reading["abstained"]
    assert reading["abstained"]


def test_dicom_is_read(visit, tmp_path):
    dicom(gradient(bits=12, shape=(96, 64))).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    visitor = visit()
    visitor.give(tmp_path / "a.dcm")
    visitor.await_caption("a.dcm, 64 × 96 pixels")


def test_a_finding_is_chosen_for_its_heatmap(visit, read, tmp_path):
    visitor = visit()
    visitor.give(put(phantom(), tmp_path / "a.png"))
    visitor.await_caption("a.png")
    visitor.await_forgetting()
    asked, seen = visitor.questions(), []
    maps = read(phantom(), heatmaps=["Atelectasis", "Mass", "Nodule"])["heatmaps"]
    for label, heat in maps.items():
        visitor.choose(label)
        assert visitor.tab.locator(".shown").inner_text() == f"Heatmap of {label}"
        layer = np.asarray(visitor.layer().convert("RGBA"))
        np.testing.assert_array_equal(layer[..., 3], np.rint(heat * 255))
        seen.append(visitor.seen().tobytes())
    assert len(set(seen)) == len(maps)
    visitor.choose("Mass")
    visitor.tab.keyboard.press("ArrowDown")
    assert visitor.tab.locator(".shown").inner_text() == "Heatmap of Nodule"
    np.testing.assert_array_equal(np.asarray(visitor.layer().convert("RGBA"))[..., 3], np.rint(maps["Nodule"] * 255))
    assert visitor.questions() == asked  # the server is not asked, and the model not run


def test_the_heatmap_lies_on_the_film_and_fades(visit, tmp_path):
    visitor = visit()
    visitor.give(put(phantom(), tmp_path / "a.png"))
    visitor.await_caption("a.png")
    assert visitor.tab.locator("img.film").bounding_box() == visitor.tab.locator(".layer:visible").bounding_box()
    seen = {}
    for percentage in (0, 40, 100):
        visitor.set_opacity(percentage)
        assert visitor.tab.locator(".cxr-opacity output").inner_text() == f"{percentage} %"
        seen[percentage] = np.asarray(visitor.seen(), float)[8:-8, 8:-8]
    assert (seen[0] == seen[0][..., :1]).all()  # the film alone is gray
    np.testing.assert_allclose(seen[40], 0.6 * seen[0] + 0.4 * seen[100], atol=3)
    assert np.abs(seen[100] - seen[0]).max() > 50
    # A tenth of the square at its sides is no film, but the model's bars.
    assert seen[0][:, : int(0.08 * seen[0].shape[1])].max() == 0
    assert seen[0][:, int(0.14 * seen[0].shape[1])].max() > 0


def broken_files(folder):
    png = put(phantom(), folder / "whole.png").read_bytes()
    return {
        "text.png": (b"no film", "expected a PNG, JPEG or DICOM (.dcm) file"),
        "half.png": (png[: len(png) // 2], "broken or incomplete. Export the film again"),
        "blank.png": (put(Image.new("L", (64, 64), 3), folder / "b.png").read_bytes(), "blank, or wrongly scaled"),
        "empty.dcm": (b"", "cannot be used as a film"),
        "page.html": (b"<html>", "expected a PNG, JPEG or DICOM (.dcm) file"),
    }


@pytest.mark.parametrize("name", ["text.png", "half.png", "blank.png", "empty.dcm", "page.html"])
def test_what_is_no_film_is_said_and_the_page_goes_on(visit, tmp_path, name):
    content, words = broken_files(tmp_path)[name]
    (tmp_path / name).write_bytes(content)
    visitor = visit()
    visitor.give(tmp_path / name)
    said = visitor.problem()
    assert said.startswith("This film could not be read")
    assert words in said
    assert "Traceback" not in visitor.tab.locator("body").inner_text()
    visitor.draw()
    assert len(visitor.rows()) == 22
    assert visitor.tab.locator(".problem:visible").count() == 0


@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_too_large_a_file_is_not_sent(visit, tmp_path, way):
    (tmp_path / "large.png").write_bytes(b"\0" * (1024**2 + 1))
    visitor = visit()
    asked = visitor.questions()
    if way == "chosen":
        visitor.give(tmp_path / "large.png")
    else:
        visitor.tab.evaluate("""() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(1024 ** 2 + 1)], 'large.png'));
            const place = document.querySelector('#cxr-upload button');
            place.dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: data }));
        }""")
    notice = visitor.tab.locator("#cxr-ask .problem")
    notice.wait_for()
    assert "At most 1 MB are taken, and nothing was sent. Export the film smaller" in notice.inner_text()
    visitor.tab.wait_for_timeout(500)
    assert visitor.questions() == asked
    visitor.give(put(phantom(), tmp_path / "good.png"))
    visitor.await_caption("good.png")
    assert notice.is_hidden()


def test_visitors_do_not_see_each_others_films(visit, tmp_path):
    one, other = visit(), visit()
    one.give(put(phantom(1), tmp_path / "one.png"))
    other.give(put(phantom(2), tmp_path / "other.png"))
    one.await_caption("one.png")
    other.await_caption("other.png")
    films = [np.asarray(visitor.film()) for visitor in (one, other)]
    assert (films[0] != films[1]).any()
    other.draw()
    one.tab.wait_for_timeout(300)
    assert "one.png" in one.tab.locator(".cxr-viewer").inner_text()
    np.testing.assert_array_equal(np.asarray(one.film()), films[0])
    one.draw()  # their synthetic patients are counted apart, too


def test_on_a_phone(visit, tmp_path):
    visitor = visit(PHONE, has_touch=True, is_mobile=True)
    assert visitor.width() == [390, 390]
    visitor.give(put(phantom(), tmp_path / f"{'a_long_name_without_any_place_to_break_' * 3}.png"))
    visitor.await_caption("a_long_name")
    assert visitor.width() == [390, 390]
    row = visitor.tab.locator(".cxr-row").last
    row.scroll_into_view_if_needed()
    visitor.tab.evaluate("window.scrollBy(0, 200)")
    visitor.tab.wait_for_timeout(200)
    warning = visitor.tab.get_by_text(f"{WARNING}.").bounding_box()
    film = visitor.tab.locator("img.film").bounding_box()
    assert visitor.tab.evaluate("scrollY") > 1000
    assert 0 <= warning["y"] < warning["y"] + warning["height"] <= film["y"] + 1  # neither covers the other
    assert film["y"] + film["height"] < 500


def test_the_warning_stays_in_sight(visit):
    visitor = visit()
    visitor.draw()
    for where in (800, 10_000):
        visitor.tab.evaluate(f"window.scrollTo(0, {where})")
        visitor.tab.wait_for_timeout(100)
        box = visitor.tab.get_by_text(f"{WARNING}.").bounding_box()
        assert 0 <= box["y"] < 50
        covering = "document.elementFromPoint({x}, {y}).closest('#cxr-banner') !== null"
        assert visitor.tab.evaluate(covering.format(x=box["x"] + 20, y=box["y"] + 5))


CONTRAST = """(selector) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return (numbers(colour)[3] ?? 1) === 1 ? colour : ground(element.parentElement);
    };
    return [...document.querySelectorAll(selector)].filter((e) => e.offsetParent).map((element) => {
        const pair = [getComputedStyle(element).color, ground(element)].map((colour) => light(numbers(colour)));
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    });
}"""
TEXTS = (
    ".cxr-row .name", ".cxr-row small", ".probability", ".decision", ".more", ".caption", ".shown", ".cxr-notice p",
    ".cxr-notice h2", ".cxr-facts dd", "#cxr-banner p", ".cxr-way p", "#cxr-head p", "#cxr-phantoms button",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(visit, tmp_path, scheme):
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    visitor = visit(color_scheme=scheme)
    visitor.give(put(phantom(), tmp_path / "a.png"))  # positive labels and negative ones
    visitor.await_caption("a.png")
    assert visitor.tab.locator(".cxr-row.yes").count() not in (0, 22)
    for selector in TEXTS:
        ratios = visitor.tab.evaluate(CONTRAST, selector)
        assert ratios, selector
        assert min(ratios) >= 4.5, selector
