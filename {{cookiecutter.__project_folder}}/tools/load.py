"""`make load`: send load to the service on this machine, or to dev or staging, and judge the answers by the objectives.

What to send comes from the environment: SHAPE, RATE or USERS, RUN_TIME, PROCESSES; HOST and ALLOW_HOST for an address
that is none of those. Reports: `load.html`, and `load_stats.csv` with its like.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tools import deploy
from tools.compose import ROOT
from tools.facts import FACTS
from tools.kubectl import ClusterError
from tools.smoke import address_of, tunnel

# Locust's own options, and those of tests/load/locustfile.py, by the variable that sets them.
OPTIONS = {
    "SHAPE": "--shape",
    "RATE": "--rate",
    "USERS": "--users",
    "RUN_TIME": "--run-time",
    "PROCESSES": "--processes",
    "ALLOW_HOST": "--allow-host",
}

# With the percentiles of each moment, which `python -m tests.load.plot` draws.
REPORTS = ("--html=reports/load.html", "--csv=reports/load", "--csv-full-history")

# How long a tunnel into a cluster may take, in seconds.
PATIENCE_SECONDS = 30


@contextmanager
def address(environment: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Where to send it: to a given host, to an environment, or else to this machine.

    Raises:
        deploy.RefusedError: the environment is prod, or cannot be asked.
        ClusterError: no tunnel leads to it.
    """
    if host := variables.get("HOST"):
        yield host
    elif not environment:
        yield f"http://127.0.0.1:{variables.get('HTTP_PORT') or FACTS['ports']['http']}"
    elif environment == "prod":
        raise deploy.RefusedError("prod gets no load by its name. To send it all the same: HOST=https://… ALLOW_HOST=…")
    else:
        wanted = deploy.target("smoke", environment)
        if found := address_of(wanted.overlay):
            yield found
        else:
            # To one of its pods; more is not to be had from outside.
            with tunnel(wanted.cluster, PATIENCE_SECONDS) as found:
                yield found


def command(host: str, variables: Mapping[str, str]) -> list[str]:
    """How Locust is started."""
    given = {"SHAPE": "steady"} | {name: value for name, value in variables.items() if value}
    chosen = [f"{option}={given[name]}" for name, option in OPTIONS.items() if name in given]
    locust = [sys.executable, "-m", "locust", "-f", "tests/load/locustfile.py", "--headless", "--only-summary"]
    return [*locust, f"--host={host}", *chosen, *REPORTS]


def main(environment: str, variables: Mapping[str, str] = os.environ) -> int:
    """Send it; the exit code of the process, which is Locust's and means what the page on load testing says."""
    try:
        with address(environment, variables) as host:
            return subprocess.run(command(host, variables), cwd=ROOT, check=False).returncode
    except deploy.RefusedError as error:
        sys.stderr.write("Nothing was sent.\n" + "".join(f"- {reason}\n" for reason in error.reasons))
    except ClusterError as error:
        sys.stderr.write(f"Nothing was sent.\n- {error}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
