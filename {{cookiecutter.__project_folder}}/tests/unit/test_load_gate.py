"""A run is judged by the objectives alone, each miss has its sentence, and a run that says nothing is no success."""

import pytest

from app.core.config import FACTS
from tests.load.gate import Exit, Objectives, Run

OBJECTIVES = Objectives(availability_percent=99.9, latency_threshold_ms=300, latency_percent=99)

FAST, EXACT, SLOW = 10.0, 300.0, 300.1


def run_of(*, fast: int = 0, exact: int = 0, slow: int = 0, failed: int = 0, rate: float | None = None) -> Run:
    """A run of one phase of 100 seconds with so many requests."""
    run = Run(OBJECTIVES)
    run.begin("something", 0, rate)
    for milliseconds, number in ((FAST, fast), (EXACT, exact), (SLOW, slow)):
        for _ in range(number):
            run.count(milliseconds, failed=False)
    for _ in range(failed):
        run.count(SLOW, failed=True)
    run.end(100)
    return run


def test_the_objectives_are_those_of_the_service() -> None:
    slo = FACTS.slo

    assert Objectives.read() == Objectives(slo.availability_percent, slo.latency_threshold_ms, slo.latency_percent)


@pytest.mark.parametrize(
    ("run", "code", "told"),
    [
        (run_of(fast=1), Exit.KEPT, ["Both objectives were kept"]),
        (run_of(fast=99, slow=1), Exit.KEPT, ["Both"]),
        (run_of(fast=98, slow=2), Exit.MISSED, ["Latency is missed: 98 % of 100 answers came within 300 ms"]),
        (run_of(exact=100), Exit.KEPT, ["Both"]),
        (run_of(fast=999, failed=1), Exit.KEPT, ["Both"]),
        (run_of(fast=998, failed=2), Exit.MISSED, ["Availability is missed: 2 of 1000 requests failed, 0.2 %, and"]),
        (run_of(fast=90, slow=10, failed=900), Exit.MISSED, ["Availability", "Latency"]),
        # A failure is not late as well, however long it took.
        (run_of(fast=9990, slow=100, failed=10), Exit.KEPT, ["Both"]),
        (run_of(failed=10), Exit.MISSED, ["Availability is missed: 10 of 10"]),
        (run_of(), Exit.VOID, ["Nothing was measured"]),
        (run_of(rate=5), Exit.VOID, ["Nothing was measured"]),
        (run_of(fast=475, rate=5), Exit.KEPT, ["Both"]),
        (run_of(fast=474, rate=5), Exit.VOID, ["The rate is missed: 474 of 500 requests"]),
        (run_of(fast=100, slow=100, rate=5), Exit.MISSED, ["Latency", "The rate is missed"]),
        (Run(OBJECTIVES), Exit.VOID, ["Nothing was measured"]),
    ],
)
def test_each_run_ends_with_its_code_and_says_why(run: Run, code: Exit, told: list[str]) -> None:
    verdict = run.judge()

    assert verdict.code is code
    assert len(verdict.sentences) == len(told)
    assert all(sentence.startswith(start) for sentence, start in zip(verdict.sentences, told, strict=True))


@pytest.mark.parametrize(("seconds", "code"), [(92.9, Exit.VOID), (93, Exit.KEPT), (100, Exit.KEPT)])
def test_a_run_that_was_broken_off_says_nothing(seconds: float, code: Exit) -> None:
    run = Run(OBJECTIVES, seconds=100)
    run.begin("something", 0)
    run.count(FAST, failed=False)
    run.end(seconds)

    assert run.judge().code is code
    assert ("broken off: it took 93 of 100 seconds" in run.judge().sentences[0]) is (code is Exit.VOID)


def test_phases_are_judged_together_and_reported_apart() -> None:
    run = Run(OBJECTIVES)
    run.begin("a few", 0, rate=1)
    run.add((100, 0, 0))
    run.begin("many", 100, rate=9)
    run.add((900, 0, 10))
    run.end(200)
    run.add((1, 0, 0))

    assert run.judge().code is Exit.KEPT
    _, few, many = run.report().splitlines()
    assert few.split() == ["a", "few", "100", "100", "1.0", "0.00", "%", "100.00", "%"]
    assert many.split() == ["many", "100", "901", "9.0", "0.00", "%", "98.89", "%"]


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ((1000, 0, 0), "It held up to much."),
        ((1000, 2, 0), "It held up to little."),
        ((900, 0, 0), "It held up to little."),
    ],
)
def test_a_run_until_it_breaks_tells_how_far_it_came_and_fails_only_for_its_first_step(
    second: tuple[int, int, int], told: str
) -> None:
    run = Run(OBJECTIVES, until_it_breaks=True)
    run.begin("little", 0, rate=10)
    run.add((1000, 0, 0))
    run.begin("much", 100, rate=10)
    assert not run.phases[0].faults(OBJECTIVES)
    run.add(second)
    run.end(200)

    assert run.broken == (told != "It held up to much.")
    assert run.judge().code is Exit.KEPT
    assert told in run.report()

    run.phases[0].counts.add(10, 10, 0)
    assert run.judge().code is Exit.MISSED
    assert run.phases[1].faults(OBJECTIVES) == run.report().splitlines()[4:]


def test_what_comes_after_a_run_was_ended_does_not_change_what_it_was_ended_for() -> None:
    run = Run(OBJECTIVES, until_it_breaks=True)
    run.begin("little", 0, rate=10)
    run.add((1000, 0, 0))
    run.begin("much", 100, rate=20)
    run.add((1000, 0, 0))
    run.end(200)
    run.close()

    run.add((1000, 0, 0))

    assert run.broken
    assert "It held up to little." in run.report()
    assert "The rate is missed: 1000 of 2000" in run.report()


def test_what_a_worker_counts_arrives_at_its_master_once() -> None:
    worker, master = Run(OBJECTIVES), Run(OBJECTIVES)
    master.begin("something", 0)
    for _ in range(2):
        worker.count(FAST, failed=False)
        worker.count(SLOW, failed=False)
        worker.count(FAST, failed=True)
        master.add(worker.take())
        master.add(worker.take())

    counts = master.phases[0].counts
    assert (counts.requests, counts.errors, counts.late) == (6, 2, 2)
