"""The arithmetic of a soak tells what grows from what does not."""

from collections.abc import Callable

import pytest
from soak import MIB, Limit, thinned, trend

MEMORY = Limit("memory, MiB", "", MIB, 2)


@pytest.mark.parametrize(
    ("value", "slope", "grows"),
    [
        pytest.param(lambda _: 90.0, 0, False, id="flat"),
        pytest.param(lambda second: 90 + second / 600, 6, True, id="a leak of 6 MiB an hour, within half an hour"),
        pytest.param(lambda second: 90 - second / 600, -6, False, id="it gives memory back"),
        pytest.param(lambda second: 90 + second % 20 / 10, 0, False, id="a saw"),
    ],
)
def test_growth_is_that_of_the_line_that_fits_best(value: Callable[[int], float], slope: float, grows: bool) -> None:
    found = trend(MEMORY, [(second, value(second) * MIB) for second in range(0, 1800, 5)])

    assert found.slope == pytest.approx(slope, abs=0.1)
    assert found.grows is grows


def test_a_long_series_is_thinned_by_medians() -> None:
    assert thinned([1, 2, 9, 4, 5, 6, 7], 3) == [2, 5, 7]
    assert thinned([1, 2], 45) == [1, 2]
