"""`make deploy|rollback|diff|smoke|release`: what stands in the way is told before anything is changed."""

import json
import os
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.programs import Program
from tests.support import wait_for
from tools import delivery, deploy, overlay, release, smoke
from tools.facts import FACTS
from tools.kubectl import Cluster, ClusterError

DIGEST = "sha256:" + "0123456789abcdef" * 4
NAMESPACE = {"dev": "development", "staging": "staging", "prod": "production"}

RESOURCES = """\
configmaps                cm      v1                             true   ConfigMap
namespaces                ns      v1                             false  Namespace
serviceaccounts           sa      v1                             true   ServiceAccount
services                  svc     v1                             true   Service
deployments               deploy  apps/v1                        true   Deployment
roles                             rbac.authorization.k8s.io/v1   true   Role
servicemonitors           smon    monitoring.coreos.com/v1       true   ServiceMonitor
"""


def rendered(environment: str, image: str = f"ghcr.io/acme/shop@{DIGEST}", version: str = "1.2.3") -> str:
    """What Kustomize prints of a small overlay."""
    namespace, digest = NAMESPACE[environment], DIGEST.removeprefix("sha256:")[:12]
    return textwrap.dedent(f"""\
        apiVersion: v1
        kind: Namespace
        metadata:
          labels:
            name: not-this
          name: {namespace}
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata:
          name: shop-deployer
          namespace: {namespace}
        ---
        apiVersion: v1
        data:
          name: not-this-either
        kind: ConfigMap
        metadata:
          name: shop-settings-abc123
          namespace: {namespace}
        ---
        apiVersion: apps/v1
        kind: Deployment
        metadata:
          labels:
            app.kubernetes.io/version: "{version}"
            image-digest: "{digest}"
          name: shop
          namespace: {namespace}
        spec:
          template:
            metadata:
              labels:
                app.kubernetes.io/version: "{version}"
                image-digest: "{digest}"
            spec:
              containers:
              - image: {image}
                name: app
        ---
        apiVersion: monitoring.coreos.com/v1
        kind: ServiceMonitor
        metadata:
          name: shop
          namespace: {namespace}
        """)


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three environments, of which two have a context."""
    for environment in NAMESPACE:
        folder = tmp_path / "k8s" / "overlays" / environment / "release"
        folder.mkdir(parents=True)
        (folder.parent / "kustomization.yaml").touch()
    (tmp_path / "k8s" / "contexts.toml").write_text('dev = ""\nstaging = "stage"\nprod = "live"\n', encoding="utf-8")
    monkeypatch.setattr(deploy, "ROOT", tmp_path)
    monkeypatch.setitem(FACTS["service"], "version", "0.9.0")
    monkeypatch.setattr(overlay, "OVERLAYS", tmp_path / "k8s" / "overlays")
    monkeypatch.setattr(release, "OVERLAYS", tmp_path / "k8s" / "overlays")
    monkeypatch.setattr(deploy, "IMAGE_REPOSITORY", "ghcr.io/acme/shop")
    for name in ("CONTEXT", "CONFIRM", "TIMEOUT", "URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """One whose cluster is right in every respect."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(delivery, "NEEDS_CONTEXT", True)
    monkeypatch.setattr(delivery, "problems", lambda _: [])
    program = Program(folder, "kubectl")
    for environment in NAMESPACE:
        program.answer(rf"^kustomize .*/{environment}$", rendered(environment))
    program.answer("config get-contexts", "here\nstage\nlive\n")
    program.answer("config current-context", "here\n")
    program.answer("config view", "https://127.0.0.1:6443")
    program.answer(" version ", {"serverVersion": {"major": "1", "minor": "30+", "gitVersion": "v1.30.1-eks"}})
    program.answer("api-resources", RESOURCES)
    program.answer("auth can-i", "yes\n")
    return program


def refused(action: str, environment: str) -> list[str]:
    with pytest.raises(deploy.RefusedError) as error:
        deploy.target(action, environment)
    return list(error.value.reasons)


