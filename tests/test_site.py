"""The site of the documentation builds, all that its pages lead to is there, and it fetches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import moditalker

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
ROOT = Path(__file__).parents[1]
FETCHING = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Links(HTMLParser):
    """Where a page leads to, what it loads, and the places in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        self.places |= {held.get("id", ""), held.get("name", "")}
        for name in {"href", "src"} & set(held):
            style = tag == "link" and held.get("rel") in ("stylesheet", "icon", "preload")
            (self.loaded if style or (tag, name) in FETCHING else self.targets).append(held[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    here = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def broken(site: Path) -> Iterator[str]:
    """Links of the pages that lead nowhere, and what they load from other places."""
    pages = {path.resolve(): Links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    for path, page in pages.items():
        for link in page.targets + page.loaded:
            if link.startswith(("http://", "https://", "//")):
                if link in page.loaded:
                    yield f"{path.name} loads {link}"
                continue
            target, place = urldefrag(unquote(link))
            goal = (path.parent / target).resolve() if target else path
            if not goal.exists():
                yield f"{path.name} leads to {link}"
            elif place and goal in pages and place not in pages[goal].places:
                yield f"{path.name} leads to {link}, where there is no such place"


def test_the_pages_lead_somewhere_and_load_nothing_from_elsewhere(site: Path) -> None:
    assert list(broken(site)) == []


def test_a_link_that_leads_nowhere_would_be_found(site: Path, tmp_path: Path) -> None:
    from shutil import copytree

    copy = copytree(site, tmp_path / "site")
    page = copy / "install.html"
    wrong = '<a href="nowhere.html"></a><a href="web.html#nowhere"></a><img src="https://example.com/a.png">'
    page.write_text(page.read_text(encoding="utf-8") + wrong, encoding="utf-8")
    assert len(list(broken(copy))) == 3


def test_the_reference_has_every_public_name(site: Path) -> None:
    places = Links(site / "api.html").places
    for name, home in moditalker.HOMES.items():
        assert f"moditalker.{home}.{name}" in places
    for name in ("generate", "dub", "stream", "from_pretrained"):
        assert f"moditalker.talker.talker.MoDiTalker.{name}" in places
