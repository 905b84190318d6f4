"""Answers that together hold every pair of choices, and every three of those that decide about one file.

Most faults of options come from two of them that meet, few from three
(https://csrc.nist.gov/projects/automated-combinatorial-testing-for-software). All of them would be thousands of trees.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import combinations, product
from pathlib import PurePosixPath

from options import ROOT, SERVICE, SPELLED, offered, written
from post_gen_project import PRUNE

# What files of a service share.
PARTIALS = ROOT / "templates"

Answers = Mapping[str, str]
Choices = Mapping[str, tuple[str, ...]]

# Choices that meet: each an option and its answer.
Meeting = frozenset[tuple[str, str]]


@cache
def choices() -> Choices:
    """Each option with its choices, as they are typed; the default is the first."""
    return {name: tuple(SPELLED.get(choice, choice) for choice in known) for name, known in offered().items()}


@cache
def elsewhere() -> Mapping[str, str]:
    """What files take from elsewhere, by its name: the private values of the answers, and partials."""
    answers = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    private = {name: text for name, text in answers.items() if name.startswith("__") and isinstance(text, str)}
    partials = [path for path in PARTIALS.rglob("*") if path.is_file()]
    return private | {path.relative_to(PARTIALS).as_posix(): path.read_text(encoding="utf-8") for path in partials}


def options_of(text: str) -> set[str]:
    """The options that a text names, or something does that it takes from elsewhere."""
    waiting, seen, named = {text}, set[str](), set[str]()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        named |= set(re.findall(r"cookiecutter\.(\w+)", one))
        # One that puts the name of a partial together may take all that begin with what it states.
        stated = tuple(re.findall(r"include '(.+?)'", one))
        taken = (found for name, found in elsewhere().items() if name in named or (stated and name.startswith(stated)))
        waiting |= set(taken) - seen
    return named & choices().keys()


def options_of_files() -> Iterator[frozenset[str]]:
    """For each file of the template, the options that decide whether it is there, or what it says."""
    for name in written():
        text = "" if name.endswith(".py") else (SERVICE / name).read_text(encoding="utf-8")
        pruned = {rule.option for rule in PRUNE for gone in rule.paths if PurePosixPath(name).is_relative_to(gone)}
        yield frozenset(options_of(f"{name}{text}") | pruned)


def meetings(options: Iterable[str]) -> Iterator[Meeting]:
    """Every way in which these options can be answered."""
    names = sorted(options)
    for answers in product(*(choices()[name] for name in names)):
        yield frozenset(zip(names, answers, strict=True))


def pairs() -> set[Meeting]:
    """Every pair of choices of two options."""
    return {meeting for options in combinations(choices(), 2) for meeting in meetings(options)}


def threes() -> set[Meeting]:
    """Every three choices of options that decide about one file together."""
    together = {three for options in options_of_files() for three in combinations(sorted(options), 3)}
    return {meeting for options in together for meeting in meetings(options)}


def covering(wanted: set[Meeting], begun: Iterable[Answers]) -> tuple[Answers, ...]:
    """Few sets of answers that hold what of these the begun ones do not; the same for the same prompts.

    Each begins with a meeting that is still missing, and takes for every other option the choice that adds most.
    """
    missing = set(wanted)
    for profile in begun:
        missing -= held(profile, missing)
    profiles: list[Answers] = []
    while missing:
        answers = dict(min(missing, key=sorted))
        for option, known in choices().items():
            if option not in answers:
                answers[option] = max(known, key=lambda choice: gain({**answers, option: choice}, option, missing))
        profile = {option: answers[option] for option in choices()}
        profiles.append(profile)
        missing -= held(profile, missing)
    return tuple(profiles)


def gain(answers: Answers, option: str, missing: set[Meeting]) -> int:
    """How many of the missing meetings of this option the answers so far hold."""
    settled = answers.items()
    return sum(meeting <= settled for meeting in missing if (option, answers[option]) in meeting)


def held(answers: Answers, meetings: set[Meeting]) -> set[Meeting]:
    """Those of the meetings that a set of answers holds."""
    settled = answers.items()
    return {meeting for meeting in meetings if meeting <= settled}


def command(answers: Answers) -> str:
    """What to type to get this service again."""
    changed = [f"{option}={answer}" for option, answer in answers.items() if answer != choices()[option][0]]
    return shlex.join(["cookiecutter", ".", "--no-input", *changed])


@cache
def in_pairs() -> tuple[Answers, ...]:
    """The profiles that hold every pair, the defaults first."""
    defaults = {option: known[0] for option, known in choices().items()}
    return (defaults, *covering(pairs(), [defaults]))


@cache
def in_threes() -> tuple[Answers, ...]:
    """The profiles that hold every three of options that decide about one file, beyond those of the pairs."""
    return covering(threes(), in_pairs())
