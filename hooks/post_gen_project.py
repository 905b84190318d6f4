"""Finish a generated project: remove what was not chosen, link it to its template, say what to do next.

Cookiecutter runs this inside the new project. Nothing here uses the network or a clock, so the same answers
give the same bytes. Whoever adds an option adds its paths to `PRUNE`, and nothing else.
"""

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Answers enter as data, never as code: JSON has no three quotes in a row, and a backslash hides the same
# quotes from it as from a raw string. They are pairs because `tojson` sorts an object, and the order of the
# prompts means something.
ANSWERS = r"""
{{ cookiecutter.items() | list | tojson }}
"""

# The same questions before they were answered: a choice is still a list here. cruft does not define it.
QUESTIONS = r"""
{{ (_cookiecutter | default({})).items() | list | tojson }}
"""


class Rule(NamedTuple):
    """Paths, relative to the project, that stay only when the answer to `option` is one of `kept_by`."""

    option: str
    kept_by: tuple[str | bool, ...]
    paths: tuple[str, ...]


PRUNE = (
    Rule(
        option="database",
        kept_by=("postgresql",),
        paths=(
            "migrations",
            "app/storage/sql.py",
            "app/storage/engine.py",
            "app/storage/migrate.py",
            "app/storage/schema.py",
            "app/storage/sql_tracing.py",
            "docs/adr/0013-migrations-before-the-roll-out.md",
            "docs/runbooks/backup-and-restore.md",
            "docs/runbooks/database-pool-saturated.md",
            "docs/runbooks/migration-failed.md",
            "k8s/components/database",
            "k8s/components/external-secrets",
            "k8s/components/plain-secret",
            "observability/grafana/dashboards/database.json",
            "tests/chaos/chaos-mesh/database-down.yaml",
            "tests/chaos/chaos-mesh/network-issue.yaml",
            "tests/chaos/drills/database-down.toml",
            "tests/chaos/drills/database-exhausted.toml",
            "tests/chaos/drills/database-paused.toml",
            "tests/chaos/drills/database-refused.toml",
            "tests/chaos/drills/database-slow.toml",
            "tests/chaos/drills/network-latency.toml",
            "tests/chaos/drills/network-loss.toml",
            "tests/chaos/drills/network-partition.toml",
            "tests/chaos/toxiproxy.json",
            "tests/contract/test_backup.py",
            "tests/contract/test_migrations.py",
            "tests/integration/conftest.py",
            "tests/integration/test_database.py",
            "tests/integration/test_database_faults.py",
            "tests/integration/test_sql_tracing.py",
            "tests/postgres.py",
            "tests/unit/test_engine.py",
            "tests/unit/test_sql.py",
        ),
    ),
    Rule(
        option="ci_system",
        kept_by=("github-actions", "both"),
        paths=(".github", "docs/architecture/GITHUB-ACTIONS.md"),
    ),
    Rule(option="ci_system", kept_by=("github-actions", "jenkins", "both"), paths=("tools/propose.py",)),
    Rule(
        option="ci_system",
        kept_by=("jenkins", "both"),
        paths=("ci-cd/jenkins", "tests/unit/test_jenkins.py", "tools/jenkins.py"),
    ),
    Rule(option="deployment", kept_by=("argocd",), paths=("ci-cd/argocd", "k8s/components/argocd")),
    Rule(option="release_strategy", kept_by=("canary",), paths=("k8s/components/canary",)),
    Rule(option="exposure", kept_by=("gateway-api",), paths=("k8s/components/gateway-api",)),
    Rule(option="exposure", kept_by=("ingress",), paths=("k8s/components/ingress",)),
    Rule(option="exposure", kept_by=("load-balancer",), paths=("k8s/components/load-balancer",)),
    Rule(option="exposure", kept_by=("gateway-api", "ingress"), paths=("docs/runbooks/certificate-expiring.md",)),
    # Rules and dashboards stay: Kubernetes uses them as well.
    Rule(
        option="observability_stack",
        kept_by=(True,),
        paths=(
            "observability/alert-inbox",
            "observability/alertmanager",
            "observability/grafana/provisioning",
            "observability/jaeger",
            "observability/loki",
            "observability/otel-collector",
            "observability/prometheus/alerts-stack.yml",
            "observability/prometheus/prometheus.yml",
            "observability/prometheus/tests/alerts-stack_test.yml",
            "observability/traffic",
            "docs/architecture/OBSERVABILITY.md",
            "docs/runbooks/observability-stack.md",
            # Its alert is one of the stack.
            "tests/chaos/drills/memory-leak.toml",
        ),
    ),
    Rule(
        option="chaos_drills",
        kept_by=(True,),
        paths=(
            "docs/adr/0014-drills-by-a-runner-of-their-own.md",
            "docs/troubleshooting/GAME-DAY.md",
            "tests/chaos",
            "tests/integration/test_drill_client.py",
            "tests/unit/test_drill_cluster.py",
            "tests/unit/test_drills.py",
            "tests/unit/test_faulty.py",
        ),
    ),
    Rule(
        option="load_tests",
        kept_by=(True,),
        paths=(
            "tests/load",
            "tests/integration/test_load.py",
            "tests/unit/test_load_gate.py",
            "tests/unit/test_load_guard.py",
            "tests/unit/test_load_plot.py",
            "tests/unit/test_load_shapes.py",
            "tests/unit/test_load_tool.py",
            "docs/architecture/LOAD-TESTING.md",
            "docs/architecture/load-spike.svg",
            "tools/load.py",
        ),
    ),
    Rule(option="license", kept_by=("Apache-2.0",), paths=("NOTICE",)),
)


