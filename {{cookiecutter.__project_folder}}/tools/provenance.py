"""What made the image from what, as a predicate of SLSA (https://slsa.dev/spec/v1.0/provenance).

Who signs it vouches for it: a consumer believes it as far as it trusts that pipeline. `make attest` writes it, and
`make verify`, once its signature is verified, asks here whether it is about this commit.
"""

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tools.compose import ROOT
from tools.facts import FACTS
from tools.git import GitError, git

# What of the tree decides about the image, beside the code, which the commit names.
LOCK = "requirements-prod.txt"


def builder(environment: Mapping[str, str]) -> tuple[str, str]:
    """What ran the build, and this one run of it."""
    if workflow := environment.get("GITHUB_WORKFLOW_REF"):
        server = environment["GITHUB_SERVER_URL"]
        run = f"{environment['GITHUB_REPOSITORY']}/actions/runs/{environment['GITHUB_RUN_ID']}"
        return f"{server}/{workflow}", f"{server}/{run}/attempts/{environment['GITHUB_RUN_ATTEMPT']}"
    if build := environment.get("BUILD_URL"):
        return environment["JOB_URL"], build
    return "urn:machine-of-a-person", ""


def predicate(commit: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The statement's predicate."""
    service = FACTS["service"]
    identity, run = builder(environment)
    source = f"git+{service['repository']}"
    lock = hashlib.sha256((ROOT / LOCK).read_bytes()).hexdigest()
    return {
        "buildDefinition": {
            "buildType": f"{service['repository']}/blob/{commit}/Makefile",
            "externalParameters": {"target": "image", "version": service["version"]},
            "resolvedDependencies": [
                {"uri": source, "digest": {"gitCommit": commit}},
                {"uri": f"{source}#{LOCK}", "digest": {"sha256": lock}},
            ],
        },
        "runDetails": {"builder": {"id": identity}, "metadata": {"invocationId": run}},
    }


def sources(verified: Iterable[str]) -> Iterator[str]:
    """Each `repository@commit` that a verified provenance names: of a pipeline that ran twice, there are two."""
    for line in verified:
        statement = json.loads(base64.b64decode(json.loads(line)["payload"]))
        for dependency in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
            if commit := dependency["digest"].get("gitCommit"):
                yield f"{dependency['uri'].removeprefix('git+')}@{commit}"


def refusal(commit: str, verified: Iterable[str]) -> str:
    """Why the image is not of this commit of this repository; nothing if it is."""
    wanted = f"{FACTS['service']['repository']}@{commit}"
    found = sorted(set(sources(verified)))
    if wanted in found:
        return ""
    return f"Refused: the image is of {' and '.join(found) or 'no commit'}, and not of {wanted}"


def write() -> int:
    """Print the predicate; the exit code of the process."""
    try:
        commit = git("rev-parse", "--verify", "HEAD")
    except GitError as error:
        sys.stderr.write(f"Only what was committed can be told where it is from: {error}\n")
        return 1
    json.dump(predicate(commit, os.environ), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def main(arguments: list[str]) -> int:
    """Write the provenance, or with a commit read from stdin what cosign verified; the exit code of the process."""
    if not arguments:
        return write()
    if reason := refusal(arguments[0], sys.stdin):
        sys.stderr.write(f"{reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
