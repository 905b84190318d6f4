"""`python -m tests.chaos`: list the drills, run some, or write what they measured into the documents."""

import argparse
import sys
from pathlib import Path

from app.core.config import FACTS
from tests.chaos import record, spec
from tests.chaos.place import Place
from tests.chaos.report import write_table
from tests.chaos.runner import Runner, run_to_the_end
from tests.chaos.spec import Drill, DrillError, Scope
from tests.chaos.stack import Stack
from tests.chaos.verdict import held, judge, refuted
from tools.compose import ROOT, DockerError
from tools.kubectl import ClusterError

RESULTS = ROOT / "reports" / "drills"
IMPOSSIBLE = 2
INTERRUPTED = 130
NOTHING_PROVED = "With its protection off it has to fail by what it is about, and did not: this proves nothing.\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 when each hypothesis held, 1 when one did not, 2 when it cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the drills, and what each supposes")
    run = commands.add_parser("run", help="run these drills, one after another; all, if none is named")
    run.add_argument("drills", nargs="*", metavar="drill")
    run.add_argument("--short", action="store_true", help="a form for pipelines, which waits for no alert")
    run.add_argument("--without-protection", action="store_true", help="switch off what the drill is about")
    run.add_argument("--both", action="store_true", help="run each with, and then without its protection")
    run.add_argument("--even-in-production", action="store_true", help="do what would be refused")
    run.add_argument("--results", type=Path, default=RESULTS, help="the folder for what was seen")
    cluster = run.add_argument_group("drills of a cluster")
    cluster.add_argument("--env", default="", help="the environment, as in k8s/overlays")
    cluster.add_argument("--url", default="", help="where the service is reached, unless its overlay says so")
    cluster.add_argument("--prometheus", default="", help="where its Prometheus is reached")
    cluster.add_argument("--alertmanager", default="", help="where its Alertmanager is reached")
    cluster.add_argument("--faulty-image", default="", help="what bad-deploy rolls out, from tests/chaos/image")
    report = commands.add_parser("report", help="write the table of what was measured into the documents")
    report.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    try:
        match asked.command:
            case "list":
                for name in spec.names():
                    sys.stdout.write(f"{name:24} {spec.named(name).hypothesis}\n")
                return 0
            case "report":
                sys.stdout.write(f"{write_table(record.read(asked.results)).relative_to(ROOT)}\n")
                return 0
        scope = Scope.CLUSTER if asked.env else Scope.COMPOSE
        drills = [spec.named(name) for name in asked.drills or spec.names()]
        drills = drills if asked.drills else [drill for drill in drills if drill.scope is scope]
        verdicts = [one(drill, form, asked) for drill in drills for form in forms(drill, asked)]
    except (ClusterError, DrillError, DockerError) as error:
        sys.stderr.write(f"{error}\n")
        return IMPOSSIBLE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if all(verdicts) else 1


def forms(drill: Drill, asked: argparse.Namespace) -> list[record.Form]:
    """The forms in which a drill is to be run. Without protection, the short one tells as much."""
    form = record.Form(not asked.without_protection, asked.short)
    return [form, record.Form(protected=False, short=drill.short is not None)] if asked.both else [form]


def where(drill: Drill, form: record.Form, asked: argparse.Namespace) -> Place:
    """The place of a drill.

    Raises:
        DrillError: the command line does not say where it is.
    """
    if drill.scope is Scope.COMPOSE:
        return Stack(drill, protected=form.protected)
    if not asked.env:
        raise DrillError(f"{drill.name} is a drill of a cluster: say which, with --env")
    # With what it imports, which drills of this machine do not need.
    from tests.chaos.cluster import Namespace, Options

    options = Options(asked.env, asked.url, asked.prometheus, asked.alertmanager, asked.faulty_image)
    return Namespace(drill, options, protected=form.protected)


def one(drill: Drill, form: record.Form, asked: argparse.Namespace) -> bool:
    """Run one drill, and tell what came of it; whether its hypothesis did what it should."""
    drill = drill.shortened() if form.short else drill
    place = where(drill, form, asked)
    outcome = run_to_the_end(Runner(drill, place), even_in_production=asked.even_in_production)
    checks = judge(drill, outcome.seen, FACTS.slo)
    written = record.write(record.document(drill, outcome, checks, form), asked.results)
    marks = {True: "held  ", False: "FAILED", None: "not judged"}
    for check in checks:
        sys.stdout.write(f"{marks[check.held]}  {check.says}: {check.measured} (wanted: {check.wanted})\n")
    good = held(checks)
    sys.stdout.write(f"{drill.name}: the hypothesis {'held' if good else 'did not hold'}. {written}\n")
    if asked.both and not form.protected:
        fails = refuted(checks)
        sys.stdout.write("That is right: its protection was off.\n" if fails else NOTHING_PROVED)
        return fails
    return good


if __name__ == "__main__":
    sys.exit(main())
