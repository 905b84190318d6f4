"""Drills in a cluster: they change what they say, note on the object how to put it back, and put it back."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import spec
from tests.chaos.cluster import NOTE, Namespace, Options
from tests.chaos.spec import Drill, DrillError
from tests.programs import Program
from tools.kubectl import ClusterError
from tools.overlay import SERVICE

URL = "http://10.0.0.1"
FAULTY = "registry.example.com/shop:drill"

RENDERED = f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {SERVICE}
  namespace: shop
"""

MINIMAL = """
title = "A drill"
scenario = "Row"
hypothesis = "It holds."
impact = "none"
scope = "cluster"
requests_per_second = 10
steady_seconds = 10
fault_seconds = 20
after_seconds = 10
bounds = [{ says = "it holds", measure = "availability_percent", at_least = "objective" }]
"""

KILL = MINIMAL + 'fault = { kind = "kill" }\nprotection = { name = "replicas", off = { replicas = 1 } }\n'
DEPLOY = (
    MINIMAL
    + """
fault = { kind = "deploy", error_share = 0.2 }
protection = { name = "rollback", off = { unattended = true } }
"""
)


def drill(tmp_path: Path, text: str) -> Drill:
    path = tmp_path / "a-drill.toml"
    path.write_text(text, encoding="utf-8")
    return spec.read(path)


def pod(name: str, *, ready: bool = True, leaving: bool = False) -> dict[str, Any]:
    metadata = {"name": name} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {})
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "status": {"conditions": conditions}}


def deployment(note: str = "", **container: Any) -> dict[str, Any]:
    annotations = {NOTE: note} if note else {}
    containers = [{"name": "app", "image": "shop@sha256:1", **container}]
    return {"metadata": {"annotations": annotations}, "spec": {"template": {"spec": {"containers": containers}}}}


