"""An environment of a cluster as the place of a drill: what runs there is changed, and put back.

What has to be put back is written on the object itself, as an annotation, before it is changed. So a drill that was
killed leaves a note, and the next one finds it. The note says too what the drill had set: where somebody has set
something else since, a deploy for example, nothing is put back.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.observe import Targets
from tests.chaos.spec import Deploy, Drill, DrillError, Kill, Load
from tools.deploy import chosen_context, configured_contexts, context_problems
from tools.kubectl import Cluster, contexts
from tools.overlay import SERVICE, Overlay, environments, render

NOTE = "drill-undo"
PODS = f"app.kubernetes.io/name={SERVICE},app.kubernetes.io/component=api"
CONTAINER = "/spec/template/spec/containers/0"
PATIENCE_SECONDS = 180
PRODUCTION = "prod"

Patch = list[dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """What a person says about a cluster.

    Args:
        environment: which overlay it runs.
        url: where the service is reached; unless given, what the overlay says.
        prometheus: where its Prometheus is reached; alerts are not judged without it.
        alertmanager: where its Alertmanager is reached.
        faulty_image: the image of `image/Dockerfile`, where the cluster pulls it from.
    """

    environment: str
    url: str = ""
    prometheus: str = ""
    alertmanager: str = ""
    faulty_image: str = ""


class Namespace:
    """The service in one environment.

    Args:
        drill: what will be done to it.
        options: where it is.
        protected: whether the protection that the drill is about is on.

    Raises:
        DrillError: it cannot be told which cluster is meant.
    """

    def __init__(self, drill: Drill, options: Options, *, protected: bool = True) -> None:
        self._drill = drill
        self._options = options
        self._off = None if protected else drill.protection.off
        if options.environment not in environments():
            raise DrillError(f"--env is one of {', '.join(environments())}, not {options.environment!r}")
        self._overlay: Overlay = render(options.environment)
        configured = configured_contexts()
        context = chosen_context(options.environment, configured)
        if problems := context_problems(options.environment, context, configured, contexts()):
            raise DrillError("\n".join(problems))
        self._cluster = Cluster(context, self._overlay.namespace)

    def refusal(self) -> str:
        """Why no drill may happen here: it is production."""
        return "prod is production" if self._options.environment == PRODUCTION else ""

    def leftovers(self) -> list[str]:
        """Objects that an earlier drill has changed and not put back."""
        return [f"{kind}/{SERVICE}" for kind in ("deployment", "hpa") if _note(self._cluster.get(kind, SERVICE))]

    def start(self) -> Targets:
        """Look that there is what the drill needs; switch off what it is to do without."""
        url = self._options.url or self._overlay.address
        if not url:
            raise DrillError(f"Nothing leads to {self._options.environment} from here: pass --url")
        if isinstance(self._drill.fault, Deploy) and not self._options.faulty_image:
            raise DrillError(
                "Which image is the bad version? Build tests/chaos/image, push it, and pass --faulty-image"
            )
        if self._off and (replicas := self._off.replicas):
            before = self._object("hpa")["spec"]
            self._change(
                "hpa",
                _limits(replicas, replicas),
                [*_limits(replicas, replicas, "test"), *_limits(before["minReplicas"], before["maxReplicas"])],
            )
            self._wait(lambda: self.replicas() == replicas, f"{replicas} replicas")
        pages_as = "page" if self._options.environment == PRODUCTION else "ticket"
        return Targets(
            url, prometheus=self._options.prometheus, alertmanager=self._options.alertmanager, pages_as=pages_as
        )

    def inject(self) -> float | None:
        """Begin the fault."""
        match self._drill.fault:
            case Kill():
                pod = self._ready()[0]["metadata"]["name"]
                self._cluster.run("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
            case Load(requests_per_second=rate):
                return rate
            case Deploy(error_share=share):
                self._deploy(json.dumps({"error_share": share}))
            case other:
                raise DrillError(f"the fault {other.kind} needs the stack of this machine")
        return None

    def restore(self) -> None:
        """End the fault; a bad version is taken back, unless nobody is to."""
        if not (self._off and self._off.unattended):
            self._undo("deployment")

    def replicas(self) -> int:
        """How many pods are ready."""
        return len(self._ready())

    def clean(self) -> None:
        """Put back all that was changed."""
        for kind in ("deployment", "hpa"):
            self._undo(kind)

    def _deploy(self, faults: str) -> None:
        container = self._object("deployment")["spec"]["template"]["spec"]["containers"][0]
        environment = container.get("env")
        bad = [*(environment or []), {"name": "FAULTS", "value": faults}]
        self._change(
            "deployment",
            [_step("add", f"{CONTAINER}/image", self._options.faulty_image), _step("add", f"{CONTAINER}/env", bad)],
            [
                _step("test", f"{CONTAINER}/image", self._options.faulty_image),
                _step("add", f"{CONTAINER}/image", container["image"]),
                {"op": "remove", "path": f"{CONTAINER}/env"}
                if environment is None
                else _step("add", f"{CONTAINER}/env", environment),
            ],
        )
        if self._off and self._off.unattended and self._overlay.canary:
            self._promote()

    def _promote(self) -> None:
        """Let a canary go to the end without being judged."""

        def is_under_way() -> bool:
            status = self._object("rollout").get("status", {})
            return bool(status.get("currentPodHash") != status.get("stableRS"))

        self._wait(is_under_way, "the canary to begin")
        status = json.dumps({"status": {"promoteFull": True}})
        self._cluster.run("patch", "rollout", SERVICE, "--subresource=status", "--type=merge", f"--patch={status}")

    def _ready(self) -> list[dict[str, Any]]:
        pods = (self._cluster.get("pods", f"--selector={PODS}") or {"items": []})["items"]
        return [pod for pod in pods if _is_ready(pod)]

    def _object(self, kind: str) -> dict[str, Any]:
        found = self._cluster.get(kind, SERVICE)
        if found is None:
            raise DrillError(f"{self._overlay.namespace} has no {kind} {SERVICE}: deploy it first")
        return found

    def _change(self, kind: str, patch: Patch, undo: Patch) -> None:
        self._cluster.run("annotate", kind, SERVICE, f"{NOTE}={json.dumps(undo)}")
        self._cluster.run("patch", kind, SERVICE, "--type=json", f"--patch={json.dumps(patch)}")

    def _undo(self, kind: str) -> None:
        found = self._cluster.get(kind, SERVICE)
        if note := _note(found):
            # Kubernetes would refuse the patch by the same tests, in words that are like those for any other reason.
            if all(_at(found, step["path"]) == step["value"] for step in note if step["op"] == "test"):
                self._cluster.run("patch", kind, SERVICE, "--type=json", f"--patch={json.dumps(note)}")
            self._cluster.run("annotate", kind, SERVICE, f"{NOTE}-")

    @staticmethod
    def _wait(look: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not look():
            if time.monotonic() > deadline:
                raise DrillError(f"waited {PATIENCE_SECONDS} s in vain for {what}")
            time.sleep(1)


def _note(found: Mapping[str, Any] | None) -> Patch:
    """How to put back what a drill changed about this object; nothing if there is nothing to put back."""
    note: Patch = json.loads((found or {}).get("metadata", {}).get("annotations", {}).get(NOTE, "[]"))
    return note


def _at(found: Any, path: str) -> Any:
    """What an object has at a path of a patch, which has to be there."""
    for part in path.removeprefix("/").split("/"):
        found = found[int(part) if isinstance(found, list) else part]
    return found


def _step(operation: str, path: str, value: Any) -> dict[str, Any]:
    return {"op": operation, "path": path, "value": value}


def _limits(least: int, most: int, operation: str = "add") -> Patch:
    return [_step(operation, "/spec/minReplicas", least), _step(operation, "/spec/maxReplicas", most)]


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    leaving = "deletionTimestamp" in pod["metadata"]
    return not leaving and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