class NotLinkedError(Exception):
    """The project cannot be linked to its template; the message is the reason, for people."""


def prune(project: Path, answers: Mapping[str, Any], table: Iterable[Rule] = PRUNE) -> list[Rule]:
    """Remove what the answers did not choose, and return the rules that applied.

    A path that is not there is no error: the user has what was asked for. That the table and the template
    agree is for the template's own tests.
    """
    applied = [rule for rule in table if answers[rule.option] not in rule.kept_by]
    for rule in applied:
        for path in rule.paths:
            remove(project, Path(path))
    return applied


def remove(project: Path, path: Path) -> None:
    """Remove the file or folder, then each folder above it that this leaves empty, up to the project."""
    target = project / path
    if target.is_dir():
        import shutil  # most answers need no folder removed, and every generation waits for imports

        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    for parent in path.parents[:-1]:
        try:
            (project / parent).rmdir()
        except OSError:
            break


def git(folder: Path, *arguments: str) -> str:
    """Return what git prints about the template's repository.

    A caller that is itself a git hook exports `GIT_DIR`, which would outrank `-C`.
    """
    import subprocess  # under cruft nothing is linked, and every generation waits for imports

    environment = {name: value for name, value in os.environ.items() if name not in {"GIT_DIR", "GIT_WORK_TREE"}}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        # What git says of "dubious ownership" is the command that ends it.
        said = " ".join(error.stderr.split())
        reason = f"git finds no commit in the template's folder{f' ({said})' if said else ''}"
        raise NotLinkedError(reason) from error
    except OSError as error:
        reason = "git is not installed"
        raise NotLinkedError(reason) from error
    return done.stdout.strip()


def template_folder(answers: Mapping[str, Any]) -> Path:
    """Return the folder of the template on this machine.

    A relative one is relative to where the command was typed. Cookiecutter has left that place before it runs
    a hook, but the shell still names it.
    """
    typed_in = os.environ.get("PWD") or answers["_output_dir"]
    # `resolve()` would also replace links that the user chose, as in `~/templates/current`.
    folder = Path(os.path.abspath(Path(typed_in, answers["_repo_dir"])))  # noqa: PTH100
    if not (folder / "cookiecutter.json").is_file():
        reason = "the template's folder was given by a relative path"
        raise NotLinkedError(reason)
    return folder


def without_credentials(address: str) -> str:
    """Return the address without the user and token an https one may carry: the link is committed."""
    return re.sub(r"^(https?://)[^/]*@", r"\1", address, flags=re.IGNORECASE)


