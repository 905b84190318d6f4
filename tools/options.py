"""Write `docs/options.md`: each prompt, and what each of its choices adds to a generated tree.

It is computed as generation does it, from conditional names and the prune table: nobody writes the page.
"""

import json
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from cookiecutter.generate import generate_context
from cookiecutter.prompt import prompt_for_config
from cookiecutter.utils import create_env_with_context

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "options.md"
SERVICE = ROOT / "{{cookiecutter.__project_folder}}"

# The hooks are scripts, not a package.
sys.path.insert(0, str(ROOT / "hooks"))

from post_gen_project import PRUNE  # noqa: E402 - found by the line above

# What running Python, a test or a checker leaves in a tree.
LEFT_BEHIND = ("__pycache__", ".venv", ".cache", ".*_cache")

# Truth values as a person answers them.
SPELLED = {True: "yes", False: "no"}

HEAD = """\
# Options

The prompts, in this order. Each default works. Invalid answers are refused together, each with its rule and an example
that passes, and nothing is left on disk. Change an answer later with `cruft update -y --variables-to-update`:
[upgrading](upgrading.md#change-an-answer).

`make options` writes this page from the prompts, the file names and the prune table in `hooks/post_gen_project.py`.
"""

CHOICES = """\
## What each choice adds

In addition to what every service has. The text of shared files differs too. All other answers, such as names, addresses
and objectives, only change the contents of files.
"""


def offered() -> dict[str, list[Any]]:
    """Each prompt that has choices, with them; the default is the first."""
    prompts = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    choices = {
        name: [default, not default] if isinstance(default, bool) else default for name, default in prompts.items()
    }
    return {name: known for name, known in choices.items() if isinstance(known, list) and not name.startswith("_")}


def written(folder: Path = SERVICE) -> list[str]:
    """The files of a tree; those of the template by the names that it writes them with."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [
        path.as_posix() for path in found if not any(fnmatch(part, left) for part in path.parts for left in LEFT_BEHIND)
    ]


def tree(answers: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The files that a service with these answers has, each with its name as the template writes it."""
    environment = create_env_with_context({"cookiecutter": answers})
    rendered = {environment.from_string(name).render(cookiecutter=answers): name for name in names}
    gone = [PurePosixPath(path) for rule in PRUNE if answers[rule.option] not in rule.kept_by for path in rule.paths]
    return {
        name: source
        for name, source in rendered.items()
        if name and not name.endswith("/") and not any(PurePosixPath(name).is_relative_to(path) for path in gone)
    }


def folded(added: set[str], everything: set[str]) -> list[str]:
    """The paths, with each folder that is there for nothing else in place of its files."""
    others = everything - added

    def shown(path: PurePosixPath) -> str:
        for folder in reversed(path.parents[:-1]):
            if not any(PurePosixPath(other).is_relative_to(folder) for other in others):
                return f"{folder}/"
        return str(path)

    return sorted({shown(PurePosixPath(path)) for path in added})


def table(choices: list[Any], label: Any, trees: list[dict[str, str]]) -> Iterable[str]:
    """The rows of a prompt: a choice, what it means to people, and what only trees with it have."""
    everywhere = set.intersection(*map(set, trees))
    everything = set.union(*map(set, trees))
    # The same path, of which each choice has a variant.
    variants = [name for name in sorted(everywhere) if len({own[name] for own in trees}) > 1]
    yield from ("| Choice | Is | Adds |", "| --- | --- | --- |")
    for choice, own in zip(choices, trees, strict=True):
        added = [f"`{path}`" for path in folded(set(own) - everywhere, everything)]
        added += [f"its own `{name}`" for name in variants]
        meaning = label[choice] if isinstance(label, dict) else ""
        yield f"| {SPELLED.get(choice, choice)} | {meaning} | {', '.join(added) or 'nothing'} |"


def answered(**given: str | bool) -> dict[str, Any]:
    """All answers, derived ones among them, when these are given and the rest is left to the defaults."""
    context = generate_context(context_file=str(ROOT / "cookiecutter.json"), extra_context=given)
    return dict(prompt_for_config(context, no_input=True))


def questions(labels: dict[str, Any]) -> Iterable[str]:
    """The rows of all prompts: the name, the default, and what is asked."""
    defaults = answered()
    yield from ("| Prompt | Default | Is |", "| --- | --- | --- |")
    for name, label in labels.items():
        default = SPELLED.get(defaults[name], defaults[name])
        linked = f"[`{name}`](#{name})" if name in offered() else f"`{name}`"
        asked = label["__prompt__"] if isinstance(label, dict) else label
        yield f"| {linked} | {default} | {escape(asked, quote=False)} |"


def page() -> str:
    """The whole page."""
    labels = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))["__prompts__"]
    names = written()
    sections = [HEAD, "\n".join([*questions(labels), ""]), CHOICES]
    for option, choices in offered().items():
        label = labels[option]
        title = label["__prompt__"] if isinstance(label, dict) else label
        trees = [tree(answered(**{option: choice}), names) for choice in choices]
        sections.append("\n".join([f"### `{option}`", "", f"{title}.", "", *table(choices, label, trees), ""]))
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
