"""The documents are one book: each page is reached from the README, and a decision has its parts."""

import re
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, anchors, links, named
from tests.support import ROOT

DECISIONS = ROOT / "docs" / "adr"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
TEMPLATE = DECISIONS / "0000-template.md"

STATUS = re.compile(r"^Status: (proposed|accepted|rejected|superseded by \[.+\]\(.+\.md\))$", re.MULTILINE)


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_every_link_leads_to_a_heading_that_is_there(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), (target, anchor)


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = {ROOT / "README.md"}
    while ahead:
        reached |= ahead
        ahead = {target for page in ahead for target, _ in links(page) if target in DOCUMENTS} - reached

    assert [named(page) for page in DOCUMENTS if page not in reached] == []


def test_every_question_before_production_leads_to_what_answers_it() -> None:
    page = ROOT / "docs" / "architecture" / "SYSTEM-DESIGN.md"
    checklist = page.read_text(encoding="utf-8").partition("\n| Question | Answer | Proof, runbook |\n")[2]
    rows = re.findall(r"^\| (?!---)(.+?) \|.*\| (.*?) ?\|$", checklist, re.MULTILINE)

    assert rows
    assert [question for question, proof in rows if "](" not in proof] == []


@pytest.mark.parametrize("record", RECORDS, ids=named)
def test_a_record_of_a_decision_has_its_parts(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    number = "Number" if record == TEMPLATE else str(int(record.name[:4]))

    assert text.startswith(f"# {number}. ")
    assert len(STATUS.findall(text)) == 1
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_the_index_of_decisions_has_each_record_with_its_title_in_order() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    titled = [
        (str(int(path.name[:4])), path.name, path.read_text(encoding="utf-8").partition("\n")[0].partition(". ")[2])
        for path in RECORDS
        if path != TEMPLATE
    ]

    assert re.findall(r"^\| \[(\d+)\]\((.+)\) \| (.+) \|$", index, re.MULTILINE) == titled
