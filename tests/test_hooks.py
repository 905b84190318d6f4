"""What the hooks do to a generated project: remove what was not chosen, link it to the template, report."""

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import post_gen_project
import pytest
from conftest import FOLDER, LINK, ROOT, Bake, Git, Run, commit
from cookiecutter.utils import create_env_with_context
from hostile import ACCEPTED, REFUSED_TEXT
from options import answered, offered, written
from options import tree as tree_of
from post_gen_project import NotLinkedError, Rule

CHOICES = offered()
EVERY_CHOICE = [(option, choice) for option, choices in CHOICES.items() for choice in choices]


def files(project: Path) -> set[str]:
    """Return the paths of all files of the project, except the link that only a committed template gets."""
    return set(written(project)) - {LINK}


@pytest.mark.parametrize("hook", ["pre_gen_project.py", "post_gen_project.py"])
def test_no_answer_can_become_code_of_a_hook(hook: str, defaults: dict[str, Any]) -> None:
    written = (ROOT / "hooks" / hook).read_text(encoding="utf-8")
    nasty = [*REFUSED_TEXT.values(), *(text for answers in ACCEPTED.values() for text in answers.values())]
    nasty += [
        '"""',
        "'''",
        '"""\\',
        "\\",
        "\\\\",
        '\\"""',
        '"',
        "\\N{DIGIT ONE}",
        "\r\n",
        'x"""\nimport os\nr"""',
    ]
    for text in nasty:
        answers = defaults | {"project_name": text, "description": text[::-1], "team": ""}
        context = {"cookiecutter": answers, "_cookiecutter": {"project_name": text, "license": [text, ""]}}

        source = create_env_with_context(context).from_string(written).render(context)

        literals = {
            statement.targets[0].id: dict(json.loads(ast.literal_eval(statement.value)))
            for statement in ast.parse(source).body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id in {"ANSWERS", "QUESTIONS"}
        }
        assert literals.pop("ANSWERS") == answers
        assert literals.pop("QUESTIONS", context["_cookiecutter"]) == context["_cookiecutter"]


@pytest.mark.parametrize("rule", post_gen_project.PRUNE, ids=lambda rule: rule.option)
def test_each_rule_of_the_prune_table_names_a_real_choice_and_real_paths(rule: Rule) -> None:
    choices = CHOICES[rule.option]
    # A rule that kept its paths for every choice, or for none, would decide nothing.
    assert set() < set(rule.kept_by) < set(choices)
    assert rule.paths
    for path in rule.paths:
        assert (ROOT / FOLDER / path).exists(), f"{path} is not in the template"
        assert path == PurePosixPath(path).as_posix()
        assert ".." not in path
        # Two places that decide about one path would sooner or later disagree.
        assert "{" not in path


@pytest.mark.parametrize(("option", "choice"), EVERY_CHOICE)
def test_a_project_holds_what_names_and_prune_table_say_and_nothing_else(option: str, choice: str, bake: Bake) -> None:
    project = bake(**{option: choice})

    assert files(project) == tree_of(answered(**{option: choice}), written()).keys()


def test_conditional_names_are_names_of_files_never_of_folders() -> None:
    # Cookiecutter aborts on a folder whose name renders to nothing, and under cruft writes to the file
    # system's root.
    assert [path for path in written() if "{" in str(PurePosixPath(path).parent)] == []


def test_every_path_fits_into_a_clone_on_windows() -> None:
    # 260 characters are all that Windows lets a path have unless it is told otherwise, and Cookiecutter clones to
    # C:\\Users\\<name>\\.cookiecutters\\cookiecutter-fastapi-sre.
    assert [path for path in written() if len(f"{FOLDER}/{path}") > 180] == []
    assert [path for path in written() if set('<>:"|?*\n') & set(path)] == []


