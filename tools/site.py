"""A hook of mkdocs.yml: files outside docs/ that its pages link to are on the site too, in project/."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"""(?P<before>\]\(|\bsrc=")(?!\w+:|\#|/)(?P<target>[^)#"\s]+)""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages link to, and those that these link to."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    while waiting:
        page = waiting.pop()
        for link in LINK.finditer(page.read_text(encoding="utf-8")):
            path = page.parent / link["target"]
            if path.is_file() and files.get_file_from_path(place := placed(path)) is None:
                files.append(File.generated(config, place, abs_src_path=str(path.resolve())))
                waiting += [path.resolve()] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to where the files are on the site."""
    folder = Path(str(page.file.abs_src_path)).parent

    def moved(link: re.Match[str]) -> str:
        path = folder / link["target"]
        if not path.is_file():
            return link[0]  # MkDocs says so
        target = posixpath.relpath(placed(path), posixpath.dirname(page.file.src_uri) or ".")
        return link["before"] + target

    return LINK.sub(moved, markdown)


def placed(path: Path) -> str:
    """Where a file of the repository is among the site's sources."""
    name = Path(os.path.relpath(path.resolve(), ROOT)).as_posix()
    return name.removeprefix("docs/") if name.startswith("docs/") else f"project/{name}"
