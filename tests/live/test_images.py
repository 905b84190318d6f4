"""The container images of a service, built by its own commands and run as a strict cluster would."""

import gzip
import io
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bases
import pytest
from conftest import ROOT
from containers import HARDENED, Container, docker, inspect
from waiting import wait_for

pytestmark = pytest.mark.live

DATABASES = ("postgresql", "none")
USERS = {"production": "65532:65532", "standard": "1001:1001", "development": "1001:1001"}
PYTHON = {"production": "/usr/bin/python3.13", "standard": "python", "development": "python"}

# Millions of bytes on disk and compressed, at most.
BOUNDS = {"none": (75, 25), "postgresql": (105, 32)}

SECRET = "correct-horse-battery-staple"  # noqa: S105 - the one that must not be found
VERSION = "1.2.3-rc.1"

# What an embedded store needs; a service without one has no use for it.
STORE = {"postgresql": {"STORAGE_URL": "sqlite:////tmp/items.db"}, "none": {}}

# Nobody compares it with its source when it is loaded, so it must fit from the start. Runs in the image.
WRONG_BYTE_CODE = """
import importlib.util, pathlib
found = [path for root in ("/service", "/site", "/usr/lib") for path in pathlib.Path(root).rglob("*.pyc")]
print(len(found))
for path in found:
    source = pathlib.Path(importlib.util.source_from_cache(path)).read_bytes()
    expected = importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(source)
    if path.read_bytes()[:16] != expected:
        print(path)
for path in pathlib.Path("/service").rglob("*.py"):
    if not pathlib.Path(importlib.util.cache_from_source(path)).exists():
        print(path)
"""


class Image(NamedTuple):
    """An image, and what it was built from."""

    name: str
    flavour: str
    database: str
    project: Path

    def run(self, *flags: str, command: tuple[str, ...] = (), **environment: str) -> Container:
        """Start a container, hardened, and with a database of its own in memory."""
        variables = {"ENVIRONMENT": "development", "DRAIN_SECONDS": "0"} | STORE[self.database] | environment
        user = ("--user", USERS[self.flavour])
        return Container(self.name, *HARDENED, *user, *flags, command=command, **variables)


@pytest.fixture(scope="session")
def projects(cookies_session: Any, environment: dict[str, str]) -> dict[str, Path]:
    """Return a committed service for each kind of storage, each with a secret that nobody should have left there."""
    bases.require()
    found = {}
    for database in DATABASES:
        result = cookies_session.bake(extra_context={"database": database}, template=str(ROOT))
        project = found[database] = Path(result.project_path)
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=Begin"]):
            subprocess.run(["git", *command], cwd=project, env=environment, check=True)
        (project / ".env").write_text(f"TOKEN={SECRET}\n", encoding="utf-8")
        (project / "app" / "__pycache__").mkdir()
        (project / "app" / "__pycache__" / "main.cpython-311.pyc").write_text(SECRET, encoding="utf-8")
    return found


