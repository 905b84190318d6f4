"""The real components of the stack, built once from what `tools/` pins: minutes the first time, then nothing.

Go builds what a component's `go.mod` names as its tools, or the program that stands beside it. What a component needs
beyond that is said here.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import needs
import pytest
from conftest import ROOT

TOOLS = ROOT / "tools"
CACHE = ROOT / ".cache" / "components"


def _plain(version: str) -> str:
    """Most releases are named as their modules are."""
    return version.removeprefix("v")


def _prometheus(version: str) -> str:
    """Name the release of a Prometheus module: 0.313.5 is 3.13.5, as its release notes say."""
    _, minor, patch = version.split(".")
    return f"{int(minor) // 100}.{int(minor) % 100}.{patch}"


def _jaeger(version: str) -> str:
    """Name the release of a Jaeger module: v1.76.0 and v2.13.0 are one commit, as all such pairs from v1.63.0 on."""
    _, minor, patch = version.split(".")
    return f"2.{int(minor) - 63}.{patch}"


@dataclass(frozen=True)
class Component:
    """How one of them is built.

    Attributes:
        module: the module whose version is that of the component.
        packages: what Go builds; unless given, every tool of `go.mod`.
        tags: build tags.
        stamps: the variables that the project's own build sets, to the release or what is made of it.
        absent: a file that the build needs and the module lacks, because the project makes it.
        manifest: whether the tool is the Collector's builder, which builds what a manifest lists.
        release: the name of the release, from the version of the module.
    """

    module: str
    packages: tuple[str, ...] = ("tool",)
    tags: str = ""
    stamps: Mapping[str, str] = field(default_factory=dict)
    absent: str = ""
    manifest: str = ""
    release: Callable[[str], str] = field(default=_plain, repr=False)


COMPONENTS: Mapping[str, Component] = {
    "actionlint": Component(
        module="github.com/rhysd/actionlint",
        stamps={"github.com/rhysd/actionlint.version": "{0}"},
    ),
    "alertmanager": Component(
        module="github.com/prometheus/alertmanager",
        stamps={"github.com/prometheus/common/version.Version": "{0}"},
        # Its pages. Without them the API is whole.
        absent="ui/app/dist/index.html",
    ),
    "argo-rollouts": Component(
        module="github.com/argoproj/argo-rollouts",
        stamps={"github.com/argoproj/argo-rollouts/utils/version.version": "{0}"},
    ),
    "cadvisor": Component(
        module="github.com/google/cadvisor",
        packages=(".",),
        stamps={"github.com/google/cadvisor/lib/version.Version": "{0}"},
    ),
    "jaeger": Component(
        module="github.com/jaegertracing/jaeger",
        stamps={"github.com/jaegertracing/jaeger/internal/version.latestVersion": "{0}"},
        release=_jaeger,
    ),
    "kubernetes": Component(
        module="k8s.io/kubernetes",
        # With them a name server, an etcd and a metrics server, which share most of what is compiled.
        packages=("tool", "./coredns"),
        # Without them kubectl cannot tell whether it fits the server.
        stamps={
            f"k8s.io/{package}.git{part}": value
            for package in ("client-go/pkg/version", "component-base/version")
            for part, value in {"Version": "v{0}", "Major": "{1}", "Minor": "{2}"}.items()
        },
    ),
    "kustomize": Component(module="sigs.k8s.io/kustomize/kustomize/v5"),
    "kustomize-oldest": Component(
        module="sigs.k8s.io/kustomize/kustomize/v5",
        stamps={"sigs.k8s.io/kustomize/api/provenance.version": "v{0}"},
    ),
    "otel-collector": Component(module="go.opentelemetry.io/collector/cmd/builder", manifest="manifest.yaml"),
    "prometheus": Component(
        module="github.com/prometheus/prometheus",
        # The ways to discover targets that a stack on one machine can use, and a cluster.
        tags="remove_all_sd,enable_dns_sd,enable_docker_sd,enable_kubernetes_sd",
        stamps={"github.com/prometheus/common/version.Version": "{0}"},
        release=_prometheus,
    ),
    # What signs and verifies images, what lists their content, and a registry to push them to.
    "supply-chain": Component(
        module="github.com/sigstore/cosign/v3",
        stamps={"sigs.k8s.io/release-utils/version.gitVersion": "v{0}"},
    ),
    "toxiproxy": Component(
        module="github.com/Shopify/toxiproxy/v2",
        stamps={"github.com/Shopify/toxiproxy/v2.Version": "{0}"},
    ),
}


def release(name: str) -> str:
    """The release that is built, as its project names it."""
    component = COMPONENTS[name]
    return component.release(version(name, component.module))


def _pinned(name: str) -> list[Path]:
    """All that the repository says of a component."""
    return sorted(path for path in (TOOLS / name).rglob("*") if path.is_file())


def fingerprint(name: str) -> str:
    """What is another when the component has to be built again."""
    parts = [repr(COMPONENTS[name]).encode(), *(path.read_bytes() for path in _pinned(name))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def build(name: str) -> Path:
    """Return the folder with the component's programs, built unless they are in the cache."""
    go = needs.go()
    if go is None:
        pytest.fail(f"Go for {name}: {needs.NO_GO}", pytrace=False)
    folder = CACHE / f"{name}-{fingerprint(name)}"
    programs = folder / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not programs.exists():
            _build(go, name, folder).rename(programs)
    return programs