def test_a_target_without_a_fault_is_found_by_its_own_context(kubectl: Program) -> None:
    target = deploy.target("deploy", "prod")

    assert target.cluster == Cluster("live", "production")
    assert target.overlay.image == f"ghcr.io/acme/shop@{DIGEST}"
    assert target.overlay.version == "1.2.3"
    assert [manifest.name for manifest in target.overlay.manifests][:3] == [
        "production",
        "shop-deployer",
        "shop-settings-abc123",
    ]


@pytest.mark.parametrize(("environment", "told"), [("production", "ENV is production"), ("", "ENV is not set")])
def test_an_unknown_environment_is_told_with_those_there_are(environment: str, told: str) -> None:
    assert refused("deploy", environment) == [f"{told}: it is one of dev, prod, staging."]


def test_without_kubectl_it_is_said_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert refused("diff", "dev") == ["kubectl is not installed: https://kubernetes.io/docs/tasks/tools/"]


def set_contexts(tree: Path, text: str) -> None:
    (tree / "k8s" / "contexts.toml").write_text(text, encoding="utf-8")


def test_only_dev_takes_the_context_that_happens_to_be_current(kubectl: Program, tree: Path) -> None:
    set_contexts(tree, 'dev = ""\nstaging = ""\nprod = "live"\n')

    assert deploy.target("smoke", "dev").cluster.context == "here"
    (reason,) = refused("deploy", "staging")
    assert reason.startswith("No context is set for staging: write it into k8s/contexts.toml, or pass CONTEXT=.")
    assert reason.endswith("kubectl knows: here, stage, live.")


