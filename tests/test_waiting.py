"""Whoever waits gets what comes, and is told what did not."""

from collections.abc import Iterator

import pytest
from waiting import wait_for

from demo.client import NoAnswerError


def test_what_is_found_at_last_is_returned() -> None:
    found = iter(["", "", "it"])

    assert wait_for(lambda: next(found), "it does not come", pause=0) == "it"


def test_who_does_not_answer_yet_is_asked_again() -> None:
    answers: Iterator[str | NoAnswerError] = iter([NoAnswerError("refused"), "it"])

    def look() -> str:
        answer = next(answers)
        if isinstance(answer, NoAnswerError):
            raise answer
        return answer

    assert wait_for(look, "it does not come", pause=0) == "it"


def test_what_does_not_come_is_told_as_it_is_in_the_end() -> None:
    looks: list[None] = []

    def look() -> None:
        looks.append(None)

    with pytest.raises(AssertionError) as told:
        wait_for(look, lambda: f"looked {len(looks)} times", seconds=0.02, pause=0.01)

    assert str(told.value) == f"not within 0.02 s: looked {len(looks)} times"
    assert len(looks) > 1


def test_why_nobody_answers_is_told() -> None:
    def look() -> None:
        raise NoAnswerError("refused")

    with pytest.raises(AssertionError, match="it does not come: refused"):
        wait_for(look, "it does not come", seconds=0, pause=0)
