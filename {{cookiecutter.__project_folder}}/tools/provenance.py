"""`make attest`: what made the image from what, as a predicate of SLSA (https://slsa.dev/spec/v1.0/provenance).

Who signs it vouches for it: a consumer believes it as far as it trusts that pipeline.
"""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

from tools.compose import ROOT

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
    service = tomllib.loads((ROOT / "app" / "service.toml").read_text(encoding="utf-8"))["service"]
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


def main() -> int:
    """Print it; the exit code of the process."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"Only what was committed can be told where it is from: {done.stderr}")
        return 1
    json.dump(predicate(done.stdout.strip(), os.environ), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