def link(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `.cruft.json` as `cruft create` would have written it.

    Raises:
        NotLinkedError: the template is not the root of a git repository that others can clone.
    """
    folder = template_folder(answers)
    root, commit = git(folder, "rev-parse", "--show-toplevel", "HEAD").rsplit("\n", maxsplit=1)
    # An unpacked archive may lie inside some other repository, whose commits say nothing about the template.
    if not (Path(root).is_dir() and folder.samefile(root)):
        reason = "the template's folder is not a Git repository"
        raise NotLinkedError(reason)
    # Cookiecutter expands `gh:owner/name` and removes `git+`; its clone knows the address that any git
    # understands. `git remote get-url` would apply this user's own `insteadOf` rewrites to it.
    is_local = answers["_template"] == answers["_repo_dir"]
    template = str(folder) if is_local else without_credentials(git(folder, "config", "--get", "remote.origin.url"))
    public = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    return {
        "template": template,
        "commit": commit,
        "checkout": answers.get("_checkout"),
        "context": {"cookiecutter": {**public, "_template": template, "_commit": commit}},
        "directory": None,
    }


def write_link(project: Path, answers: Mapping[str, Any]) -> list[str]:
    """Write `.cruft.json` where that is possible, and return what to tell the user about updates."""
    try:
        state = link(answers)
    except NotLinkedError as error:
        return [f"not linked: {error}", "to get them, run: cruft link <Git address of the template>"]
    text = json.dumps(state, ensure_ascii=False, indent=2, separators=(",", ": "))
    (project / ".cruft.json").write_bytes(f"{text}\n".encode(errors="surrogateescape"))
    return [f"linked to {state['template']} at {state['commit'][:7]}", "to get them, run: make template-update"]


def closing_message(
    project: Path,
    answers: Mapping[str, Any],
    questions: Mapping[str, Any],
    applied: Iterable[Rule],
    updates: list[str],
) -> str:
    """Return what was made of the answers, and the next commands.

    The first commit is the tree as it was generated: updates of the template start from there.
    """
    chosen = [spelled(name, answers) for name, offered in questions.items() if isinstance(offered, list | bool)]
    left_out = [f"{shortened(rule.paths)} ({spelled(rule.option, answers)})" for rule in applied]
    typed_in = os.environ.get("PWD")
    folder = project.name if typed_in == answers["_output_dir"] else str(project)
    facts = {"Chosen": chosen, "Left out": left_out, "Updates": updates}
    lines = [
        f"  {title + ':' if number == 0 else '':10}{text}"
        for title, texts in facts.items()
        for number, text in enumerate(texts)
    ]
    known_to_git = any((parent / ".git").exists() for parent in project.parents)
    next_steps = (
        f'cd "{folder}"' if " " in folder else f"cd {folder}",
        *(() if known_to_git else ('git init -q && git add -A && git commit -q -m "Generate the service"',)),
        "make test",
        "make run",
    )
    return "\n".join(("", f"Generated {project}", *lines, "", "Next:", *(f"  {step}" for step in next_steps), ""))


def spelled(name: str, answers: Mapping[str, Any]) -> str:
    """Return the answer as a person would give it."""
    answer = answers[name]
    if isinstance(answer, bool):
        answer = "yes" if answer else "no"
    return f"{name} = {answer}"


def shortened(paths: Sequence[str]) -> str:
    """Return the paths for people, who need to recognise them and not to count them."""
    shown, more = paths[:3], len(paths) - 3
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def say(text: str) -> None:
    """Print, with escapes for what the terminal's encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text)


def main() -> None:
    """Finish the project in the current folder."""
    project = Path.cwd()
    answers = dict(json.loads(ANSWERS))
    applied = prune(project, answers)
    # Plain Cookiecutter defines it, cruft does not: that one writes the link itself, and generates twice for
    # each update, where a message would be noise.
    if "_output_dir" in answers:
        updates = write_link(project, answers)
        say(closing_message(project, answers, dict(json.loads(QUESTIONS)), applied, updates))


if __name__ == "__main__":
    main()