def build(project: Path, flavour: str, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Build an image by the service's own command, in an environment with a secret."""
    command = ["make", f"image-{flavour}", f"IMAGE={name}", f"VERSION={VERSION}", *flags]
    variables = os.environ | {"TOKEN": SECRET, "BUILDKIT_PROGRESS": "plain"}
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def images(projects: dict[str, Path]) -> Iterator[dict[tuple[str, str], Image]]:
    """Return each image of each service."""
    made = {}
    for database, project in projects.items():
        for flavour in USERS:
            name = f"test-images-{database}"
            done = build(project, flavour, name)
            assert done.returncode == 0, done.stderr[-5000:]
            assert re.search(rf"^{name}:{flavour}: \d+ MB on disk, \d+ MB compressed$", done.stdout, re.MULTILINE)
            made[database, flavour] = Image(f"{name}:{flavour}", flavour, database, project)
    yield made
    docker("image", "rm", "--force", *(image.name for image in made.values()))


@pytest.fixture(params=[(database, flavour) for database in DATABASES for flavour in USERS], ids="-".join)
def image(images: dict[tuple[str, str], Image], request: pytest.FixtureRequest) -> Image:
    """Return one of all images."""
    return images[request.param]


@pytest.fixture(params=DATABASES)
def production(images: dict[tuple[str, str], Image], request: pytest.FixtureRequest) -> Image:
    """Return one of the images for production."""
    return images[request.param, "production"]


@pytest.fixture
def development(images: dict[tuple[str, str], Image], tmp_path: Path) -> Iterator[tuple[Container, Path]]:
    """Return a container for development, and the source tree that is mounted in it."""
    image = images["postgresql", "development"]
    tree = tmp_path / "tree"
    shutil.copytree(image.project, tree)
    # It runs as whoever owns the tree, so that what tools write there is theirs.
    owner = f"{os.getuid()}:{os.getgid()}"
    with Container(
        image.name,
        *HARDENED,
        "--memory",
        "512m",
        "--memory-swap",
        "512m",
        "--user",
        owner,
        "--volume",
        f"{tree}:/service",
    ) as container:
        yield container.healthy(), tree


def saved(name: str) -> bytes:
    """The whole image, as it leaves the machine."""
    return subprocess.run(["docker", "image", "save", name], capture_output=True, check=True).stdout


def file_system(name: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """What a container of the image sees, with what is in it."""
    container = docker("create", name).stdout.strip()
    try:
        exported = subprocess.run(["docker", "export", container], capture_output=True, check=True).stdout
    finally:
        docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            yield member, content.read() if content else b""


def test_it_serves_without_rights_and_becomes_healthy(image: Image) -> None:
    with image.run() as container:
        container.healthy()

        assert container.get("/api/v1/items")[0] == 200
        assert json.loads(container.get("/")[1])["version"] == VERSION
        assert f'version="{VERSION}"' in container.get("/metrics", port=9000)[1]


@pytest.mark.parametrize("flavour", ["production", "standard"])
@pytest.mark.parametrize("database", DATABASES)
def test_it_logs_json_drains_and_leaves_cleanly(
    images: dict[tuple[str, str], Image], database: str, flavour: str
) -> None:
    with images[database, flavour].run(DRAIN_SECONDS="2") as container:
        container.healthy()
        docker("kill", "--signal", "TERM", container.id)
        wait_for(lambda: container.get("/health/ready")[0] == 503, container.logs, 2)

        assert container.get("/api/v1/items")[0] == 200
        assert container.run(PYTHON[flavour], "-m", "app", "health").returncode == 1
        assert container.exit_code() == 0
        lines = [json.loads(line) for line in container.logs().splitlines()]
        assert {"Shutting down", "request"} <= {line["event"] for line in lines}


def test_docker_stops_it_within_its_grace(image: Image) -> None:
    with image.run() as container:
        container.healthy()
        docker("stop", "--time", "20", container.id)

        assert container.exit_code() == 0


def test_it_cannot_write_what_it_runs(image: Image) -> None:
    code = (
        "import os, sys\n"
        "for path in ('/service/app/main.py', '/service', '/site', '/usr/bin'):\n"
        "    assert os.path.exists(path), path\n"
        "    assert not os.access(path, os.W_OK), path\n"
    )
    # The root file system is writable here: only its owners and modes protect it.
    done = docker("run", "--rm", "--entrypoint", PYTHON[image.flavour], image.name, "-c", code, check=False)

    assert done.returncode == 0, done.stderr


def test_it_says_what_it_is(image: Image) -> None:
    config = inspect("image", image.name)["Config"]
    revision, epoch = subprocess.run(
        ["git", "log", "-1", "--format=%H %ct"], cwd=image.project, capture_output=True, text=True, check=True
    ).stdout.split()
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}

    assert config["User"] == USERS[image.flavour]
    assert labels["version"] == VERSION
    assert labels["revision"] == revision
    assert labels["created"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch)))
    assert {"title", "description", "source", "licenses"} <= labels.keys()
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert "StopSignal" not in config


def test_it_holds_no_secret_of_whoever_built_it(image: Image) -> None:
    assert SECRET not in docker("image", "history", "--no-trunc", image.name).stdout
    assert SECRET not in json.dumps(inspect("image", image.name))
    # Layers that a later one covers are in it too.
    assert SECRET.encode() not in saved(image.name)


@pytest.mark.parametrize("flavour", ["production", "standard"])
@pytest.mark.parametrize("database", DATABASES)
def test_nothing_in_it_gives_another_users_rights(
    images: dict[tuple[str, str], Image], database: str, flavour: str
) -> None:
    members = [member for member, _ in file_system(images[database, flavour].name)]

    assert len(members) > 1000
    assert [member.name for member in members if member.isfile() and member.mode & (stat.S_ISUID | stat.S_ISGID)] == []


def test_the_production_image_holds_what_runs_and_nothing_else(production: Image) -> None:
    names = [member.name for member, _ in file_system(production.name) if member.isfile()]
    unwanted = re.compile(
        r"(^|/)(pip|setuptools|ensurepip|tests?|\.git|\.cache)/"
        r"|(^|/)(sh|bash|dash|busybox|apt|dpkg|pip[0-9.]*|\.env)$"
        r"|^site/bin/|^(tmp|root|var/cache|var/log)/."
    )

    assert "service/app/main.py" in names
    assert any("migrations" in name for name in names) is (production.database == "postgresql")
    assert [name for name in names if unwanted.search(name)] == []


def test_the_byte_code_in_the_production_image_is_that_of_its_sources(production: Image) -> None:
    done = docker("run", "--rm", "--entrypoint", PYTHON["production"], production.name, "-c", WRONG_BYTE_CODE)

    checked, *wrong = done.stdout.splitlines()
    assert int(checked) > 500
    assert wrong == []


