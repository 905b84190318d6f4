"""`make release`: whether HEAD can be a release, and the two commands that make it one.

The version stands in `pyproject.toml` alone, and a release is the commit that set it there: a tag only names it for
people. What it has to be called follows from what changed for whoever answers the prompts (https://semver.org).
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# Where updates are tested, those by a migration among them.
UPDATES = "tests/test_upgrades.py"

# How MIGRATING.md calls a release until it has a number.
NEXT = "## To the next release"


class Version(NamedTuple):
    """A version of semantic versioning; pre-releases are not for here."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> "Version | None":
        """The version that the text is, if it is one."""
        found = re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", text)
        return cls(*map(int, found.groups())) if found else None

    def __str__(self) -> str:
        return ".".join(map(str, self))

    def after(self, *, breaking: bool, adding: bool) -> "Version":
        """The least version that such changes need. Before 1.0.0, the second number is the one that breaks."""
        if breaking and self.major:
            return Version(self.major + 1, 0, 0)
        if breaking or adding:
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)


# What is stated before there is a release.
NOTHING = Version(0, 0, 0)


@dataclass(frozen=True)
class Change:
    """What is not as it was for whoever has answered before.

    Attributes:
        what: for people.
        name: the prompt or choice that MIGRATING.md has to name.
        gone: whether a service may have an answer that there is no longer, so that its update has to be tested.
    """

    what: str
    name: str = ""
    gone: bool = False


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def version_in(pyproject: str) -> str:
    """The version that a `pyproject.toml` states."""
    return str(tomllib.loads(pyproject)["project"]["version"])


def releases(root: Path = ROOT) -> dict[Version, str]:
    """Each release in the history, with the commit that set its version; the oldest first."""
    found: dict[Version, str] = {}
    for commit in git(root, "log", "--reverse", "--format=%H", '-Gversion = "', "--", "pyproject.toml").split():
        version = Version.parse(version_in(git(root, "show", f"{commit}:pyproject.toml")))
        if version and version > NOTHING:
            found.setdefault(version, commit)
    return found


def prompts(text: str) -> dict[str, Any]:
    """What a `cookiecutter.json` asks."""
    return {name: asked for name, asked in json.loads(text).items() if not name.startswith("_")}


