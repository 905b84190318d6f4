"""Load for the service, and a verdict: `locust -f tests/load/locustfile.py --host=http://localhost:8000`.

docs/architecture/LOAD-TESTING.md says what to ask for and how to read what comes out. Locust takes the users that it
finds here by name; the rest connects it with the shapes and the gate. Nothing of the service is imported: Locust
replaces sockets and threads, which the service would not expect.
"""

import logging
import math
import sys
import time
from argparse import Namespace
from collections.abc import MutableMapping
from typing import Any, NoReturn

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from tests.load import guard
from tests.load.gate import Exit, Objectives, Run
from tests.load.shapes import RATE, SHAPES, Plan, Wanted, patience, users_for
from tests.load.users import CLEAN_UP, Browse, Mixed, Write

__all__ = ["Browse", "Mixed", "Write"]

logger = logging.getLogger("load")

# How long workers may take to tell that their users are gone, beside what those may wait for an answer.
HOME_SECONDS = 10.0

run = Run(Objectives.read())


class Shaped(LoadTestShape):
    """Makes Locust follow a plan.

    Args:
        plan: what is wanted when.
        rate: the requests a second at level 1, if that is what was asked for.
    """

    # What was asked for decides whether it is used, and not that it stands in a locustfile.
    abstract = True

    def __init__(self, plan: Plan, rate: float | None) -> None:
        super().__init__()
        self._plan = plan
        self._rate = rate
        self._stage = 0
        self._over = 0.0

    def reset_time(self) -> None:
        """Begin. A master does so a second time, in its first tick, which lasts until all users are there."""
        super().reset_time()
        self._over = 0.0
        run.phases.clear()
        if first := self._plan.at(0):
            self._begin(first)

    def tick(self) -> tuple[int, float] | None:
        """How many users there should be now, and how fast to come to that; nothing when it is over."""
        wanted = self._plan.at(self.get_run_time())
        if wanted is None:
            run.end(time.monotonic())
            return self._home()
        if wanted.stage != self._stage:
            run.end(time.monotonic())
            if run.until_it_breaks and run.broken:
                run.close()
                return self._home()
            self._begin(wanted)
        return wanted.users, wanted.spawn_rate

    def _begin(self, wanted: Wanted) -> None:
        self._stage = wanted.stage
        rate = self._rate * self._plan.shape.stages[wanted.stage].level if self._rate else None
        run.begin(f"{rate:g} a second" if rate else f"{wanted.users} users", time.monotonic(), rate)

    def _home(self) -> tuple[int, float] | None:
        """Wait until workers have no users, but not for ever: who ends before does not hear of the last answers."""
        now = time.monotonic()
        self._over = self._over or now + HOME_SECONDS + self._plan.ramp_seconds
        waits = isinstance(self.runner, MasterRunner) and self.get_current_user_count() and now < self._over
        return (0, math.ceil(self._plan.users) + 1.0) if waits else None


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """What can be asked for beside Locust's own options."""
    group = parser.add_argument_group("Load of this service")
    told = "; ".join(f"{name}: {shape.about}" for name, shape in SHAPES.items())
    group.add_argument(
        "--shape",
        choices=["", *SHAPES],
        default="",
        help=f"How the load changes. {told} Without one, --users, --spawn-rate and --run-time decide as ever.",
    )
    group.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="Requests a second at level 1 of the shape, whenever answers come; with --users, they are waited for",
    )
    group.add_argument("--allow-host", default="", help="A host beside this machine, dev and staging, by its name")


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Refuse what should not be done, and follow a shape where one is asked for."""
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return
    if environment.host and (refused := guard.refusal(environment.host, options.allow_host)):
        refuse(refused)
    # At the end, who waits for an answer gets it: those that take long would not be counted else.
    environment.stop_timeout = environment.stop_timeout or patience(run.objectives.latency_threshold_ms)
    if options.rate and not options.shape:
        options.shape = "steady"
    run.seconds = options.run_time or 0.0
    if options.shape:
        follow(environment, options)


def refuse(why: str) -> NoReturn:
    """End before anything was sent."""
    logger.error("Nothing was sent. %s", why)
    sys.exit(Exit.REFUSED)


def follow(environment: Environment, options: Namespace) -> None:
    """Let a shape decide about users and time."""
    shape = SHAPES[options.shape]
    if options.spawn_rate:
        refuse("--spawn-rate is for runs without a shape, and a shape has its own.")
    if options.rate and options.num_users:
        refuse("--rate and --users exclude each other: with a rate, as many users are started as it takes.")
    if not options.num_users:
        options.rate = options.rate or RATE
    pacing = patience(run.objectives.latency_threshold_ms)
    users = options.num_users or users_for(options.rate, pacing)
    run.until_it_breaks = shape.until_it_breaks
    plan = Plan(shape, users, options.run_time or shape.seconds, pacing)
    run.seconds = plan.seconds
    environment.shape_class = Shaped(plan, options.rate or None)
    environment.shape_class.runner = environment.runner
    # Told to the shape; Locust would tell it to itself too.
    options.run_time = None


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Count from here on."""
    run.take()
    if environment.shape_class is None and not isinstance(environment.runner, WorkerRunner):
        run.phases.clear()
        run.begin(f"{environment.runner.target_user_count if environment.runner else 0} users", time.monotonic())


@events.test_stopping.add_listener
def end(**_: Any) -> None:
    """Stop the clock; the last answers still count."""
    run.end(time.monotonic())


@events.request.add_listener
def count(name: str, response_time: float | None, exception: BaseException | None, **_: Any) -> None:
    """Count a request that has ended."""
    if name != CLEAN_UP:
        run.count(response_time or 0.0, failed=exception is not None)


@events.report_to_master.add_listener
def tell(data: MutableMapping[str, Any], **_: Any) -> None:
    """Tell the master what was counted here since the last time."""
    data["counts"] = run.take()


@events.worker_report.add_listener
def hear(data: MutableMapping[str, Any], **_: Any) -> None:
    """Count what a worker has counted."""
    run.add(data["counts"])


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Say whether the objectives were kept, and end with the code that says it too."""
    runner = environment.runner
    # An error in the users themselves ends with Locust's own code.
    if runner is None or runner.exceptions:
        return
    if isinstance(runner, WorkerRunner):
        environment.process_exit_code = Exit.KEPT
        return
    verdict = run.judge()
    environment.process_exit_code = verdict.code
    logger.log(logging.ERROR if verdict.code else logging.INFO, "%s", "\n".join([run.report(), *verdict.sentences]))
