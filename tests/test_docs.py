"""Documents agree with what they describe, and their links lead somewhere."""

import json
import math
import re
import subprocess
import tomllib
from pathlib import Path

import components
import options
import pytest
from conftest import FOLDER, ROOT, Bake
from trees import anchors, dead_links, documents

DOCUMENTS = documents(ROOT)


def test_the_documents_are_found_wherever_the_template_is(tmp_path: Path) -> None:
    root = tmp_path / ".hidden"
    for name in ("README.md", "docs/page.md", ".cache/page.md", f"{FOLDER}/README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()

    assert documents(root) == [root / "README.md", root / "docs" / "page.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    assert dead_links(document) == []


def test_anchors_are_made_as_github_makes_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What, `make up`?\n## Twice\n## Twice\n## A [link](b.md) & snake_case\n```sh\n# no heading\n```\n",
        encoding="utf-8",
    )

    assert anchors(page) == {"what-make-up", "twice", "twice-1", "a-link--snake_case"}


@pytest.mark.parametrize(
    "answers",
    [{}, {"ci_system": "both", "deployment": "kubectl", "release_strategy": "canary", "exposure": "ingress"}],
    ids=str,
)
def test_files_that_documents_of_a_service_name_exist(answers: dict[str, str], bake: Bake) -> None:
    project = bake(**answers)
    for document in project.rglob("*.md"):
        named = set(
            re.findall(r"`((?:app|tests|docs|k8s|tools|docker|observability|ci-cd)/[\w./-]+)`", document.read_text())
        )

        assert [name for name in sorted(named) if not (project / name).exists()] == [], document


@pytest.mark.ci
@pytest.mark.parametrize("threshold", ["5", "300", "1000"])
def test_every_promql_query_in_a_document_of_a_service_parses(threshold: str, bake: Bake) -> None:
    promtool = components.build("prometheus") / "promtool"
    documents = sorted(bake(slo_latency_ms=threshold).rglob("*.md"))
    blocks = [
        block
        for document in documents
        for block in re.findall(r"^ *```promql\n(.*?)^ *```$", document.read_text(), re.MULTILINE | re.DOTALL)
    ]
    queries = {line.strip() for block in blocks for line in block.splitlines()}

    assert len(queries) > 40
    for query in queries:
        command = [promtool, "--experimental", "promql", "format", query]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{query}\n{done.stderr}"


def test_every_make_target_in_a_document_exists() -> None:
    # Documents here tell of the commands of a generated service too.
    makefiles = (ROOT / "Makefile", ROOT / "{{cookiecutter.__project_folder}}" / "Makefile")
    targets = {name for path in makefiles for name in re.findall(r"^([a-z-]+):", path.read_text(), re.MULTILINE)}

    for document in DOCUMENTS:
        mentioned = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", document.read_text(encoding="utf-8"), re.MULTILINE))
        assert mentioned <= targets, document


def test_every_make_target_in_the_readme_of_a_service_exists(default_project: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (default_project / "Makefile").read_text(), re.MULTILINE))
    readme = (default_project / "README.md").read_text(encoding="utf-8")

    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", readme, re.MULTILINE)) <= targets


def test_every_test_that_is_said_to_prove_a_sentence_exists() -> None:
    document = (ROOT / "docs" / "telemetry-contract.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!Sentence|---)(.+) \| (.+) \|$", document, re.MULTILINE)
    service = ROOT / "{{cookiecutter.__project_folder}}" / "tests"

    assert rows
    for sentence, proof in rows:
        named = re.findall(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`", proof)
        assert len(named) == proof.count("`") / 2 > 0, sentence
        for file, test in named:
            source = (service / file).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), test


def test_the_decisions_are_all_in_the_index_and_have_their_number() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    records = [path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")]

    assert records
    assert [name for name in records if f"({name})" not in index] == []
    for name in records:
        assert (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8").startswith(f"# {int(name[:4])}. "), name


def test_the_changelog_tells_of_the_current_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_the_page_of_options_is_what_prompts_names_and_prune_table_say() -> None:
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options.page(), "run `make options`"


def test_the_readme_tells_what_the_drill_of_its_picture_saw() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"\((docs/drills/[a-z-]+)\.svg\)", readme)
    drill = json.loads((ROOT / f"{picture}.json").read_text(encoding="utf-8"))
    told = re.search(
        r"hang for (\d+) minutes.* opened after (\d+) seconds;.* within (\d+) ms .* fired after (\d+) seconds .*"
        r" (\d+) seconds after the database answered again",
        " ".join(readme.split()),
    )

    measured = {check["says"]: check["measured"] for check in drill["checks"]}
    began, ended = drill["phases"]["fault"]
    paged = min(one["seen"] - began for one in drill["alerts"] if one["severity"] == "page")
    assert told
    assert drill["held"]
    assert [int(number) for number in told.groups()] == [
        round((ended - began) / 60),
        round(float(measured["the circuit breaker opens"].split()[0])),
        int(next(value for says, value in measured.items() if says.startswith("once it is open")).split()[0]),
        round(paged),
        math.ceil(drill["recovered_after_seconds"]),
    ]


@pytest.mark.parametrize(
    "answers", [{}, {"release_strategy": "canary"}, {"database": "none", "observability_stack": "no"}], ids=str
)
def test_a_service_is_told_what_each_of_its_drills_measured_and_no_other(answers: dict[str, str], bake: Bake) -> None:
    project = bake(**answers)
    page = (project / "docs" / "troubleshooting" / "GAME-DAY.md").read_text(encoding="utf-8")
    table = page.partition("<!-- drills: written")[2].partition("<!-- drills: end")[0]

    told = re.findall(r"^\| [^|]+ \| `([a-z-]+)` \|", table, re.MULTILINE)
    assert sorted(told) == sorted(path.stem for path in (project / "tests" / "chaos" / "drills").glob("*.toml"))
