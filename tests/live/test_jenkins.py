"""A controller of Jenkins, made as a service says, takes its Jenkinsfile, and refuses what no plugin of it knows.

It pulls the image of the controller and its plugins: this runs in the template's pipeline, not in `make test-all`.
"""

import os
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from services import make

pytestmark = pytest.mark.jenkins

FILE = Path("ci-cd/jenkins/Jenkinsfile")
PASSWORD = "for-this-test"  # noqa: S105 - of a controller on this machine, gone with the test


def compose(project: Path, *arguments: str) -> None:
    """Run Compose on a service's controller; its whole output is the reason when it fails."""
    command = ["docker", "compose", "--file", "ci-cd/jenkins/compose.yaml", *arguments]
    environment = os.environ | {"JENKINS_ADMIN_PASSWORD": PASSWORD}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-5000:]}{done.stderr[-5000:]}", pytrace=False)


@pytest.fixture(scope="module", params=product(("jenkins", "both"), ("argocd", "kubectl")), ids="-".join)
def service(request: pytest.FixtureRequest, cookies_session: Any) -> Iterator[Path]:
    """A service whose controller runs."""
    system, deployment = request.param
    result = cookies_session.bake(extra_context={"ci_system": system, "deployment": deployment}, template=str(ROOT))
    assert result.exception is None, repr(result.exception)
    project = Path(result.project_path)
    try:
        compose(project, "up", "--build", "--wait")
        yield project
    finally:
        compose(project, "down", "--volumes")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say which controller is asked, and by whom."""
    monkeypatch.setenv("JENKINS_URL", "http://127.0.0.1:8080")
    monkeypatch.setenv("JENKINS_USER", "admin")
    monkeypatch.setenv("JENKINS_TOKEN", PASSWORD)


def test_the_controller_would_run_the_jenkinsfile(service: Path) -> None:
    make(service, "jenkinsfile-lint")


def test_the_controller_refuses_an_option_that_no_plugin_knows(service: Path) -> None:
    text = (service / FILE).read_text(encoding="utf-8")
    assert "disableConcurrentBuilds()" in text
    (service / FILE).write_text(text.replace("disableConcurrentBuilds()", "disableSomeBuilds()"), encoding="utf-8")
    try:
        with pytest.raises(pytest.fail.Exception, match="disableSomeBuilds"):
            make(service, "jenkinsfile-lint")
    finally:
        (service / FILE).write_text(text, encoding="utf-8")
