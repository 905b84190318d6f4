"""What the drills of the template's own machine saw: kept in docs/drills, and as a table in what a service is told."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import post_gen_project
from conftest import FOLDER, ROOT

RESULTS = ROOT / "docs" / "drills"
PAGE = ROOT / FOLDER / "docs" / "troubleshooting" / "GAME-DAY.md"
BEGIN, END = "<!-- drills: written by make drills-report -->\n", "<!-- drills: end -->"

# What tells apart a drill that every way of replacing versions does otherwise, and whose file has one name.
CANARY = "-canary"
STRATEGIES = {"bad-deploy": "rolling", f"bad-deploy{CANARY}": "canary"}


def keep(project: Path, suffix: str = "") -> None:
    """Keep what the drills of a service left in its reports; a suffix tells apart what has the same name."""
    RESULTS.mkdir(exist_ok=True)
    for file in sorted((project / "reports" / "drills").iterdir()):
        text = file.read_text(encoding="utf-8")
        drill = file.stem.removesuffix("-without-protection").removesuffix("-short")
        named = f"{drill}{suffix}{file.stem.removeprefix(drill)}"
        text = text.replace(f"({file.stem}.svg)", f"({named}.svg)").replace(
            f'"drill": "{drill}"', f'"drill": "{drill}{suffix}"'
        )
        (RESULTS / f"{named}{file.suffix}").write_text(text, encoding="utf-8")


def records() -> list[dict[str, Any]]:
    """All that was kept."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]


def write(table: str) -> None:
    """Write the table beside the results, and where a service is told of them."""
    _between_marks(RESULTS / "README.md", re.sub(r"`([a-z-]+)`", r"[`\1`](\1.md)", table))
    _between_marks(PAGE, conditional(table))


def _between_marks(page: Path, table: str) -> None:
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, page
    assert end, page
    page.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


def conditional(table: str) -> str:
    """The table as the template has it: a row of a drill that an answer leaves out, or does otherwise, goes with it."""
    lines = []
    for kept, rows in itertools.groupby(table.splitlines(), _kept):
        every = [row.replace(f"{CANARY}`", "`") for row in rows]
        lines += [f"{{% if {kept} %}}", *every, "{% endif %}"] if kept else every
    return "\n".join(lines) + "\n"


def _kept(row: str) -> str:
    """What has to be answered for a row to be there; nothing for one that always is."""
    found = re.search(r"^\| [^|]+ \| `([a-z-]+)` \|", row)
    name = found[1] if found else ""
    strategy = STRATEGIES.get(name, "")
    path = f"tests/chaos/drills/{name}.toml"
    rules = [rule for rule in post_gen_project.PRUNE if path in rule.paths and rule.option != "chaos_drills"]
    kept = [f"cookiecutter.{rule.option} in {rule.kept_by!r}" for rule in rules]
    return " and ".join(kept + ([f"cookiecutter.release_strategy == {strategy!r}"] if strategy else []))