def test_the_database_decides_about_exactly_its_own_files(bake: Bake) -> None:
    with_one, without = (files(bake(database=choice)) for choice in ("postgresql", "none"))

    assert without < with_one
    own = (
        "migrations/",
        "tests/",
        *(f"k8s/components/{name}/" for name in ("database", "external-secrets", "plain-secret")),
    )
    assert {path for path in with_one - without if not path.startswith(own)} == {
        "app/storage/engine.py",
        "app/storage/migrate.py",
        "app/storage/schema.py",
        "app/storage/sql_tracing.py",
        "app/storage/sql.py",
        "docs/adr/0013-migrations-before-the-roll-out.md",
        "docs/runbooks/backup-and-restore.md",
        "docs/runbooks/database-pool-saturated.md",
        "docs/runbooks/migration-failed.md",
        "observability/grafana/dashboards/database.json",
    }


def test_the_license_decides_about_exactly_its_own_files(bake: Bake) -> None:
    trees = {choice: bake(license=choice) for choice in CHOICES["license"]}

    everywhere = set.intersection(*map(files, trees.values()))
    assert {choice: files(tree) - everywhere for choice, tree in trees.items()} == {
        "Proprietary": set(),
        "MIT": set(),
        "Apache-2.0": {"NOTICE"},
    }
    assert "LICENSE" in everywhere


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in ("keep", "file", "folder/a", "folder/b/c", "one/two/three", "shared/gone", "shared/stays"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "gone"),
    [
        (["file"], ["file"]),
        (["folder"], ["folder", "folder/a", "folder/b", "folder/b/c"]),
        (["one/two/three"], ["one", "one/two", "one/two/three"]),
        (["shared/gone"], ["shared/gone"]),
        (["shared/gone", "shared/stays"], ["shared", "shared/gone", "shared/stays"]),
        (["missing", "missing/too"], []),
    ],
)
def test_pruning_removes_the_paths_and_the_folders_they_leave_empty(
    paths: list[str], gone: list[str], tree: Path
) -> None:
    before = {path.relative_to(tree).as_posix() for path in tree.rglob("*")}
    table = [Rule("option", kept_by=("yes",), paths=tuple(paths))]

    for _ in range(2):
        applied = post_gen_project.prune(tree, {"option": "no"}, table)

        assert applied == table
        after = {path.relative_to(tree).as_posix() for path in tree.rglob("*")}
        assert sorted(before - after) == gone


def test_pruning_keeps_what_was_chosen(tree: Path) -> None:
    before = files(tree)
    table = [Rule("option", kept_by=("yes", True), paths=("file", "folder"))]

    assert post_gen_project.prune(tree, {"option": "yes"}, table) == []
    assert post_gen_project.prune(tree, {"option": True}, table) == []
    assert files(tree) == before


def born(project: Path, git: Git) -> Path:
    """Commit a fresh project, as its owner would before the first update."""
    git(project, "init", "--quiet")
    commit(project, git)
    return project


@pytest.mark.parametrize("form", ["path", "file URL"])
def test_a_project_of_plain_cookiecutter_is_what_cruft_would_have_created(
    form: str, template: Path, run: Run, git: Git, tmp_path: Path
) -> None:
    address = str(template) if form == "path" else template.as_uri()
    answers = ["project_name=Größe 🚀 \\ API", "license=MIT"]

    # Cookiecutter takes a URL for git's only when it says so; what is recorded must be an address that git
    # takes.
    typed = address if form == "path" else f"git+{address}"
    plain = run("cookiecutter", typed, "--no-input", "-o", tmp_path / "plain", "project_slug=api", *answers)
    extra = json.dumps({"project_slug": "api", **dict(answer.split("=", 1) for answer in answers)})
    linked = run("cruft", "create", address, "--no-input", "--output-dir", tmp_path / "cruft", "--extra-context", extra)

    assert plain.returncode == 0, plain.stderr
    assert linked.returncode == 0, linked.stderr
    assert "Next:" not in linked.stdout
    ours, theirs = tmp_path / "plain" / "api", tmp_path / "cruft" / "api"
    assert files(ours) == files(theirs)
    for path in files(ours):
        assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path

    expected = json.loads((theirs / LINK).read_text(encoding="utf-8"))
    context = expected["context"]["cookiecutter"]
    for name in [name for name in context if name.startswith("_") and name not in {"_template", "_commit"}]:
        del context[name]
    # cruft turns a file URL into the path it names; both are addresses that git clones.
    expected["template"] = context["_template"] = address
    text = json.dumps(expected, ensure_ascii=False, indent=2, separators=(",", ": "))
    assert (ours / LINK).read_text(encoding="utf-8") == f"{text}\n"

    born(ours, git)
    for command in (["check"], ["diff", "--exit-code"]):
        result = run("cruft", *command, cwd=ours)
        assert result.returncode == 0, result.stdout + result.stderr


