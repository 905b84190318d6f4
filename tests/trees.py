"""What tests read of a tree, of the template or of a service: its files, its documents and its locks."""

import ast
import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import yaml
from conftest import ROOT

# In text, and in the pictures that Mermaid draws.
LINK = re.compile(r"""(?:\]\(|^ *click \w+ ")(?!https?://)([^)"#\s]*)(?:#([^)"\s]+))?""", re.MULTILINE)
PINS = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z0-9,_ -]+\])?==([^ \n]+)", re.MULTILINE)


def files(project: Path) -> list[Path]:
    """Each file but Git's own."""
    found = (path for path in project.rglob("*") if path.is_file())
    return sorted(path for path in found if ".git" not in path.relative_to(project).parts)


def contents(project: Path) -> dict[str, bytes]:
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files(project)}


def text_of(path: Path) -> str | None:
    """Return the text of the file, or nothing when it is binary."""
    raw = path.read_bytes()
    return None if b"\0" in raw else raw.decode("utf-8")


def parse(path: Path) -> None:
    """Parse the file as what its name says it is."""
    text = text_of(path) or ""
    match path.suffix:
        case ".toml":
            tomllib.loads(text)
        case ".json":
            json.loads(text)
        case ".py":
            ast.parse(text)
        case ".yaml" | ".yml":
            list(yaml.safe_load_all(text))


def problems(project: Path) -> list[str]:
    """Return what does not parse, with the reason."""
    found = []
    for path in files(project):
        try:
            parse(path)
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            found.append(f"{path.relative_to(project)}: {error}")
    return found


def untidy(project: Path) -> list[str]:
    """Return what an editor would change without being asked, and tags that were meant to be rendered."""
    # Other tools use double braces too; what names Cookiecutter was meant for it.
    tag = re.compile(r"[{][{%#][^}]*cookiecutter")
    found = [f"{path}: its name" for path in contents(project) if "{" in path]
    for path in files(project):
        text, name = text_of(path), path.relative_to(project)
        if not text:
            continue
        if "\r" in text:
            found.append(f"{name}: carriage return")
        if not text.endswith("\n") or text.endswith("\n\n"):
            found.append(f"{name}: must end in one newline")
        for number, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip(" \t"):
                found.append(f"{name}:{number}: trailing space")
            if tag.search(line):
                found.append(f"{name}:{number}: not rendered")
    return found


def documents(root: Path) -> list[Path]:
    """The documents of a template, but for those of its services and what is hidden in it, as caches are."""
    found = (path.relative_to(root) for path in root.rglob("*.md"))
    return sorted(root / path for path in found if not any(part.startswith((".", "{{")) for part in path.parts))


def anchors(document: Path) -> set[str]:
    """What a link into a document may end in, as GitHub makes it of headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
        found[re.sub(r"[^\w\- ]", "", words).replace(" ", "-")] += 1
    return {f"{anchor}-{number}" if number else anchor for anchor, times in found.items() for number in range(times)}


def dead_links(document: Path) -> list[str]:
    """The links of a document that lead to no file, or to no heading."""
    dead = []
    for path, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(f"{path}#{anchor}")
    return dead


def pins(name: str) -> set[tuple[str, str]]:
    """Each package of a lock with its version: twice where Pythons want different ones."""
    return set(PINS.findall((ROOT / name).read_text(encoding="utf-8")))
