"""`make jenkinsfile-lint`: let the validator of a Jenkins controller judge the Jenkinsfile.

Only a controller knows the options, agents and steps that its plugins bring; a linter of Groovy takes any word.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from tools.compose import ROOT

JENKINSFILE = ROOT / "ci-cd" / "jenkins" / "Jenkinsfile"

# https://github.com/jenkinsci/pipeline-model-definition-plugin/blob/master/EXTENDING.md
VALIDATOR = "pipeline-model-converter/validateJenkinsfile"

HOW = (
    "JENKINS_URL names the controller, JENKINS_USER and JENKINS_TOKEN who asks it (a token of yours is made under "
    "<JENKINS_URL>/me/security). ci-cd/jenkins/README.md tells how to start a controller for this."
)


def asked(text: str, controller: str, user: str, token: str) -> dict[str, Any]:
    """What the controller answers about this Jenkinsfile.

    Raises:
        OSError: it does not answer, or refuses to.
        ValueError: what answers is no such controller.
    """
    address = controller.rstrip("/")
    headers = {"Authorization": f"Basic {base64.b64encode(f'{user}:{token}'.encode()).decode()}"}
    # Who comes with a password needs a crumb, which holds for the session that it was given in.
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    try:
        issuer = urllib.request.Request(f"{address}/crumbIssuer/api/json", headers=headers)  # noqa: S310 - the user names it
        crumb = answered(opener, issuer)
        headers[crumb["crumbRequestField"]] = crumb["crumb"]
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.NOT_FOUND:
            raise
    body = urllib.parse.urlencode({"jenkinsfile": text}).encode()
    return answered(opener, urllib.request.Request(f"{address}/{VALIDATOR}", body, headers))  # noqa: S310


def answered(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> dict[str, Any]:
    """What a controller answers to this request.

    Raises:
        OSError: it does not answer, or refuses to.
        ValueError: what answers is no such controller.
    """
    with opener.open(request, timeout=60) as answer:
        said: dict[str, Any] = json.loads(answer.read())
    return said


def complaints(answer: dict[str, Any]) -> Iterator[str]:
    """What the validator found wrong."""
    data = answer.get("data") or {}
    if answer.get("status") != "ok" or data.get("result") not in {"success", "failure"}:
        yield f"No verdict: {json.dumps(answer)[:500]}"
    if data.get("result") == "failure":
        for one in data.get("errors", []):
            found = one.get("error", one) if isinstance(one, dict) else one
            yield from map(str, found if isinstance(found, list) else [found])


def main() -> int:
    """Judge the Jenkinsfile; the exit code of the process."""
    controller, user, token = (os.environ.get(f"JENKINS_{name}", "") for name in ("URL", "USER", "TOKEN"))
    if not (controller and user and token):
        sys.stderr.write(f"Not asked: {HOW}\n")
        return 2
    try:
        found = list(complaints(asked(JENKINSFILE.read_text(encoding="utf-8"), controller, user, token)))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{controller} gave no verdict: {error}\n{HOW}\n")
        return 2
    sys.stderr.write("".join(f"{complaint}\n" for complaint in found))
    if not found:
        sys.stdout.write(f"{controller} would run {JENKINSFILE.relative_to(ROOT)}.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