FAULTY_RUNS = {"op": "test", "path": "/spec/template/spec/containers/0/image", "value": FAULTY}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """One that knows a cluster in which two replicas serve, and two pods do not."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CONTEXT", "test")
    program = Program(folder, "kubectl")
    program.answer("config get-contexts", "test\n")
    program.answer("^kustomize", RENDERED)
    pods = [pod("young", ready=False), pod("old", leaving=True), pod("first"), pod("second")]
    program.answer("get pods", {"items": pods})
    program.answer("get deployment", deployment())
    program.answer("get hpa", {"metadata": {}, "spec": {"minReplicas": 2, "maxReplicas": 6}})
    return program


def changes(kubectl: Program) -> list[str]:
    """What it was told that changes something, without where."""
    heard = [re.sub(r"^--context \S+ --namespace \S+ ", "", said) for said in kubectl.heard]
    return [said for said in heard if said.startswith(("annotate", "patch", "delete"))]


def patched(said: str) -> Any:
    """The patch, or the note, in what it was told."""
    return json.loads(said[re.search(r"[\[{]", said).start() :])  # type: ignore[union-attr]


def place(one: Drill, options: Options | None = None, *, protected: bool = True) -> Namespace:
    return Namespace(one, options or Options("staging", url=URL, faulty_image=FAULTY), protected=protected)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        pytest.param(KILL, Options("moon", url=URL), "--env is one of dev, prod, staging", id="no such environment"),
        pytest.param(KILL, Options("staging"), "pass --url", id="nothing leads there"),
        pytest.param(DEPLOY, Options("staging", url=URL), "pass --faulty-image", id="no bad version"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_changed(
    text: str, options: Options, expected: str, tmp_path: Path, kubectl: Program
) -> None:
    with pytest.raises(DrillError, match=expected):
        place(drill(tmp_path, text), options).start()

    assert changes(kubectl) == []


@pytest.mark.parametrize(("environment", "refused"), [("staging", False), ("prod", True)])
def test_production_is_refused(environment: str, refused: bool, tmp_path: Path, kubectl: Program) -> None:
    assert bool(place(drill(tmp_path, KILL), Options(environment, url=URL)).refusal()) is refused


@pytest.mark.parametrize(("environment", "severity"), [("staging", "ticket"), ("prod", "page")])
def test_only_in_production_an_alert_pages(environment: str, severity: str, tmp_path: Path, kubectl: Program) -> None:
    assert place(drill(tmp_path, KILL), Options(environment, url=URL)).start().pages_as == severity


def test_a_pod_that_serves_is_killed_without_being_told(tmp_path: Path, kubectl: Program) -> None:
    victims = place(drill(tmp_path, KILL))
    assert victims.replicas() == 2

    victims.inject()

    assert changes(kubectl) == ["delete pod first --grace-period=0 --force --wait=false"]


@pytest.mark.parametrize(
    ("before", "undo"),
    [
        pytest.param({}, {"op": "remove", "path": "/spec/template/spec/containers/0/env"}, id="no environment"),
        pytest.param(
            {"env": [{"name": "A", "value": "1"}]},
            {"op": "add", "path": "/spec/template/spec/containers/0/env", "value": [{"name": "A", "value": "1"}]},
            id="one of its own",
        ),
    ],
)
def test_a_bad_version_is_rolled_out_after_how_to_take_it_back_was_noted(
    before: dict[str, Any], undo: dict[str, Any], tmp_path: Path, kubectl: Program
) -> None:
    kubectl.answer("get deployment", deployment(**before))

    place(drill(tmp_path, DEPLOY)).inject()

    note, patch = changes(kubectl)
    assert note.startswith(f"annotate deployment {SERVICE} {NOTE}=")
    image = {"op": "add", "path": "/spec/template/spec/containers/0/image", "value": "shop@sha256:1"}
    assert patched(note) == [{**image, "op": "test", "value": FAULTY}, image, undo]
    assert patch.startswith(f"patch deployment {SERVICE} --type=json")
    new_image, new_environment = (change["value"] for change in patched(patch))
    assert new_image == FAULTY
    assert new_environment[:-1] == before.get("env", [])
    assert new_environment[-1] == {"name": "FAULTS", "value": '{"error_share": 0.2}'}


@pytest.mark.parametrize("protected", [True, False])
def test_a_bad_version_is_taken_back_at_the_end_of_the_fault_unless_nobody_is_to_but_never_left(
    protected: bool, tmp_path: Path, kubectl: Program
) -> None:
    undo = json.dumps([FAULTY_RUNS, {"op": "remove", "path": "/x"}])
    kubectl.answer("get deployment", deployment(undo, image=FAULTY))
    kubectl.answer("get hpa", "")
    taken_back = [
        f"patch deployment {SERVICE} --type=json --patch={undo}",
        f"annotate deployment {SERVICE} {NOTE}-",
    ]
    there = place(drill(tmp_path, DEPLOY), protected=protected)
    assert there.leftovers() == [f"deployment/{SERVICE}"]

    there.restore()
    assert changes(kubectl) == (taken_back if protected else [])

    there.clean()
    assert changes(kubectl)[-2:] == taken_back


def test_without_replicas_the_autoscaler_keeps_to_one_and_its_limits_are_noted(
    tmp_path: Path, kubectl: Program
) -> None:
    kubectl.answer("get pods", {"items": [pod("only")]})

    place(drill(tmp_path, KILL), protected=False).start()

    note, patch = changes(kubectl)
    assert [(step["op"], step["value"]) for step in patched(note)] == [("test", 1), ("test", 1), ("add", 2), ("add", 6)]
    assert [(step["op"], step["value"]) for step in patched(patch)] == [("add", 1), ("add", 1)]


def test_what_somebody_else_has_set_since_a_drill_was_killed_stays_and_only_the_note_goes(
    tmp_path: Path, kubectl: Program
) -> None:
    limits = [{"op": "test", "path": "/spec/minReplicas", "value": 1}, {"op": "add", "path": "/x", "value": 2}]
    metadata = {"annotations": {NOTE: json.dumps(limits)}}
    kubectl.answer("get deployment", deployment(json.dumps([FAULTY_RUNS, {"op": "remove", "path": "/x"}])))
    kubectl.answer("get hpa", {"metadata": metadata, "spec": {"minReplicas": 3, "maxReplicas": 6}})

    place(drill(tmp_path, KILL)).clean()

    assert changes(kubectl) == [f"annotate {kind} {SERVICE} {NOTE}-" for kind in ("deployment", "hpa")]


def test_a_cluster_that_refuses_to_put_something_back_is_told_of_and_keeps_the_note(
    tmp_path: Path, kubectl: Program
) -> None:
    kubectl.answer("get deployment", deployment(json.dumps([FAULTY_RUNS]), image=FAULTY))
    kubectl.answer("patch deployment", "it is Tuesday", code=1)

    with pytest.raises(ClusterError, match="it is Tuesday"):
        place(drill(tmp_path, KILL)).clean()

    assert not any(said.startswith("annotate") for said in changes(kubectl))


def test_what_is_not_deployed_is_told(tmp_path: Path, kubectl: Program) -> None:
    kubectl.answer("get deployment", "")

    with pytest.raises(DrillError, match=f"has no deployment {SERVICE}: deploy it first"):
        place(drill(tmp_path, DEPLOY)).inject()