def test_updates_reach_a_project_of_plain_cookiecutter(template: Path, run: Run, git: Git, tmp_path: Path) -> None:
    run("cookiecutter", template, "--no-input", "-o", tmp_path)
    project = born(tmp_path / "sre-demo-api", git)
    service = project / "app" / "service.toml"
    service.write_text(service.read_text("utf-8").replace("[ports]", "# ours\n[ports]"), encoding="utf-8", newline="\n")
    commit(project, git)

    upstream = template / FOLDER
    facts = upstream / "app" / "service.toml"
    facts.write_text(f"# improved\n{facts.read_text('utf-8')}", encoding="utf-8", newline="\n")
    (upstream / "NOTICE").write_text("improved\n", encoding="utf-8")
    (upstream / "new.txt").write_text("{{ cookiecutter.project_name }}\n", encoding="utf-8")
    head = commit(template, git)
    assert run("cruft", "check", cwd=project).returncode == 1

    result = run("cruft", "update", "--skip-apply-ask", cwd=project)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Next:" not in result.stdout
    assert (project / "new.txt").read_text(encoding="utf-8") == "SRE Demo API\n"
    merged = service.read_text(encoding="utf-8")
    assert merged.startswith("# improved\n")
    assert "# ours\n" in merged
    assert not (project / "NOTICE").exists(), "what was not chosen came back"
    assert json.loads((project / LINK).read_text(encoding="utf-8"))["commit"] == head
    assert run("cruft", "check", cwd=project).returncode == 0


def test_an_answer_can_be_changed_later(template: Path, run: Run, git: Git, tmp_path: Path) -> None:
    run("cookiecutter", template, "--no-input", "-o", tmp_path)
    project = born(tmp_path / "sre-demo-api", git)

    changed = json.dumps({"license": "Apache-2.0", "project_name": 'The "new" name'})
    result = run("cruft", "update", "--skip-apply-ask", "--variables-to-update", changed, cwd=project)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Apache License" in (project / "LICENSE").read_text(encoding="utf-8")
    assert (project / "NOTICE").read_text(encoding="utf-8").startswith('The "new" name\n')


def test_a_tag_that_was_checked_out_is_recorded(template: Path, run: Run, git: Git, tmp_path: Path) -> None:
    git(template, "tag", "v1")
    tagged = git(template, "rev-parse", "v1").strip()
    (template / "later").touch()
    commit(template, git)

    run("cookiecutter", f"git+{template.as_uri()}", "--checkout", "v1", "--no-input", "-o", tmp_path)

    state = json.loads((tmp_path / "sre-demo-api" / LINK).read_text(encoding="utf-8"))
    assert (state["commit"], state["checkout"]) == (tagged, "v1")


@pytest.mark.parametrize("typed", [".", "./", "../template"])
def test_a_relative_path_is_linked_by_the_absolute_one(typed: str, template: Path, run: Run, tmp_path: Path) -> None:
    result = run("cookiecutter", typed, "--no-input", "-o", tmp_path / "out", cwd=template)

    assert result.returncode == 0, result.stderr
    state = json.loads((tmp_path / "out" / "sre-demo-api" / LINK).read_text(encoding="utf-8"))
    assert state["template"] == str(template)


