"""The pictures of the documents show what happens today, and draw what was measured."""

import json
import re
import sys
from html import unescape

import burn_rate
import pytest
from conftest import ROOT


def shown(svg: str) -> str:
    """The text of a picture."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", svg)).replace("\xa0", " "))


@pytest.mark.skipif(sys.platform == "win32", reason="draws a terminal of Unix")
@pytest.mark.parametrize("wish", ["NO_COLOR", "FORCE_COLOR"])
def test_the_picture_of_generation_shows_what_a_terminal_shows_today(
    monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    import terminal

    monkeypatch.setenv(wish, "1")

    kept, today = (shown(svg) for svg in (terminal.PICTURE.read_text(encoding="utf-8"), terminal.draw()))

    commit = r"sre at [0-9a-f]{7}"
    assert re.sub(commit, "", kept) == re.sub(commit, "", today), "run `make pictures`"
    count = len(terminal.prompts())
    assert [int(number) for number in re.findall(rf"\[(\d+)/{count}\]", kept)] == list(range(1, count + 1))


def test_the_picture_of_generation_fetches_nothing() -> None:
    picture = (ROOT / "docs" / "pictures" / "generation.svg").read_text(encoding="utf-8")

    assert re.findall(r"url\((?!#)|href=", picture) == []


@pytest.mark.parametrize(
    ("seconds", "window", "rates"),
    [
        pytest.param([(10, 0, 0)] * 3, 2, [0, 0, 0], id="nothing fails"),
        pytest.param([(0, 0, 0), (9, 1, 0)], 1, [0, 100], id="a second without requests spends nothing"),
        pytest.param([(0, 10, 0), (10, 0, 0), (10, 0, 0)], 2, [1000, 500, 0], id="what is older does not count"),
        pytest.param([(5, 0, 5)], 60, [500], id="a refusal is an error"),
    ],
)
def test_a_burn_rate_is_the_share_of_errors_in_the_window_over_the_budget(
    seconds: list[tuple[int, int, int]], window: int, rates: list[float]
) -> None:
    counted = [{"good": good, "failed": failed, "refused": refused} for good, failed, refused in seconds]

    assert burn_rate.burn_rates(counted, window, 0.001) == pytest.approx(rates)


def test_the_picture_of_the_burn_rate_is_that_of_the_drill_that_is_kept() -> None:
    objective = float(json.loads((ROOT / "cookiecutter.json").read_text())["slo_availability"])
    drill = json.loads(burn_rate.DRILL.read_text(encoding="utf-8"))

    assert burn_rate.PICTURE.read_text(encoding="utf-8") == burn_rate.draw(drill, objective), "run `make pictures`"
