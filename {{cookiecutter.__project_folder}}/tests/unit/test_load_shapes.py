"""A shape asks for the users that its stages say, and reaches each level within the time that users wait."""

import pytest

from tests.load.shapes import PATIENCE_SECONDS, SHAPES, Plan, Shape, patience, users_for


def levels(plan: Plan, users: float) -> list[float]:
    """The level at each second."""
    found = (plan.at(second) for second in range(int(plan.seconds)))
    return [wanted.users / users for wanted in found if wanted]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smoke", [0.1] * 10),
        ("steady", [1] * 10),
        ("spike", [1, 1, 1, 1, 5, 5, 1, 1, 1, 1]),
        ("soak", [0.5] * 10),
        ("step", [1, 2, 3, 4, 5, 6, 8, 10, 12, 15]),
    ],
)
def test_a_shape_goes_through_its_levels(name: str, expected: list[float]) -> None:
    assert levels(Plan(SHAPES[name], 100, 10), 100) == expected


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_stages_of_a_shape_are_all_of_its_time(shape: Shape) -> None:
    assert sum(stage.share for stage in shape.stages) == pytest.approx(1)
    assert Plan(shape, 10, shape.seconds).at(shape.seconds - 0.001) is not None
    assert Plan(shape, 10, shape.seconds).at(shape.seconds) is None


def test_a_change_of_level_takes_as_long_as_users_take_to_come_back() -> None:
    spike = Plan(SHAPES["spike"], 200, 100)

    # In the open model these are the rates: so many users a second come for the first time.
    assert [wanted.spawn_rate for at in (0, 40, 60) if (wanted := spike.at(at))] == [20, 80, 80]


def test_users_are_whole_and_there_is_at_least_one() -> None:
    wanted = Plan(SHAPES["smoke"], 3, 10).at(0)

    assert wanted
    assert (wanted.users, wanted.spawn_rate) == (1, 1)


@pytest.mark.parametrize(("threshold", "seconds"), [(5, 10), (300, 10), (5000, 10), (10_000, 20)])
def test_a_user_waits_longer_than_the_objective_allows(threshold: float, seconds: float) -> None:
    assert patience(threshold) == seconds
    assert users_for(20, patience(threshold)) == 20 * seconds
    assert seconds >= PATIENCE_SECONDS