def test_a_template_that_is_no_repository_is_not_linked(
    copy_template: Callable[[Path], Path], run: Run, tmp_path: Path
) -> None:
    unpacked = copy_template(tmp_path / "unpacked")

    result = run("cookiecutter", unpacked, "--no-input", "-o", tmp_path / "out")

    assert result.returncode == 0, result.stderr
    assert "not linked: " in result.stdout
    assert "cruft link" in result.stdout
    assert not (tmp_path / "out" / "sre-demo-api" / LINK).exists()


def test_a_template_inside_some_other_repository_is_not_linked_to_that_one(
    template: Path, copy_template: Callable[[Path], Path], run: Run, git: Git, tmp_path: Path
) -> None:
    unpacked = copy_template(template / "vendored")
    commit(template, git)

    result = run("cookiecutter", unpacked, "--no-input", "-o", tmp_path / "out")

    assert result.returncode == 0, result.stderr
    assert "not linked: the template's folder is not a Git repository" in result.stdout
    assert not (tmp_path / "out" / "sre-demo-api" / LINK).exists()


def test_an_archive_is_not_linked(template: Path, run: Run, tmp_path: Path) -> None:
    shutil.rmtree(template / ".git")
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, "template")

    result = run("cookiecutter", archive, "--no-input", "-o", tmp_path / "out")

    assert result.returncode == 0, result.stderr
    assert "not linked: " in result.stdout
    assert not (tmp_path / "out" / "sre-demo-api" / LINK).exists()


def test_without_git_the_project_is_generated_and_not_linked(template: Path, run: Run, tmp_path: Path) -> None:
    result = run(
        "cookiecutter",
        template,
        "--no-input",
        "-o",
        tmp_path / "out",
        env={"PATH": str(tmp_path / "nothing")},
    )

    assert result.returncode == 0, result.stderr
    assert "not linked: git is not installed" in result.stdout
    assert (tmp_path / "out" / "sre-demo-api" / "LICENSE").is_file()
    assert not (tmp_path / "out" / "sre-demo-api" / LINK).exists()


def test_what_git_refuses_is_told_in_its_own_words(template: Path, run: Run, git: Git, tmp_path: Path) -> None:
    git(template, "config", "core.repositoryformatversion", "99")

    result = run("cookiecutter", template, "--no-input", "-o", tmp_path / "out")

    assert result.returncode == 0, result.stderr
    assert "not linked: git finds no commit in the template's folder (fatal: " in result.stdout
    assert "99" in result.stdout
    assert not (tmp_path / "out" / "sre-demo-api" / LINK).exists()