@pytest.mark.parametrize("command", ["serve", "health", "settings"])
def test_nothing_is_left_to_compile_when_the_production_image_starts(production: Image, command: str) -> None:
    with production.run("--entrypoint", PYTHON["production"], command=("-v", "-m", "app", command)) as container:
        if command == "serve":
            container.healthy()
        docker("stop", container.id)
        loaded = re.findall(r"^# code object from '?(.+?)'?$", container.logs(), re.MULTILINE)

    assert any(name.endswith(".pyc") for name in loaded)
    assert [name for name in loaded if not name.endswith(".pyc")] == []


def test_the_production_image_has_no_shell(production: Image) -> None:
    with production.run() as container:
        for shell in ("sh", "bash", "/bin/sh", "/bin/busybox"):
            assert container.run(shell, "-c", "true").returncode in {126, 127}


def test_the_production_image_is_small(production: Image) -> None:
    on_disk = inspect("image", production.name)["Size"] / 1e6
    compressed = len(gzip.compress(saved(production.name), 6)) / 1e6
    base = inspect("image", bases.DISTROLESS)["Size"] / 1e6

    most_on_disk, most_compressed = BOUNDS[production.database]
    assert (on_disk <= most_on_disk, compressed <= most_compressed) == (True, True), (on_disk, compressed, base)


def test_the_same_commit_makes_the_same_production_image(production: Image, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(production.project, elsewhere, copy_function=shutil.copy)
    for path in (elsewhere / "app").rglob("*.py"):
        path.chmod(0o664)
    name = f"test-images-again-{production.database}"
    try:
        ids = []
        for _ in range(2):
            done = build(elsewhere, "production", name, "IMAGE_FLAGS=--no-cache")
            assert done.returncode == 0, done.stderr[-5000:]
            ids.append(inspect("image", f"{name}:production")["Id"])
        assert ids == [inspect("image", production.name)["Id"]] * 2
    finally:
        docker("image", "rm", "--force", f"{name}:production", check=False)


def test_a_service_that_does_not_start_is_no_production_image(production: Image, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(production.project, broken)
    with (broken / "app" / "main.py").open("a", encoding="utf-8") as module:
        module.write("\nraise RuntimeError('this cannot start')\n")

    done = build(broken, "production", "test-images-broken")

    assert done.returncode != 0
    assert "this cannot start" in done.stderr


@pytest.mark.parametrize("flavour", ["production", "standard"])
def test_it_migrates(images: dict[tuple[str, str], Image], flavour: str) -> None:
    with images["postgresql", flavour].run(command=("migrate",)) as container:
        assert container.exit_code() == 0
        assert {"schema migrated", "the schema is up to date"} <= {
            json.loads(line)["event"] for line in container.logs().splitlines()
        }


def test_without_a_database_production_says_what_is_missing(images: dict[tuple[str, str], Image]) -> None:
    done = docker("run", "--rm", images["postgresql", "production"].name, check=False)

    assert done.returncode == 2
    assert "STORAGE_URL: required in production" in done.stderr


def test_the_standard_image_has_a_shell_and_tools_but_no_pip(images: dict[tuple[str, str], Image]) -> None:
    with images["postgresql", "standard"].run() as container:
        container.healthy()
        for command in (
            "curl --fail --silent http://127.0.0.1:8000/health/ready",
            "ss --listening --tcp --numeric | grep --quiet :8000",
            "ps -o comm= -p 1 | grep --quiet python",
            "timeout 5 strace -c true",
            "! command -v pip",
            "! python -c 'import pip' 2>&-",
        ):
            done = container.run("bash", "-c", command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_a_save_restarts_the_development_container(development: tuple[Container, Path]) -> None:
    container, tree = development
    facts = tree / "app" / "service.toml"

    facts.write_text(facts.read_text(encoding="utf-8").replace('title = "SRE Demo API"', 'title = "Saved"'), "utf-8")

    wait_for(lambda: '"title":"Saved"' in container.get("/openapi.json")[1], container.logs, 20)
    assert container.state()["Running"]


def test_a_debugger_can_attach_to_the_development_container(development: tuple[Container, Path]) -> None:
    container, _ = development
    message = json.dumps(
        {"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "test"}}
    ).encode()
    with socket.create_connection(("127.0.0.1", container.port(5678)), timeout=10) as connection:
        connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(message), message))
        answer = b""
        while b'"command": "initialize"' not in answer:
            part = connection.recv(65536)
            assert part, answer
            answer += part

    assert b'"success": true' in answer


def test_the_services_tests_run_in_the_development_container(development: tuple[Container, Path]) -> None:
    container, _ = development

    done = container.run("python", "-m", "pytest", "-q", "tests/unit/test_probe.py", "tests/contract/test_facts.py")

    assert done.returncode == 0, done.stdout
