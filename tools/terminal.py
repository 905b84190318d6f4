"""Draw `docs/pictures/generation.svg`, a terminal in which a person answers the prompts of this template.

What it shows happens: Cookiecutter runs in a terminal of its own, and is answered.
"""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "pictures" / "generation.svg"

PUBLISHED = "gh:<owner>/cookiecutter-fastapi-sre"
COLUMNS = 112
# A wish of whoever draws about colours, which Rich reads from here, is not one about the picture.
COLOUR_WISHES = {"NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
ANSWERS = {"project_name": "Orders API", "team": "orders"}
ENTER = b"\n"

# A prompt is answered when nothing has come for so long; all of it takes far less than the second of them.
QUIET_SECONDS = 0.3
PATIENCE_SECONDS = 60.0


def prompts() -> list[str]:
    """The prompts, in their order."""
    known = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    return [name for name in known if not name.startswith("_")]


def session(folder: Path) -> str:
    """All that a terminal shows while a person answers the prompts, with its colours.

    Raises:
        TimeoutError: it did not come to an end.
    """
    person, terminal = pty.openpty()
    names = prompts()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "cookiecutter", str(ROOT)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in COLOUR_WISHES}
        | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        deadline = time.monotonic() + PATIENCE_SECONDS
        answered = 0
        while time.monotonic() < deadline:
            if select.select([person], [], [], QUIET_SECONDS)[0]:
                try:
                    shown += os.read(person, 1 << 16)
                except OSError:
                    # The other end of a terminal is closed.
                    os.close(person)
                    return shown.decode().replace("\r\n", "\n")
            else:
                asked = re.findall(rf"\[(\d+)/{len(names)}\]", shown.decode())
                # Once each: whoever is slow to ask again must not be told the same twice.
                if len(asked) > answered:
                    answered = len(asked)
                    os.write(person, ANSWERS.get(names[answered - 1], "").encode() + ENTER)
        process.kill()
    raise TimeoutError(f"{shown[-1000:].decode()} ... and then nothing")


def draw() -> str:
    """The session as SVG, without the folder in which it happened: that is nobody else's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        shown = session(folder).replace(str(folder), "~").replace(str(ROOT), PUBLISHED)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), no_color=False)
    console.print(Text(f"$ pipx run cookiecutter {PUBLISHED}\n", style="bold") + Text.from_ansi(shown))
    svg = console.export_svg(title="One command, some answers", unique_id="generation")
    # Of a font that would be fetched from elsewhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
