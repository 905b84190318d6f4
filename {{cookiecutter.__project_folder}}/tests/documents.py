"""What tests know of the documents: where they are, where their links lead, and what a link may end in."""

import re
from pathlib import Path

from tests.support import ROOT

PLACES = ("*.md", "docs/**/*.md", "k8s/**/*.md", "ci-cd/**/*.md")
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(place))

# A link of a page, and one of a node in a picture.
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")
_CLICK = re.compile(r'click \w+ "([^"#]*)(?:#([\w-]+))?"')


def links(page: Path) -> list[tuple[Path, str]]:
    """Each link to a place in the tree: the file that it leads to, and the anchor, empty where it has none."""
    text = page.read_text(encoding="utf-8")
    found = _LINK.findall(text) + _CLICK.findall(text)
    return [((page.parent / file).resolve() if file else page, anchor) for file, anchor in found]


def anchors(page: Path) -> set[str]:
    """What a link into this page may end in, as Git hosts make it of headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named(page: Path) -> str:
    """The page as a person would name it."""
    return page.relative_to(ROOT).as_posix()
