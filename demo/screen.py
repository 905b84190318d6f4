"""What the demo prints: plain text, with a little colour where a terminal shows it."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

WIDTH = 100
INDENT = 12
BOLD = "\033[1m"
IDS = ("\033[36m", "\033[33m")
RESET = "\033[0m"
ERASE_LINE = "\r\033[K"


class Screen:
    """Standard output.

    Args:
        steps: how many steps the demo has.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self._terminal = sys.stdout.isatty()
        # https://no-color.org
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._ids: tuple[str, ...] = ()

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Say what is being done, and then how long it took. Yields a function that tells how far it is."""
        self._step += 1
        began = time.monotonic()
        start = f"[{self._step}/{self._steps}] {text} ... "
        print(start, end="", flush=True)

        def progress(state: str) -> None:
            if self._terminal:
                print(f"{ERASE_LINE}{start}{state}", end="", flush=True)

        try:
            yield progress
        except BaseException:
            print("failed", flush=True)
            raise
        progress("")
        print(f"done in {time.monotonic() - began:.1f} s", flush=True)

    def say(self, *lines: str) -> None:
        """Print lines below a step."""
        for line in lines:
            print(f"      {self._coloured(line)}", flush=True)

    def title(self, text: str) -> None:
        """Begin a part."""
        print(f"\n{BOLD}{text}{RESET}" if self._colour else f"\n{text}", flush=True)

    def show(self, label: str, lines: Iterable[str]) -> None:
        """Print lines beside what they are."""
        for number, line in enumerate(lines):
            print(f"{'' if number else f'  {label}':<{INDENT}}{self._coloured(line)}", flush=True)

    def mark(self, *ids: str) -> None:
        """Colour these ids from now on, wherever they stand: that they are the same is what there is to see."""
        self._ids = ids

    def _coloured(self, text: str) -> str:
        if self._colour:
            for colour, one in zip(IDS, self._ids, strict=False):
                text = text.replace(one, f"{colour}{one}{RESET}")
        return text


def wrapped(text: str, width: int = WIDTH - INDENT) -> list[str]:
    """Break a long line after commas and before comments; joined, the pieces are the line again."""
    lines = [""]
    for piece in re.split(r"(?<=,)|(?= # )", text):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines
