"""The stand-ins for upstream images: each runs as upstream's user, with nothing to write to but what it is given."""

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import components
import pytest
import standins
import yaml
from standins import Reference, run

pytestmark = pytest.mark.live

PATIENCE = 60
NOBODY = "65534"
Start = Callable[..., str]

PROMETHEUS = Reference("prom/prometheus", f"v{components.release('prometheus')}")
ALERTMANAGER = Reference("prom/alertmanager", f"v{components.release('alertmanager')}")
COLLECTOR = Reference("otel/opentelemetry-collector-contrib", components.release("otel-collector"))
JAEGER = Reference("jaegertracing/jaeger", components.release("jaeger"))
CADVISOR = Reference("ghcr.io/google/cadvisor", components.release("cadvisor"))
POSTGRES = Reference("postgres", "17-trixie")

ROUTES = """
route: {receiver: none}
receivers: [{name: none}]
"""
TELEMETRY = """
extensions: {health_check: {endpoint: 0.0.0.0:13133}}
receivers: {otlp: {protocols: {http: {}}}, fluent_forward: {endpoint: 0.0.0.0:8006}}
processors: {memory_limiter: {check_interval: 1s, limit_mib: 100}, transform: {}, groupbyattrs: {}, batch: {}}
exporters: {otlp_http: {endpoint: "http://localhost:9"}}
service:
  extensions: [health_check]
  telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888}}}}]}}
  pipelines:
    logs: {receivers: [fluent_forward], processors: [memory_limiter, transform, groupbyattrs], exporters: [otlp_http]}
    traces: {receivers: [otlp], processors: [memory_limiter, batch], exporters: [otlp_http]}
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts the image of a service, hardened, with these options of `docker run`."""
    names = []

    def start(reference: Reference, *options: str, command: tuple[str, ...] = ()) -> str:
        standins.MAKERS[reference.repository](reference)
        names.append(f"stand-in-{uuid.uuid4().hex[:12]}")
        hardened = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m")
        run("docker", "run", "--detach", f"--name={names[-1]}", *hardened, *options, str(reference), *command)
        return names[-1]

    yield start
    for name in names:
        run("docker", "rm", "--force", "--volumes", name)


def config(folder: Path, text: str, target: str) -> str:
    """The option that mounts this text, readable by every user."""
    folder.chmod(0o755)
    path = folder / "config"
    path.write_text(text, encoding="utf-8")
    return f"--volume={path}:{target}:ro"


def succeeds(name: str, *command: str) -> None:
    """Wait until a command in the container ends well."""
    deadline = time.monotonic() + PATIENCE
    while (done := subprocess.run(["docker", "exec", name, *command], capture_output=True, check=False)).returncode:
        if time.monotonic() > deadline:
            pytest.fail(f"{command}: {done.stderr.decode()}\n{run('docker', 'logs', name)}", pytrace=False)
        time.sleep(0.2)


def user(name: str) -> str:
    """The numeric user of the container's first process, as the kernel has it."""
    process = run("docker", "inspect", "--format={{.State.Pid}}", name).strip()
    (uid,) = (line.split()[1] for line in Path(f"/proc/{process}/status").read_text().splitlines() if "Uid:" in line)
    return uid


def test_prometheus_runs_as_nobody_and_its_promtool_says_that_it_is_ready(start: Start, tmp_path: Path) -> None:
    name = start(PROMETHEUS, config(tmp_path, "global: {scrape_interval: 1s}", "/etc/prometheus/prometheus.yml"))

    succeeds(name, "/bin/promtool", "check", "ready", "--url=http://localhost:9090")

    assert user(name) == NOBODY


def test_alertmanager_runs_as_nobody_and_answers_both_amtool_and_wget(start: Start, tmp_path: Path) -> None:
    name = start(ALERTMANAGER, config(tmp_path, ROUTES, "/etc/alertmanager/alertmanager.yml"))

    succeeds(name, "wget", "-q", "--spider", "http://localhost:9093/-/ready")
    succeeds(name, "/bin/amtool", "--alertmanager.url=http://localhost:9093", "cluster", "show")

    assert user(name) == NOBODY


def test_the_collector_runs_as_10001_and_serves_its_health_and_its_own_metrics(start: Start, tmp_path: Path) -> None:
    mounted = config(tmp_path, TELEMETRY, "/etc/otelcol-contrib/config.yaml")
    name = start(COLLECTOR, mounted)
    # Nothing in the image could ask: a neighbour does.
    neighbour = start(PROMETHEUS, f"--network=container:{name}", "--entrypoint=sleep", command=("600",))

    succeeds(neighbour, "wget", "-q", "--spider", "http://localhost:13133/")
    succeeds(neighbour, "sh", "-c", "wget -q -O - http://localhost:8888/metrics | grep -q ^otelcol_process_uptime")

    assert user(name) == "10001"
    run("docker", "exec", name, "/otelcol-contrib", "validate", "--config=/etc/otelcol-contrib/config.yaml")
    assert subprocess.run(
        ["docker", "exec", name, "/bin/sh", "-c", "true"], capture_output=True, check=False
    ).returncode


def test_jaeger_runs_as_10001_and_its_shell_asks_for_its_health(start: Start) -> None:
    name = start(JAEGER)

    succeeds(name, "wget", "-q", "--spider", "http://localhost:13133/status")
    succeeds(name, "sh", "-c", "wget -q -O - http://localhost:16686/api/services | grep -q data")

    assert user(name) == "10001"


def test_cadvisor_serves_the_memory_of_this_container_and_is_healthy(start: Start) -> None:
    name = start(
        CADVISOR,
        *("--volume=/sys:/sys:ro", "--volume=/:/rootfs:ro", "--health-interval=1s"),
        command=("--housekeeping_interval=1s", "--docker_only=false", "--store_container_labels=false", "--port=8081"),
    )
    own = run("docker", "inspect", "--format={{.Id}}", name).strip()

    ask = f"wget -q -O - http://localhost:8081/metrics | grep -q 'container_memory_usage_bytes.*{own}'"
    succeeds(name, "sh", "-c", ask)
    succeeds(name, "/usr/bin/healthcheck.sh")


@pytest.mark.parametrize("options", [(), ("--user=999:999", "--tmpfs=/var/run/postgresql:uid=999,gid=999")])
def test_postgresql_makes_the_role_and_the_database_and_asks_other_hosts_for_the_password(
    start: Start, options: tuple[str, ...]
) -> None:
    capabilities = ("--cap-add=CHOWN", "--cap-add=FOWNER", "--cap-add=SETUID", "--cap-add=SETGID")
    asked = {"POSTGRES_USER": "me", "POSTGRES_PASSWORD": "it's a secret", "POSTGRES_DB": "items"}
    name = start(
        POSTGRES,
        *("--tmpfs=/tmp", *(options or ("--tmpfs=/var/run/postgresql", *capabilities))),
        *(f"--env={key}={value}" for key, value in asked.items()),
    )
    succeeds(name, "pg_isready", "--host=localhost", "--username=me", "--dbname=items")
    address = run("docker", "inspect", "--format={{.NetworkSettings.IPAddress}}", name).strip()

    def ask(password: str) -> subprocess.CompletedProcess[str]:
        query = ("psql", f"--host={address}", "--username=me", "--dbname=items", "--tuples-only", "--command=SELECT 42")
        command = ["docker", "exec", f"--env=PGPASSWORD={password}", name, *query]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert ask("it's a secret").stdout.strip() == "42"
    assert "password authentication failed" in ask("wrong").stderr
    assert user(name) == "999"


COMPOSE = """
services:
  app: {build: ., depends_on: {postgres: {condition: service_healthy}, pages: {condition: service_started}}}
  postgres: {image: "docker.io/library/postgres:17-trixie@sha256:%s", profiles: [storage]}
  pages: {image: "example/pages:1.2.3", profiles: [pages]}
"""


def test_a_pinned_image_is_taken_by_its_tag_and_what_has_no_stand_in_is_left_out(tmp_path: Path) -> None:
    compose, override = tmp_path / "docker-compose.yml", tmp_path / "override.yml"
    compose.write_text(COMPOSE % ("0" * 64), encoding="utf-8")

    assert standins.prepare(compose, override) == {"pages"}

    files = (f"--file={compose}", f"--file={override}")
    merged = yaml.safe_load(run("docker", "compose", *files, "--profile=pages", "--profile=storage", "config"))
    assert set(merged["services"]) == {"app", "postgres"}
    assert set(merged["services"]["app"]["depends_on"]) == {"postgres"}
    assert merged["services"]["postgres"]["image"] == str(POSTGRES)
    assert merged["services"]["postgres"]["pull_policy"] == "never"


@pytest.mark.parametrize("image", ["prom/prometheus:v3.13.5", "postgres:16", "prom/alertmanager"])
def test_another_release_than_the_pinned_one_is_refused(image: str) -> None:
    reference = Reference.parse(image)

    with pytest.raises(pytest.fail.Exception, match=str(reference)):
        standins.MAKERS[reference.repository](reference)


def test_an_upstream_image_is_kept(tmp_path: Path) -> None:
    reference = Reference("stand-in-test", uuid.uuid4().hex[:12])
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL upstream=yes\n", encoding="utf-8")
    run("docker", "build", "--quiet", f"--tag={reference}", tmp_path)
    try:
        before = run("docker", "inspect", "--format={{.Id}}", str(reference))

        standins.build("postgres", reference, tmp_path, "anything")

        assert run("docker", "inspect", "--format={{.Id}}", str(reference)) == before
    finally:
        run("docker", "rmi", str(reference))