def sources(name: str) -> Path:
    """The folder with what the component's module holds beside code, such as its manifests."""
    go = needs.go()
    if go is None:
        pytest.fail(f"Go for {name}: {needs.NO_GO}", pytrace=False)
    pinned = f"{COMPONENTS[name].module}@{version(name, COMPONENTS[name].module)}"
    return Path(json.loads(_run(go, "mod", "download", "-json", pinned, cwd=TOOLS / name))["Dir"])


def _build(go: Path, name: str, folder: Path) -> Path:
    """Build into this folder; return where the programs are."""
    component, here, output = COMPONENTS[name], TOOLS / name, folder / "build"
    flags = ["-trimpath", f"-tags={component.tags}"]
    parts = release(name), *release(name).split(".")
    stamps = (f"-X {variable}={value.format(*parts)}" for variable, value in component.stamps.items())
    flags.append(f"-ldflags={' '.join(('-s', '-w', *stamps))}")
    if component.absent:
        flags.append(f"-modfile={_complete(go, name, folder)}")
    if not component.manifest:
        _run(go, "build", *flags, "-o", f"{output}{os.sep}", *component.packages, cwd=here)
        return output
    _run(go, "build", *flags, "-o", str(folder / "builder"), component.module, cwd=here)
    # It builds into the folder `build` of the one it stands in.
    _run(folder / "builder", f"--config={here / component.manifest}", cwd=folder, go=go)
    return output


def _complete(go: Path, name: str, folder: Path) -> Path:
    """Copy the component's module and add, empty, what it lacks; return a `go.mod` that takes the copy."""
    component, here = COMPONENTS[name], TOOLS / name
    pinned = f"{component.module}@{version(name, component.module)}"
    described = json.loads(_run(go, "mod", "download", "-json", pinned, cwd=here))
    with zipfile.ZipFile(described["Zip"]) as archive:
        archive.extractall(folder)
    absent = folder / pinned / component.absent
    absent.parent.mkdir(parents=True, exist_ok=True)
    absent.touch()
    for file in ("go.mod", "go.sum"):
        (folder / file).write_bytes((here / file).read_bytes())
    _run(go, "mod", "edit", f"-replace={component.module}={folder / pinned}", str(folder / "go.mod"), cwd=folder)
    return folder / "go.mod"


def version(name: str, module: str) -> str:
    """The version of a module that a component's `go.mod` requires."""
    pins = (TOOLS / name / "go.mod").read_text(encoding="utf-8")
    pin = re.search(rf"^\s+{re.escape(module)} (v\S+)", pins, re.MULTILINE)
    assert pin, f"tools/{name}/go.mod does not require {module}"
    return pin[1]


def _run(command: Path, *arguments: str, cwd: Path, go: Path | None = None) -> str:
    """Run Go, or a program that runs it, without the flags of the person who tests; return its output."""
    path = f"{(go or command).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    done = subprocess.run([command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{command.name} {' '.join(arguments)}\n{done.stderr[-5000:]}", pytrace=False)
    return done.stdout
