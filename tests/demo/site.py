"""A served page and a real browser for it."""

import base64
import io
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from hf_cxr.demo import build, own_folder, serve

CHROMIUM = Path("/usr/bin/chromium")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@dataclass
class Site:
    """Where a page is served, its uploads' folder, and Gradio's own object."""

    address: str
    folder: Path
    page: Any

    def left(self):
        """Files in the folder of uploads."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def remembered(self):
        """What Gradio holds of its visitors, as text."""
        return repr([state.config_values for state in self.page.state_holder.session_data.values()])


@contextmanager
def served(read, **options):
    with own_folder() as folder:
        page = build(read, **{"name": "tiny", **options})
        address = serve(page, port=0, max_megabytes=options.get("max_megabytes", 50))
        try:
            yield Site(address, folder, page)
        finally:
            page.close(verbose=False)


class Visitor:
    """A browser of its own at the page; collects what must not happen."""

    def __init__(self, browser, site, viewport=DESKTOP, **options):
        self.context = browser.new_context(viewport=viewport, **options)
        self.tab = self.context.new_page()
        self.site, self.asked, self.faults = site, [], []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.tab.goto(site.address)
        self.tab.get_by_text("No film yet.").wait_for()
        self.tab.locator("#cxr-upload input[type=file]").wait_for(state="attached")

    def abroad(self):
        """Requests that left this machine."""
        local = [url for url in self.asked if url.startswith("data:") or urlsplit(url).hostname == "127.0.0.1"]
        return sorted(set(self.asked) - set(local))

    def questions(self):
        """How often the server was sent a file or asked to do something."""
        return sum("/gradio_api/upload" in url or "/queue/join" in url for url in self.asked)

    def give(self, path):
        self.tab.set_input_files("#cxr-upload input[type=file]", path)

    def draw(self, kind="Effusion", number=1):
        self.tab.get_by_role("button", name=kind).click()
        self.await_caption(f"Synthetic film {number},")

    def await_caption(self, words):
        self.tab.locator(".cxr-viewer .caption").filter(has_text=words).wait_for()

    def await_forgetting(self):
        """The page tells the server to forget a result when it has come."""
        for _ in range(100):
            if "data:image" not in self.site.remembered():
                return
            self.tab.wait_for_timeout(100)
        raise AssertionError("the server still holds a film")

    def problem(self):
        notice = self.tab.locator("#cxr-result .cxr-notice.problem")
        notice.wait_for()
        return notice.inner_text()

    def rows(self):
        """{label: text of the row}, spaces as they are typed."""
        rows = self.tab.locator(".cxr-row").all()
        kinds = re.compile(r" (gate|group)$")
        return {
            kinds.sub("", row.locator(".name").inner_text()): row.inner_text().replace("\u00a0", " ") for row in rows
        }

    def choose(self, label):
        self.tab.locator(".cxr-row").filter(has=self.tab.get_by_text(label, exact=True)).locator("input").check()

    def layer(self):
        """The heatmap that lies over the film, as it was sent."""
        return self._picture(".layer:visible")

    def film(self):
        return self._picture("img.film")

    def _picture(self, selector):
        content = self.tab.locator(selector).get_attribute("src").split(",")[1]
        return Image.open(io.BytesIO(base64.b64decode(content)))

    def seen(self):
        """The square of film and heatmap as it is on the screen."""
        return Image.open(io.BytesIO(self.tab.locator(".square").screenshot())).convert("RGB")

    def set_opacity(self, percent):
        self.tab.locator(".cxr-opacity input").fill(str(percent))

    def width(self):
        """What the page takes, and what the screen has."""
        return self.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")

    def close(self):
        self.context.close()
