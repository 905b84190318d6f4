"""Every pair of choices meets in some profile, and each profile is a whole service that passes its own gates.

The profiles are those whose manifests are rendered, with answers to what manifests do not depend on.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations

import pytest
from conftest import Bake
from rendered import PROFILES
from test_generation import problems
from test_hooks import CHOICES
from test_service import make

Answer = tuple[str, str | bool]
Pair = tuple[Answer, Answer]


def pairs(answers: Mapping[str, str | bool]) -> Iterator[Pair]:
    """Each two answers that meet in these, the options in the order of the prompts."""
    return combinations([(option, answers[option]) for option in CHOICES if option in answers], 2)


ALL = {
    ((first, one), (second, other))
    for first, second in combinations(CHOICES, 2)
    for one in CHOICES[first]
    for other in CHOICES[second]
}


def completed() -> Mapping[str, Mapping[str, str | bool]]:
    """Each profile, its open questions answered so that it meets most pairs that none before it did."""
    left = set(ALL)
    found = {}
    for name, given in PROFILES.items():
        answers: dict[str, str | bool] = dict(given)
        for option in CHOICES:
            if option not in answers:
                ways = [answers | {option: choice} for choice in CHOICES[option]]
                answers = max(ways, key=lambda way: len(left.intersection(pairs(way))))
        left.difference_update(pairs(answers))
        found[name] = answers
    return found


SERVICES = completed()


def test_every_pair_of_choices_is_in_some_profile() -> None:
    assert ALL - {pair for answers in SERVICES.values() for pair in pairs(answers)} == set()


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_of_a_profile_parses(name: str, bake: Bake) -> None:
    assert problems(bake(**SERVICES[name])) == []


@pytest.mark.long
@pytest.mark.parametrize("name", SERVICES)
def test_a_profile_passes_its_own_gates(name: str, bake: Bake) -> None:
    make(bake(**SERVICES[name]), "lint-code", "types", "test")
