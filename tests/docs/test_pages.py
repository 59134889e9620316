"""The pages as they are built: links, pictures, formulas; and what a browser makes of them.

``ASTRO_DDPRISM_PAGES`` is the folder of the built pages, without which there is nothing to look at.
"""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

PAGES = Path(os.environ.get("ASTRO_DDPRISM_PAGES", "no pages"))
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)
PHONE = {"width": 390, "height": 844}
# A browser that asks nobody for anything, but for what a page does.
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip
pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="no pages were built")


class Page(HTMLParser):
    """What a page leads to, loads and holds."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors, self.tags, self.meta = [], [], set(), [], {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.anchors |= {attrs.get("id"), attrs.get("name")} - {None}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag in {"img", "script", "iframe"} and attrs.get("src"):
            self.loads.append(attrs["src"])
        if tag == "link" and attrs.get("rel") in {"stylesheet", "preload", "icon"}:
            self.loads.append(attrs["href"])
        if tag == "meta" and "name" in attrs:
            self.meta[attrs["name"]] = attrs.get("content", "")


@pytest.fixture(scope="module")
def pages():
    own = {path.resolve() for path in PAGES.rglob("*.html")} - set(
        (PAGES / "_static").resolve().rglob("*.html")  # parts of the theme
    )
    found = {path: Page(path) for path in own}
    assert len(found) > 100
    return found


def is_elsewhere(link):
    return re.match(r"[a-z]+:", link) is not None or link.startswith("//")


def test_no_link_is_dead(pages):
    dead = []
    for path, page in pages.items():
        if "_modules" in path.parts:  # whose links back to the pages Sphinx makes
            continue
        for link in page.links + page.loads:
            if is_elsewhere(link):
                continue
            target, anchor = urldefrag(unquote(link.split("?")[0]))
            file = (path.parent / target).resolve() if target else path
            if not file.is_file():
                dead.append(f"{path.name}: {link}")
            elif anchor and file in pages and anchor not in pages[file].anchors:
                dead.append(f"{path.name}: {link} (no such place)")
    assert dead == []


def test_nothing_comes_from_a_network(pages):
    outside = {f"{p.name}: {x}" for p, page in pages.items() for x in page.loads if is_elsewhere(x)}
    assert {x for x in outside if ": data:" not in x} == set()


def test_pages_fit_a_phone_and_draw_their_formulas(pages):
    for path, page in pages.items():
        if path.name not in {"genindex.html", "search.html", "py-modindex.html"}:
            assert "width=device-width" in page.meta.get("viewport", ""), path
    by_name = {path.relative_to(PAGES.resolve()).as_posix(): page for path, page in pages.items()}
    assert by_name["method.html"].tags.count("math") > 50
    text = (PAGES / "method.html").read_text(encoding="utf-8")
    assert not re.search(r"\\(frac|sum|mathbb|mathcal)\b", text)


def test_every_page_of_the_gallery_has_its_picture(pages):
    examples = [path for path in pages if path.parent.name == "examples" and "plot_" in path.name]
    assert len(examples) == len(
        list((Path(__file__).parents[2] / "docs/gallery").glob("plot_*.py"))
    )
    for path in examples:
        pictures = [x for x in pages[path].loads if "sphx_glr_" in x]
        assert pictures, path
        assert all((path.parent / x).resolve().stat().st_size > 10_000 for x in pictures)


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_has_nothing_to_say(pages):
    """No error on its console, every formula with a size, and no page wider than a phone."""
    playwright = pytest.importorskip("playwright.sync_api")
    shown = sorted(p for p in pages if p.parent.name != "api" and "_modules" not in p.parts)
    shown += sorted(p for p in pages if p.parent.name == "api")[::25]
    said, wide, flat = [], [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        view = browser.new_page(viewport=PHONE)
        view.on("console", lambda m: m.type == "error" and said.append(f"{view.url}: {m.text}"))
        view.on("pageerror", lambda error: said.append(f"{view.url}: {error}"))
        view.on("requestfailed", lambda r: said.append(f"{view.url}: {r.url} was not loaded"))
        for path in shown:
            view.goto(path.as_uri())
            if view.evaluate("document.scrollingElement.scrollWidth") > PHONE["width"]:
                wide.append(path.name)
            if view.evaluate(
                "[...document.querySelectorAll('math')].some(m => m.checkVisibility() && "
                "(m.getBoundingClientRect().width < 2 || m.getBoundingClientRect().height < 2))"
            ):
                flat.append(path.name)
        browser.close()
    assert said == []
    assert wide == []
    assert flat == []