def test_a_context_that_kubectl_does_not_know_is_told_with_those_it_does(
    kubectl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEXT", "elsewhere")

    assert refused("deploy", "staging") == [
        "kubectl knows no context elsewhere. It knows: here, stage, live.",
    ]


@pytest.mark.parametrize(("environment", "chosen"), [("staging", "live"), ("dev", "live"), ("prod", "stage")])
def test_the_context_of_another_environment_is_refused(
    environment: str, chosen: str, kubectl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEXT", chosen)
    other = {"live": "prod", "stage": "staging"}[chosen]

    (reason,) = refused("deploy", environment)

    assert reason == f"The context {chosen} is the one of {other}, not of {environment} (k8s/contexts.toml)."


def test_the_current_context_is_refused_for_dev_when_it_is_that_of_prod(kubectl: Program) -> None:
    kubectl.answer("config current-context", "live\n")

    assert refused("deploy", "dev") == ["The context live is the one of prod, not of dev (k8s/contexts.toml)."]


def test_environments_may_share_a_cluster_when_the_file_says_so(kubectl: Program, tree: Path) -> None:
    set_contexts(tree, 'dev = "live"\nstaging = "live"\nprod = "live"\n')

    assert deploy.target("deploy", "staging").cluster == Cluster("live", "staging")


def test_a_cluster_that_does_not_answer_is_told_with_what_kubectl_said(kubectl: Program) -> None:
    kubectl.answer(" version ", "first line\nThe connection to the server was refused", code=1)

    assert refused("smoke", "dev") == [
        "The cluster of context here does not answer: The connection to the server was refused"
    ]


def test_all_that_is_wrong_is_told_at_once(kubectl: Program) -> None:
    kubectl.answer(r"kustomize .*/prod", rendered("prod", image="ghcr.io/acme/shop:unreleased"))
    kubectl.answer(" version ", {"serverVersion": {"major": "1", "minor": "29", "gitVersion": "v1.29.9"}})
    kubectl.answer("api-resources", RESOURCES.replace("ServiceMonitor", "Other"))

    assert [reason.partition(":")[0] for reason in refused("deploy", "prod")] == [
        "The cluster runs Kubernetes v1.29.9",
        "The cluster does not know ServiceMonitor",
        "prod would run ghcr.io/acme/shop",
    ]


def test_each_refusal_says_what_is_right(kubectl: Program) -> None:
    kubectl.answer(r"kustomize .*/prod", rendered("prod", image="ghcr.io/acme/shop:unreleased"))
    kubectl.answer(" version ", {"serverVersion": {"major": "1", "minor": "29", "gitVersion": "v1.29.9"}})
    kubectl.answer("api-resources", RESOURCES.replace("ServiceMonitor", "Other"))

    version, kind, image = refused("deploy", "prod")

    assert version.endswith("this needs 1.30 or newer.")
    assert kind.endswith("Prometheus Operator (https://prometheus-operator.dev) brings it, and is not installed.")
    assert image.endswith("Write one: make release ENV=prod DIGEST=sha256:… VERSION=1.2.3")


@pytest.mark.parametrize(("environment", "refuses"), [("dev", False), ("staging", True), ("prod", True)])
def test_only_dev_runs_an_image_that_another_push_could_replace(
    environment: str, refuses: bool, kubectl: Program
) -> None:
    kubectl.answer(rf"kustomize .*/{environment}", rendered(environment, image="ghcr.io/acme/shop:unreleased"))

    assert bool(deploy.image_problems(overlay.render(environment))) is refuses


@pytest.mark.parametrize("environment", ["dev", "prod"])
@pytest.mark.parametrize("image", ["shop", f"shop@{DIGEST}", f"ghcr.io/acme/store@{DIGEST}", "ghcr.io/acme/shop-2:1"])
def test_a_release_by_an_old_name_is_refused_with_the_command_that_renews_it(
    image: str, environment: str, kubectl: Program
) -> None:
    kubectl.answer(rf"kustomize .*/{environment}", rendered(environment, image=image))

    (reason,) = refused("deploy", environment)

    assert reason.startswith(f"{environment} would run {image}, and images are in ghcr.io/acme/shop: ")
    assert reason.endswith(f"Write it anew: make release ENV={environment} DIGEST=sha256:… VERSION=1.2.3")


def test_nothing_is_changed_when_something_stands_in_the_way(
    kubectl: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("api-resources", "")
    monkeypatch.setenv("CONFIRM", "prod")

    assert deploy.main(["deploy", "prod"]) == 1

    assert capsys.readouterr().err.startswith("Nothing was changed.\n- The cluster does not know Namespace")
    assert [said for said in kubectl.heard if "apply" in said or "delete" in said or "patch" in said] == []


def test_prod_without_a_terminal_needs_the_confirmation_as_a_variable(
    kubectl: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr(delivery, "deploy", lambda target: done.append(target.environment))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    assert deploy.main(["deploy", "prod"]) == 1
    said = capsys.readouterr()
    for fact in ("live", "https://127.0.0.1:6443", "production", DIGEST, "1.2.3"):
        assert fact in said.out
    assert "pass CONFIRM=prod" in said.err
    assert done == []

    monkeypatch.setenv("CONFIRM", "prod")
    assert deploy.main(["deploy", "prod"]) == 0
    assert deploy.main(["deploy", "staging"]) == 0
    assert done == ["prod", "staging"]


@pytest.mark.parametrize(("typed", "goes_on"), [("prod", True), (" prod\n", True), ("yes", False), ("", False)])
def test_prod_is_confirmed_by_its_name(
    typed: str, goes_on: bool, kubectl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    target = deploy.target("rollback", "prod")

    if goes_on:
        deploy.confirm("rollback", target, ask=lambda _: typed)
    else:
        with pytest.raises(deploy.RefusedError, match="Not confirmed"):
            deploy.confirm("rollback", target, ask=lambda _: typed)


def test_a_diff_compares_what_the_user_may_change(kubectl: Program, capsys: pytest.CaptureFixture[str]) -> None:
    kubectl.answer("can-i patch roles.rbac.authorization.k8s.io", "no\n", code=1)
    kubectl.answer(" diff ", "", code=0)

    assert deploy.main(["diff", "staging"]) == 0

    said = capsys.readouterr().out
    assert "No difference." in said
    assert "may not change them: Role shop-deployer" in said
    (given,) = kubectl.given(" diff ")
    assert "kind: Deployment" in given
    assert "kind: Role" not in given


def test_a_diff_that_shows_something_is_no_failure(kubectl: Program, capfd: pytest.CaptureFixture[str]) -> None:
    kubectl.answer(" diff ", "", code=1)
    assert deploy.main(["diff", "staging"]) == 0

    kubectl.answer(" diff ", "error: namespaces not found", code=2)
    assert deploy.main(["diff", "staging"]) == 1
    assert "namespaces not found" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("HTTPRoute", "spec:\n  hostnames:\n  - shop.prod.example.com\n", "https://shop.prod.example.com"),
        ("Ingress", "spec:\n  rules:\n  - host: shop.prod.example.com\n", "https://shop.prod.example.com"),
        (
            "Service",
            "metadata:\n  annotations:\n    external-dns.alpha.kubernetes.io/hostname: shop.prod.example.com\n",
            "http://shop.prod.example.com",
        ),
        ("Service", "metadata:\n  name: shop\n", ""),
    ],
)
def test_the_address_is_where_the_overlay_exposes_it(kind: str, text: str, expected: str) -> None:
    exposed = overlay.parse(f"{rendered('prod')}---\napiVersion: x/v1\nkind: {kind}\n{text}")

    assert overlay.Overlay("prod", exposed).address == expected


Answer = Callable[[str], tuple[int, object]]


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """A service that answers so; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let smoke pause for no time, and be sure after three looks."""
    monkeypatch.setattr(smoke, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(smoke, "LOOKS", 3)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("before", [("1.2.2", "0123456789ab"), ("1.2.3", "ba9876543210"), ("1.2.3", None)], ids=str)
def test_smoke_waits_until_version_and_image_of_the_release_alone_answer(
    before: tuple[str, str | None],
    kubectl: Program,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # By pods of a canary and of the release before.
    now = ("1.2.3", "0123456789ab")
    released = iter([before, now, now, before])
    asked = []

    def answer(path: str) -> tuple[int, object]:
        asked.append(path)
        version, image = next(released, now) if path == "/" else ("", "")
        return 200, {"version": version, "image": image}

    with service(answer) as url:
        monkeypatch.setenv("URL", url)
        assert deploy.main(["smoke", "staging"]) == 0

    look = ["/", "/health/ready", "/api/v1/items"]
    assert asked == ["/", *look, *look, "/", *look, *look, *look]
    assert "1.2.3 0123456789ab serves in staging" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "fault", "seen"),
    [
        ("/", (200, {"version": "1.0.0"}), "GET / is answered by version 1.0.0"),
        ("/", (200, ["something else"]), "GET /: "),
        ("/health/ready", (503, {"problem": "starting"}), 'GET /health/ready: 503 {"problem": "starting"}'),
        ("/api/v1/items", (500, {}), "GET /api/v1/items: 500"),
    ],
)
def test_smoke_says_what_it_saw_last(path: str, fault: tuple[int, object], seen: str) -> None:
    def answer(asked: str) -> tuple[int, object]:
        return fault if asked == path else (200, {"version": "1.2.3"})

    with service(answer) as url, pytest.raises(ClusterError) as error:
        smoke.smoke({"version": "1.2.3"}, url, None, patience=0)

    assert f"1.2.3 does not serve. Seen last: {seen}" in str(error.value)


def pod(name: str, ready: str = "True", *, ends: bool = False) -> dict[str, object]:
    """A pod of the service, as kubectl lists it."""
    condition = {"type": "Ready", "status": ready}
    metadata = {"name": name} | ({"deletionTimestamp": "2026-11-26T12:00:00Z"} if ends else {})
    conditions = [condition]
    return {"metadata": metadata, "status": {"conditions": conditions}}


@pytest.mark.usefixtures("hasty")
def test_smoke_goes_through_a_tunnel_to_a_ready_pod_by_chance_where_nothing_is_exposed(
    kubectl: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = []

    def choice(pods: list[str]) -> str:
        offered.append(pods)
        return pods[-1]

    monkeypatch.setattr("random.choice", choice)
    with service(lambda _: (200, {"version": "1.2.3", "image": "0123456789ab"})) as url:
        kubectl.answer("port-forward", f"Forwarding from {url.removeprefix('http://').rstrip('/')} -> 8000\n")
        kubectl.answer("get pods", {"items": [pod("old"), pod("new"), pod("starts", "False"), pod("ends", ends=True)]})
        assert deploy.main(["smoke", "staging"]) == 0

    tunnel = "--context stage --namespace staging port-forward --address 127.0.0.1 pod/new :http"
    assert [said for said in kubectl.heard if "port-forward" in said] == [tunnel] * smoke.LOOKS
    assert offered == [["old", "new"]] * smoke.LOOKS


def test_a_tunnel_lasts_as_long_as_it_is_needed_however_much_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\necho 'Forwarding from 127.0.0.1:4321 -> 8000'\n"
        f"yes Handling connection | head -c 200000\ntouch {tmp_path}/said\nexec sleep 60\n"
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    monkeypatch.setattr(smoke, "ready_pods", lambda _: ["one"])
    with smoke.tunnel(Cluster("stage", "staging"), patience=1) as address:
        assert address == "http://127.0.0.1:4321"
        wait_for((tmp_path / "said").exists, "nobody reads what it says")


def test_smoke_without_a_tunnel_says_why(
    kubectl: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIMEOUT", "0")
    kubectl.answer("get pods", {"items": [pod("starts", "False")]})
    assert deploy.main(["smoke", "staging"]) == 1
    assert f"Seen last: no pod of {overlay.SERVICE} is ready" in capsys.readouterr().err

    kubectl.answer("get pods", {"items": [pod("one")]})
    kubectl.answer("port-forward", "error: unable to forward", code=1)
    assert deploy.main(["smoke", "staging"]) == 1
    assert "Seen last: error: unable to forward" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rendered("dev"), {"version": "1.2.3", "image": "0123456789ab"}),
        # One that was written before releases told of their image.
        (re.sub(" +image-digest: .*\n", "", rendered("dev")), {"version": "1.2.3"}),
        (rendered("dev", version="unreleased"), {"version": "0.9.0"}),
    ],
    ids=["released", "released before", "not released"],
)
def test_what_has_to_answer_is_the_release_or_the_tree_where_there_is_none(
    text: str, expected: dict[str, str], kubectl: Program
) -> None:
    kubectl.answer("kustomize .*/dev", text)

    assert deploy.expected(overlay.render("dev")) == expected


OLD_RELEASE = f"images:\n  - name: store\n    newName: ghcr.io/acme/store\n    digest: {DIGEST}\n"


@pytest.mark.parametrize("before", ["", OLD_RELEASE])
@pytest.mark.parametrize("version", ["1.2.3", "1.2.4-rc.1"])
def test_a_release_writes_what_runs_by_the_names_of_now(
    version: str, before: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "SERVICE", "shop")
    monkeypatch.setattr(release, "IMAGE_REPOSITORY", "ghcr.io/acme/shop")
    file = tree / "k8s" / "overlays" / "staging" / "release" / "kustomization.yaml"
    file.write_text(before, encoding="utf-8")

    assert release.main(["staging", DIGEST, version]) == 0

    assert file.read_text(encoding="utf-8").partition("\n")[2] == textwrap.dedent(f"""\
        apiVersion: kustomize.config.k8s.io/v1alpha1
        kind: Component
        images:
          - name: shop
            newName: ghcr.io/acme/shop
            digest: {DIGEST}
        labels:
          - includeTemplates: true
            pairs:
              app.kubernetes.io/version: "{version}"
              image-digest: "0123456789ab"
        """)


def test_a_release_that_is_none_is_refused_for_all_its_faults(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["production", "sha256:abc", "latest"]) == 1

    said = capsys.readouterr().err
    assert said.startswith("Nothing was written.\n- ENV is 'production'")
    assert "- DIGEST is 'sha256:abc'" in said
    assert "- VERSION is 'latest'" in said