def breaks(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """What an answer from before meets now that it did not meet then."""
    for name, asked in before.items():
        if name not in now:
            yield Change(f"the prompt `{name}` is gone", name, gone=True)
        elif type(asked) is not type(now[name]):
            yield Change(f"`{name}` is asked in another way", name, gone=True)
        elif isinstance(asked, list):
            for choice in asked:
                if choice not in now[name]:
                    yield Change(f"`{name}` has no choice `{choice}` any more", choice, gone=True)
            if asked[0] != now[name][0]:
                yield Change(f"`{name}` has another default", name)
        elif asked != now[name]:
            yield Change(f"`{name}` has another default", name)
    if [name for name in before if name in now] != [name for name in now if name in before]:
        yield Change("the prompts come in another order")


def additions(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """What can be answered now that could not be before."""
    for name, asked in now.items():
        if name not in before:
            yield Change(f"the prompt `{name}` is new", name)
        elif isinstance(asked, list) and isinstance(before[name], list):
            yield from (
                Change(f"`{name}` has the new choice `{choice}`") for choice in asked if choice not in before[name]
            )


def section(text: str, heading: str) -> str | None:
    """What stands under the first heading of the second level that begins so."""
    found = re.search(rf"^{re.escape(heading)}\b.*\n((?:(?!## ).*\n?)*)", text, re.MULTILINE)
    return found[1].strip() if found else None


def changelog_problems(text: str, version: Version) -> Iterator[str]:
    """What is wrong with the entry of this version, and what is in none."""
    headings = re.findall(r"^## \[(\d[^]]*)\](.*)$", text, re.MULTILINE)
    of_this = [(number, rest) for number, (name, rest) in enumerate(headings) if name == str(version)]
    if not of_this:
        yield f"CHANGELOG.md has no heading `## [{version}] - <year-month-day>`."
    else:
        number, rest = of_this[0]
        try:
            date.fromisoformat(rest.removeprefix(" - "))
        except ValueError:
            yield f"CHANGELOG.md has no date after `## [{version}] - `, as 2026-01-31 is one."
        if number:
            yield f"CHANGELOG.md has {headings[0][0]} above {version}: the newest comes first."
        if not section(text, f"## [{version}"):
            yield f"CHANGELOG.md says nothing of {version}."
    if section(text, "## [Unreleased"):
        yield f"CHANGELOG.md has changes under [Unreleased]: put them under {version}."


def migration_problems(root: Path, version: Version, broken: list[Change]) -> Iterator[str]:
    """What whoever updates is not told, or what nobody has tried."""
    text = (root / "MIGRATING.md").read_text(encoding="utf-8")
    tests = (root / UPDATES).read_text(encoding="utf-8")
    heading = f"## To {version.major}.{version.minor}"
    if NEXT in text:
        yield f"MIGRATING.md still calls a section `{NEXT}`: that is `{heading}`."
    told = section(text, heading)
    for change in broken:
        if told is None or (change.name and not re.search(rf"`{re.escape(change.name)}\b", told)):
            yield f"MIGRATING.md does not say under `{heading}` what to do: {change.what}."
        if change.gone and f'"{change.name}"' not in tests:
            yield f"{UPDATES} does not update a service that has it: {change.what}."


def tag_problems(root: Path, version: Version, tag: str) -> Iterator[str]:
    """Whether there is a tag of this version, before it is made; or that the one that was made is the right one."""
    name = f"v{version}"
    if not tag:
        if git(root, "tag", "--list", name):
            yield f"There is a tag {name} already."
    elif tag != name:
        yield f"The tag is {tag}, and the version {version}."
    elif not git(root, "tag", "--list", name, "--points-at", "HEAD"):
        yield f"The tag {tag} is not of this commit."


def problems(root: Path, tag: str = "") -> Iterator[str]:
    """Everything that keeps HEAD from being a release, or from being the one of this tag."""
    stated = version_in((root / "pyproject.toml").read_text(encoding="utf-8"))
    version = Version.parse(stated)
    if not version:
        yield f"pyproject.toml has the version {stated}: it is three numbers, as 1.2.3."
        return
    if git(root, "status", "--porcelain"):
        yield "The working tree holds changes that are not committed."
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        yield "The history is cut off, and the releases before cannot be seen: git fetch --unshallow"
        return
    yield from tag_problems(root, version, tag)
    known = releases(root)
    commit = known.pop(version, "")
    if commit != git(root, "rev-parse", "HEAD"):
        where = f"{commit[:7]} did: raise it, or tag that one" if commit else "it has to be committed"
        yield f"HEAD did not set the version {version}, and a release is the commit that did: {where}."
    yield from changelog_problems((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    broken: list[Change] = []
    if known:
        last = max(known)
        before = prompts(git(root, "show", f"{known[last]}:cookiecutter.json"))
        now = prompts((root / "cookiecutter.json").read_text(encoding="utf-8"))
        broken, added = list(breaks(before, now)), list(additions(before, now))
        least = last.after(breaking=bool(broken), adding=bool(added))
        if version < least:
            why = "; ".join(change.what for change in broken or added) or "that is the release before"
            yield f"{version} does not do after {last}, it has to be {least} at least: {why}."
    yield from migration_problems(root, version, broken)


def notes(root: Path) -> str:
    """What is new in this version."""
    version = version_in((root / "pyproject.toml").read_text(encoding="utf-8"))
    return section((root / "CHANGELOG.md").read_text(encoding="utf-8"), f"## [{version}") or ""


def main(words: list[str], root: Path = ROOT) -> int:
    """Tell how to release HEAD, or why not; the exit code of the process."""
    parser = argparse.ArgumentParser(prog="make release")
    parser.add_argument("--tag", default="", help="the tag that was made")
    parser.add_argument("--notes", action="store_true", help="print what is new instead")
    asked = parser.parse_args(words)
    if asked.notes:
        sys.stdout.write(f"{notes(root)}\n")
        return 0
    if found := list(problems(root, asked.tag)):
        sys.stderr.write("This is no release yet.\n" + "".join(f"- {problem}\n" for problem in found))
        return 1
    version = version_in((root / "pyproject.toml").read_text(encoding="utf-8"))
    sys.stdout.write(
        f"This is {version}.\n"
        if asked.tag
        else f"HEAD can be {version}, once its tests have passed (make test-all). To release it, type:\n"
        f"  git tag --sign v{version} --message 'Release {version}'\n"
        f"  git push --atomic origin HEAD:main v{version}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
