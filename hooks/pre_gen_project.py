"""Refuse answers that cannot work: all at once, each with the rule it breaks and an example that passes.

Cookiecutter runs this before it writes a file, and removes the folder it had made when the exit code is not
0. A wrong choice never gets here: Cookiecutter itself refuses that.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

# Answers enter as data, never as code: JSON has no three quotes in a row, and a backslash hides the same
# quotes from it as from a raw string.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

WIDEST = 72


class Rule(NamedTuple):
    """What one free-text answer must be: a check for the machine, words and an example for people."""

    prompt: str
    accepts: Callable[[str], object]
    text: str
    example: str


def pattern(expression: str, longest: int) -> Callable[[str], object]:
    """Return a check that the whole answer matches `expression` and is not longer than `longest`."""
    return lambda answer: len(answer) <= longest and re.fullmatch(expression, answer)


def sentence(longest: int) -> Callable[[str], object]:
    """Return a check for text that every file format and terminal can hold on one line.

    Printable excludes line ends, control characters and the invisible ones that reorder text
    (https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing). The start of a Jinja tag is refused
    because each `cruft update` renders the recorded answers again.
    """
    return lambda answer: (
        0 < len(answer) <= longest
        and answer.isprintable()
        and answer == answer.strip()
        and not re.search(r"[{][%#{]", answer)
    )


def decimal_between(lowest: float, highest: float) -> Callable[[str], object]:
    """Return a check for a plain decimal number, spelled as TOML, YAML and JSON all read it."""
    return lambda answer: (
        re.fullmatch(r"(0|[1-9][0-9]{0,4})([.][0-9]{1,3})?", answer) and lowest <= float(answer) <= highest
    )


def whole_between(lowest: int, highest: int) -> Callable[[str], object]:
    """Return a check for a whole number in plain digits; `int()` would also take `1_000` and `+5`."""
    return lambda answer: re.fullmatch(r"[1-9][0-9]{0,4}", answer) and lowest <= int(answer) <= highest


RULES = (
    Rule(
        "project_name",
        sentence(60),
        "1 to 60 printable characters, no space at an end, no '{' followed by '{', '%' or '#'",
        "SRE Demo API",
    ),
    # RFC 1035 section 2.3.1: older clusters refuse a Service whose name starts with a digit. And manifests are YAML, of
    # which version 1.1 takes these words for truth values (https://yaml.org/type/bool.html).
    Rule(
        "project_slug",
        pattern(r"(?!(y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9]*(-[a-z0-9]+)*", 40),
        "at most 40 lower-case letters, digits and single hyphens; a letter first, no hyphen last; not a word that "
        "means something else in YAML, such as 'no' or 'on'",
        "sre-demo-api",
    ),
    Rule(
        "description",
        sentence(200),
        "1 to 200 printable characters on one line, no space at an end, no '{' followed by '{', '%' or '#'",
        "Keeps the items of the web shop.",
    ),
    Rule(
        "organization",
        pattern(r"[a-z0-9]+(-[a-z0-9]+)*", 39),
        "at most 39 lower-case letters, digits and single hyphens, no hyphen first or last",
        "example-org",
    ),
    # Links append `/blob/...` to it, which the `.git` address that one clones from does not serve.
    Rule(
        "repository_url",
        pattern(
            r"https://[A-Za-z0-9-]+([.][A-Za-z0-9-]+)*(:[0-9]{1,5})?(/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+(?<![.]git)",
            200,
        ),
        "the https address of the repository's page, at most 200 ASCII characters: host and path, without "
        "user, query, '.git' or slash at the end",
        "https://github.com/example-org/sre-demo-api",
    ),
    # A tag or digest is added by whoever releases. https://github.com/distribution/reference/blob/main/reference.go
    Rule(
        "image_repository",
        pattern(
            r"[a-z0-9]+([.-]+[a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)+",
            200,
        ),
        "a registry's host and a path of lower-case letters, digits, '.', '_' and '-', at most 200 characters, without "
        "scheme, tag or digest",
        "ghcr.io/example-org/sre-demo-api",
    ),
    # A name of the service, of at most 40 characters, and one of an environment come before it: 253 are allowed in all
    # (RFC 1035 section 2.3.4). Kubernetes and certificates take no capitals.
    Rule(
        "domain",
        pattern(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])", 200),
        "a DNS domain in lower case with at least one dot, at most 200 characters, no dot first or last",
        "example.com",
    ),
    Rule(
        "team",
        pattern(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?", 39),
        "at most 39 lower-case letters, digits, hyphens and underscores; a letter or digit first and last",
        "platform",
    ),
    Rule(
        "slo_availability",
        decimal_between(95, 99.99),
        "a percentage from 95 to 99.99 in plain digits, at most three of them after the point",
        "99.9",
    ),
    Rule(
        "slo_latency_ms",
        whole_between(5, 10_000),
        "a whole number of milliseconds from 5 to 10000 in plain digits",
        "300",
    ),
)


def shown(answer: object) -> str:
    """Return the answer as one short line; `repr` escapes what could move the cursor or reorder the text."""
    text = repr(answer)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def refusal(answers: Mapping[str, object]) -> str:
    """Return the message about all answers that break their rule, or nothing when none does."""
    refused = [
        f"  {rule.prompt}: {shown(answer)}\n      must be: {rule.text}\n      example: {rule.example}\n"
        for rule in RULES
        if not (isinstance(answer := answers[rule.prompt], str) and rule.accepts(answer))
    ]
    if not refused:
        return ""
    frame = "=" * WIDEST
    title = f"Nothing was generated. Answers to correct: {len(refused)}"
    return "\n".join(("", frame, title, "", *refused, frame, ""))


if __name__ == "__main__":
    # stderr escapes what the terminal's encoding lacks, so no answer can turn the explanation into a
    # traceback.
    sys.exit(refusal(json.loads(ANSWERS)) or None)