def test_a_git_hook_that_generates_does_not_link_to_its_own_repository(
    template: Path, run: Run, git: Git, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    (other / "file").touch()
    commit(other, git)

    run("cookiecutter", template, "--no-input", "-o", tmp_path / "out", env={"GIT_DIR": str(other / ".git")})

    state = json.loads((tmp_path / "out" / "sre-demo-api" / LINK).read_text(encoding="utf-8"))
    assert state["commit"] == git(template, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("address", "shared"),
    [
        ("https://github.com/a/b", "https://github.com/a/b"),
        ("https://github.com/a/b.git", "https://github.com/a/b.git"),
        ("https://token@github.com/a/b", "https://github.com/a/b"),
        # pragma: allowlist nextline secret - made up
        ("https://user:t%40ken@github.com:8443/a/b", "https://github.com:8443/a/b"),
        ("HTTPS://user:p@ss@github.com/a/b", "HTTPS://github.com/a/b"),
        # pragma: allowlist nextline secret - made up
        ("http://user:token@github.com/a/@b", "http://github.com/a/@b"),
        ("https://github.com/a/b@c", "https://github.com/a/b@c"),
        ("git@github.com:a/b", "git@github.com:a/b"),
        ("ssh://git@github.com/a/b", "ssh://git@github.com/a/b"),
        ("/srv/git/a@b", "/srv/git/a@b"),
    ],
)
def test_a_link_carries_no_credentials(address: str, shared: str, template: Path, git: Git) -> None:
    git(template, "remote", "add", "origin", address)

    state = post_gen_project.link(
        {"_template": "gh:a/b", "_repo_dir": str(template), "_output_dir": str(template.parent), "team": "a"}
    )

    assert state["template"] == shared
    assert state["context"]["cookiecutter"]["_template"] == shared
    assert "token" not in json.dumps(state)


def test_a_relative_path_that_cannot_be_found_again_is_a_reason_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PWD", raising=False)

    with pytest.raises(NotLinkedError, match="relative path"):
        post_gen_project.link({"_template": ".", "_repo_dir": ".", "_output_dir": str(tmp_path)})


def test_the_closing_message_says_what_was_made_and_what_to_do_next(template: Path, run: Run, tmp_path: Path) -> None:
    result = run("cookiecutter", template, "--no-input", "license=MIT", "database=none", cwd=tmp_path)

    project = tmp_path / "sre-demo-api"
    link = json.loads((project / LINK).read_text(encoding="utf-8"))
    assert result.stdout.splitlines() == [
        "",
        f"Generated {project}",
        "  Chosen:   ci_system = github-actions",
        "            deployment = argocd",
        "            release_strategy = rolling",
        "            production_image = distroless",
        "            exposure = gateway-api",
        "            database = none",
        "            observability_stack = yes",
        "            load_tests = yes",
        "            chaos_drills = yes",
        "            license = MIT",
        "  Left out: migrations, app/storage/sql.py, app/storage/engine.py and 31 more (database = none)",
        "            ci-cd/jenkins, tests/unit/test_jenkins.py, tools/jenkins.py (ci_system = github-actions)",
        "            k8s/components/canary (release_strategy = rolling)",
        "            k8s/components/ingress (exposure = gateway-api)",
        "            k8s/components/load-balancer (exposure = gateway-api)",
        "            NOTICE (license = MIT)",
        f"  Updates:  linked to {template} at {link['commit'][:7]}",
        "            to get them, run: make template-update",
        "",
        "Next:",
        "  cd sre-demo-api",
        '  git init -q && git add -A && git commit -q -m "Generate the service"',
        "  make test",
        "  make run",
        "",
    ]
    assert result.stderr == ""


def test_the_closing_message_is_silent_about_what_there_is_not(template: Path, run: Run, tmp_path: Path) -> None:
    result = run("cookiecutter", template, "--no-input", "-o", tmp_path / "two words", "license=Apache-2.0")

    assert "NOTICE" not in result.stdout
    assert "(database" not in result.stdout
    assert f'  cd "{tmp_path / "two words" / "sre-demo-api"}"\n' in result.stdout


def test_a_repository_is_begun_by_the_tree_as_generated_unless_it_lies_in_one(
    template: Path, run: Run, git: Git, tmp_path: Path, environment: dict[str, str]
) -> None:
    alone = run("cookiecutter", template, "--no-input", cwd=tmp_path)
    (begin,) = re.findall(r"^  (git init .*)$", alone.stdout, re.MULTILINE)
    project = tmp_path / "sre-demo-api"
    subprocess.run(begin, check=True, cwd=project, env=environment, shell=True)  # noqa: S602 - as it is typed

    inside = run("cookiecutter", template, "--no-input", "-o", project / "services", cwd=tmp_path)

    assert git(project, "log", "--format=%s").strip() == "Generate the service"
    assert git(project, "status", "--porcelain", "--ignored", "app", "tools", LINK) == ""
    assert "git init" not in inside.stdout
    assert "make test" in inside.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows consoles take Unicode whatever the encoding")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_closing_message_fits_any_terminal(encoding: str, template: Path, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "תיקייה"

    result = run("cookiecutter", template, "--no-input", "-o", output, env={"PYTHONIOENCODING": encoding})

    assert result.returncode == 0, result.stderr
    assert "Next:" in result.stdout
    assert (output / "sre-demo-api" / LINK).is_file()
