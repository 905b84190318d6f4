"""Stand-ins for the images of a rendered stack, where none can be pulled: the real programs, in images of our own.

A stand-in bears the name and the tag that a compose file asks for. No local image can match a digest, so the stack is
started with a second file, which asks for each image by name and tag alone, and never pulls.
"""

import fcntl
import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import components
import needs
import pytest
import yaml
from conftest import ROOT

IMAGES = Path(__file__).parent / "images"
CACHE = ROOT / ".cache" / "live"
LABEL = "stand-in"


@dataclass(frozen=True)
class Reference:
    """What a compose file asks for, without the digest."""

    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Take apart the name of an image."""
        name = text.partition("@")[0]
        repository, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = name, "latest"
        return cls(repository.removeprefix("docker.io/").removeprefix("library/"), tag)

    @property
    def release(self) -> str:
        """The release that the tag names, without the variant of the image."""
        return self.tag.removeprefix("v").partition("-")[0]

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


Maker = Callable[[Reference], None]


def component(name: str, stands_for: str = "") -> Maker:
    """Return what makes an image of this component, of the release that is pinned or may stand for, and of no other."""

    def make(reference: Reference) -> None:
        if reference.release not in {components.release(name), stands_for}:
            pytest.fail(f"{reference} is asked for, tools/{name} pins {components.release(name)}", pytrace=False)
        build(name, reference, components.build(name), components.fingerprint(name))

    return make


def postgresql(reference: Reference) -> None:
    """Make an image of Debian's PostgreSQL, where a tag can choose no more than the major version."""
    if reference.release.partition(".")[0] != "17":
        pytest.fail(f"{reference} is asked for, Debian 13 has PostgreSQL 17", pytrace=False)
    script = IMAGES / "postgres-root.sh"
    folder = CACHE / f"postgres-{digest(script.read_bytes())}"
    archive = folder / "root.tar"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not archive.exists():
            needs.demand(needs.debian(), "Debian's tools")
            partial = folder / "partial.tar"
            run(script, partial)
            partial.rename(archive)
    build("postgres", reference, folder, folder.name)


def loki(service_image: str) -> Maker:
    """Return what makes an image of our stand-in for Loki, which runs on the Python of this service's image."""

    def make(reference: Reference) -> None:
        build("loki", reference, IMAGES.parent, service_image, service=f"docker-image://{service_image}")

    return make


# What makes the image of each name. A service that asks for another name is left out.
MAKERS: Mapping[str, Maker] = {
    "gcr.io/cadvisor/cadvisor": component("cadvisor"),
    "ghcr.io/google/cadvisor": component("cadvisor"),
    "ghcr.io/shopify/toxiproxy": component("toxiproxy"),
    # The newest that can be had as a module. Its successors are published under a path that Go refuses for them.
    "jaegertracing/jaeger": component("jaeger", stands_for="2.20.0"),
    "otel/opentelemetry-collector-contrib": component("otel-collector"),
    "postgres": postgresql,
    "prom/alertmanager": component("alertmanager"),
    "prom/prometheus": component("prometheus"),
}


def prepare(compose: Path, override: Path, makers: Mapping[str, Maker] = MAKERS) -> frozenset[str]:
    """Make the images of a compose file that cannot be pulled, and write the file that is to be given after it.

    Args:
        compose: the rendered `docker-compose.yml`.
        override: the file to write. In it, services without a stand-in are in a profile that nobody starts, and no
            other service waits for them.
        makers: what makes the image of each name: `MAKERS`, and what a test adds.

    Returns:
        The services that are left out.
    """
    needs.demand(needs.engine(), "Container engine")
    described = run("docker", "compose", f"--file={compose}", "--profile=*", "config", "--format=json")
    services: Mapping[str, Mapping[str, Any]] = json.loads(described)["services"]
    built = {service["image"] for service in services.values() if "build" in service and "image" in service}
    changes: dict[str, dict[str, Any]] = {name: {} for name in services}
    absent = set()
    for name, service in services.items():
        if "build" in service or service["image"] in built or is_pulled(service["image"]):
            continue
        reference = Reference.parse(service["image"])
        if maker := makers.get(reference.repository):
            maker(reference)
            changes[name] |= {"image": str(reference), "pull_policy": "never"}
        else:
            absent.add(name)
            changes[name] |= {"profiles": Instead(["left-out"])}
    for name, service in services.items():
        waits = service.get("depends_on", {})
        if absent & waits.keys():
            changes[name] |= {"depends_on": Instead({other: waits[other] for other in waits.keys() - absent})}
    override.write_text(yaml.dump({"services": {name: change for name, change in changes.items() if change}}))
    return frozenset(absent)


@dataclass(frozen=True)
class Instead:
    """A value that Compose takes in place of the one in the first file, where it would merge the two."""

    value: Any


def _instead(dumper: yaml.Dumper, instead: Instead) -> yaml.Node:
    node = dumper.represent_data(instead.value)
    node.tag = "!override"
    return node


yaml.add_representer(Instead, _instead)


def is_upstream(image: str) -> bool:
    """Whether the image that bears this name here is no stand-in of ours."""
    return LABEL not in (json.loads(run("docker", "image", "inspect", image))[0]["Config"]["Labels"] or {})


def is_pulled(image: str) -> bool:
    """Whether the upstream image is here now."""
    return subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False).returncode == 0


def build(target: str, reference: Reference, context: Path, made_of: str, **contexts: str | Path) -> None:
    """Build a target of the Dockerfile under this name, unless the image that bears it was made of the same."""
    needs.demand(needs.engine(), "Container engine")
    needs.demand(needs.debian(), "Debian's tools")
    files = (needs.BUSYBOX, *sorted(IMAGES.iterdir()))
    label = digest(made_of.encode(), *(path.read_bytes() for path in files))
    found = subprocess.run(["docker", "image", "inspect", str(reference)], capture_output=True, check=False)
    # Without our label it is the upstream image, which is better than any stand-in.
    if any((image["Config"]["Labels"] or {}).get(LABEL, label) == label for image in json.loads(found.stdout)):
        return
    contexts |= {"images": IMAGES, "busybox-static": needs.BUSYBOX.resolve().parent}
    run(
        *("docker", "build", "--quiet", f"--file={IMAGES / 'Dockerfile'}", f"--target={target}"),
        *(f"--build-context={name}={path}" for name, path in contexts.items()),
        *(f"--tag={reference}", f"--label={LABEL}={label}", context),
    )


def digest(*parts: bytes) -> str:
    """What is another when one of the parts is."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def run(*command: str | Path) -> str:
    """Run a command, and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stderr[-5000:]}", pytrace=False)
    return done.stdout
