"""What becomes of an image after its build: listed, pushed, signed, attested, and refused where that is not so.

By the service's own targets, with the real cosign and Syft, in a registry of the tests' own. Signed by a key, as from
Jenkins; an identity would need Sigstore, and a pipeline that has one.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bases
import components
import pytest
from conftest import ROOT
from containers import docker
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from services import environment_of, make
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from demo.ports import available

pytestmark = pytest.mark.live

IMAGE = "test-supply-chain"
PASSWORD = "of a key of this test"  # noqa: S105 - it opens nothing else


@dataclass(frozen=True)
class Key:
    """A pair of keys, as a pipeline holds them: in variables of two stages that do not see each other's."""

    private: str
    public: str

    @property
    def signs(self) -> dict[str, str]:
        """The variables of who signs."""
        variables = {"COSIGN_KEY": "env://COSIGN_PRIVATE_KEY", "COSIGN_PASSWORD": PASSWORD}
        return variables | {"COSIGN_PRIVATE_KEY": self.private}

    @property
    def verifies(self) -> dict[str, str]:
        """The variables of who verifies."""
        return {"COSIGN_TRUSTED_KEY": "env://COSIGN_PUBLIC_KEY", "COSIGN_PUBLIC_KEY": self.public}


@dataclass(frozen=True)
class Pipeline:
    """A service, and a repository of the registry that its image goes to."""

    project: Path
    environment: dict[str, str]
    tools: Path
    repository: str
    ours: Key
    another: Key

    def run(self, *words: str, key: Key | None = None) -> subprocess.CompletedProcess[str]:
        """Run a target, as a stage of the pipeline does: one signs, one verifies, and no other sees a key."""
        known = key or self.ours
        variables = {"sign": known.signs, "attest": known.signs, "verify": known.verifies}.get(words[0], {})
        venv = environment_of(self.project)
        command = ["make", "--assume-old=requirements.txt", f"VENV={venv}", f"IMAGE={IMAGE}"]
        command += [f"IMAGE_REPOSITORY={self.repository}"]
        command += [f"COSIGN={self.tools / 'cosign'}", f"SYFT={self.tools / 'syft'}", *words]
        environment = self.environment | variables
        return subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, check=False)

    def do(self, *words: str, key: Key | None = None) -> str:
        """Run a target that has to succeed; return what it printed."""
        done = self.run(*words, key=key)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        # It tells when it asked Sigstore in vain, and signs nevertheless.
        assert "tuf" not in done.stderr.lower()
        return done.stdout

    def git(self, *words: str) -> str:
        """Run git in the service."""
        command = ["git", *words]
        done = subprocess.run(
            command, cwd=self.project, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def cosign(self, *words: str, **variables: str) -> str:
        """Run cosign itself on the image that was pushed; return what it printed."""
        digest = (self.project / "reports" / "digest").read_text(encoding="utf-8").strip()
        command = [str(self.tools / "cosign"), *words, f"{self.repository}@{digest}"]
        environment = self.environment | variables
        done = subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def elsewhere(self, name: str) -> "Pipeline":
        """The same with another repository, which nothing was pushed to."""
        host = self.repository.partition("/")[0]
        return replace(self, repository=f"{host}/{name.replace(' ', '-')}")


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder with cosign, Syft and the registry."""
    return components.build("supply-chain")


@pytest.fixture(scope="module")
def registry(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on the loopback, where engine and cosign ask for no certificate; its address."""
    log = tmp_path_factory.mktemp("registry") / "log"
    command = [str(tools / "crane"), "registry", "serve", "--address", "127.0.0.1:0"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            while not (port := re.search(r"serving on port (\d+)", log.read_text(encoding="utf-8"))):
                assert process.poll() is None, log.read_text(encoding="utf-8")
            yield f"127.0.0.1:{port[1]}"
        finally:
            process.terminate()


def key(tools: Path, folder: Path) -> Key:
    """A new pair of keys, made as the README of Jenkins says."""
    folder.mkdir()
    variables = os.environ | {"COSIGN_PASSWORD": PASSWORD}
    subprocess.run([tools / "cosign", "generate-key-pair"], cwd=folder, env=variables, capture_output=True, check=True)
    return Key(*((folder / name).read_text(encoding="utf-8") for name in ("cosign.key", "cosign.pub")))


@pytest.fixture(scope="module")
def pipeline(
    cookies_session: Any,
    environment: dict[str, str],
    tools: Path,
    registry: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pipeline]:
    """A committed service of the default answers whose image is built and listed, and nothing more."""
    bases.require()
    keys = tmp_path_factory.mktemp("keys")
    project = Path(cookies_session.bake(template=str(ROOT)).project_path)
    make(project)
    ours, another = (key(tools, keys / name) for name in ("ours", "another"))
    made = Pipeline(project, environment, tools, f"{registry}/untouched", ours, another)
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message=Begin")
    made.do("image")
    made.do("sbom")
    yield made
    names = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    ours_only = [name for name in names if name.startswith((f"{IMAGE}:", f"{registry}/"))]
    docker("image", "rm", "--force", *ours_only)


@pytest.fixture(scope="module")
def released(pipeline: Pipeline) -> Pipeline:
    """The same with a repository whose image was pushed, signed and attested."""
    released = pipeline.elsewhere("released")
    for target in ("push", "sign", "attest"):
        released.do(target)
    return released


@pytest.mark.parametrize("tool", ["cosign", "syft"])
def test_the_tool_is_the_one_that_services_pin(tool: str, pipeline: Pipeline) -> None:
    module = {"cosign": "github.com/sigstore/cosign/v3", "syft": "github.com/anchore/syft"}[tool]
    makefile = (pipeline.project / "Makefile").read_text(encoding="utf-8")

    assert f"/{tool}:{components.version('supply-chain', module)}@" in makefile


def test_what_was_pushed_signed_and_attested_is_accepted(released: Pipeline) -> None:
    digest = released.do("digest").strip()

    said = released.do("verify")

    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    assert f"{released.repository}@{digest}" in said
    assert released.git("rev-parse", "HEAD") in said


def test_a_pipeline_that_ran_twice_is_accepted(released: Pipeline) -> None:
    for target in ("push", "sign", "attest"):
        released.do(target)

    released.do("verify")


def test_the_registry_gives_the_very_image_that_was_built(released: Pipeline) -> None:
    digest = released.do("digest").strip()

    docker("pull", "--quiet", f"{released.repository}@{digest}")

    images = (f"{released.repository}@{digest}", f"{IMAGE}:production")
    assert len({docker("image", "inspect", "--format", "{{.Id}}", image).stdout for image in images}) == 1


def locked(project: Path, package: str) -> str:
    """The version of a package that the image is built with."""
    lock = (project / "requirements-prod.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==(\S+)", lock, re.MULTILINE)
    assert found
    return found[1]


def test_the_cyclonedx_list_is_valid_and_names_what_is_locked(pipeline: Pipeline) -> None:
    text = (pipeline.project / "reports" / "sbom.cdx.json").read_text(encoding="utf-8")
    listed = json.loads(text)
    packages = {(part["name"], part.get("version")) for part in listed["components"]}

    assert JsonStrictValidator(SchemaVersion.from_version(listed["specVersion"])).validate_str(text) is None
    assert {(name, locked(pipeline.project, name)) for name in ("fastapi", "uvicorn")} <= packages


def test_the_spdx_list_is_valid_and_names_what_is_locked(pipeline: Pipeline) -> None:
    document = parse_file(str(pipeline.project / "reports" / "sbom.spdx.json"))
    packages = {(package.name, package.version) for package in document.packages}

    assert [problem.validation_message for problem in validate_full_spdx_document(document)] == []
    assert {(name, locked(pipeline.project, name)) for name in ("fastapi", "uvicorn")} <= packages


def attested(pipeline: Pipeline, kind: str) -> list[dict[str, Any]]:
    """What is said of the image in the registry, by statements that our key signed."""
    public = {"COSIGN_PUBLIC_KEY": pipeline.ours.public}
    flags = ("--insecure-ignore-tlog", "--key=env://COSIGN_PUBLIC_KEY")
    lines = pipeline.cosign("verify-attestation", f"--type={kind}", *flags, **public).splitlines()
    return [json.loads(base64.b64decode(json.loads(line)["payload"]))["predicate"] for line in lines]


def test_the_list_in_the_registry_is_the_one_that_was_made(released: Pipeline) -> None:
    made = json.loads((released.project / "reports" / "sbom.cdx.json").read_text(encoding="utf-8"))

    assert made in attested(released, "cyclonedx")


def test_the_provenance_names_the_commit_and_the_lock(released: Pipeline) -> None:
    lock = hashlib.sha256((released.project / "requirements-prod.txt").read_bytes()).hexdigest()

    made_of = attested(released, "slsaprovenance1")[0]["buildDefinition"]["resolvedDependencies"]

    assert [source["digest"] for source in made_of] == [
        {"gitCommit": released.git("rev-parse", "HEAD")},
        {"sha256": lock},
    ]


@pytest.fixture(scope="module")
def images(tools: Path) -> Iterator[dict[str, str]]:
    """The programs as images, made as their makers do: from nothing, with a /tmp that is root's."""
    made = {program: f"{IMAGE}-{program}" for program in ("cosign", "syft")}
    for program, image in made.items():
        recipe = f'FROM scratch\nWORKDIR /tmp\nCOPY {program} /\nENTRYPOINT ["/{program}"]\n'
        command = ["docker", "buildx", "build", "--load", "--quiet", "--tag", image, "--file=-", str(tools)]
        subprocess.run(command, input=recipe, text=True, capture_output=True, check=True)
    yield made
    docker("image", "rm", "--force", *made.values())


def in_container(pipeline: Pipeline, variable: str, image: str) -> str:
    """How the Makefile runs a program in its container, with another image, which reaches the registry of the test."""
    makefile = (pipeline.project / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{variable} \?= ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert found
    return f"{found[1].replace(chr(92), ' ').replace(chr(10), ' ').rpartition(' ')[0]} --network=host {image}"


def test_in_containers_a_user_who_is_not_root_does_the_same(pipeline: Pipeline, images: dict[str, str]) -> None:
    mine = pipeline.elsewhere("in containers")
    programs = [f"{name}={in_container(mine, name, images[name.lower()])}" for name in ("COSIGN", "SYFT")]
    reports, cache = mine.project / "reports", mine.project / ".cache"
    for folder in (reports, cache):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    for report in reports.iterdir():
        report.chmod(0o666)
    for name in ("signing-config.json", "trusted-root.json"):
        (cache / name).unlink(missing_ok=True)

    for target in ("sbom", "push", "sign", "attest", "verify"):
        mine.do(target, "CONTAINER_USER=1234:1234", *programs)

    assert {(cache / "signing-config.json").stat().st_uid, (reports / "sbom.spdx.json").stat().st_uid} >= {1234}


@contextmanager
def next_commit(pipeline: Pipeline) -> Iterator[None]:
    """While it lasts, the tree is of a commit that nothing was built from."""
    pipeline.git("commit", "--quiet", "--allow-empty", "--message=Next")
    try:
        yield
    finally:
        pipeline.git("reset", "--quiet", "--hard", "HEAD~1")


@contextmanager
def changed(file: Path, was: str, becomes: str) -> Iterator[None]:
    """While it lasts, a file says something else."""
    text = file.read_text(encoding="utf-8")
    assert was in text
    file.write_text(text.replace(was, becomes), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")


def nothing(pipeline: Pipeline) -> None:
    """Only push."""


def by_another_key(pipeline: Pipeline) -> None:
    """All that has to be signed is signed, by somebody else."""
    for target in ("sign", "attest"):
        pipeline.do(target, key=pipeline.another)


def signature_alone(pipeline: Pipeline) -> None:
    """Nothing is said of the image."""
    pipeline.do("sign")


def attested_by_another_key(pipeline: Pipeline) -> None:
    """What is said of the image, somebody else says."""
    pipeline.do("sign")
    pipeline.do("attest", key=pipeline.another)


def list_alone(pipeline: Pipeline) -> None:
    """Nothing is said of where the image is from."""
    pipeline.do("sign")
    flags = ("--signing-config=.cache/signing-config.json", "--trusted-root=.cache/trusted-root.json", "--yes")
    what = ("--type=cyclonedx", "--predicate=reports/sbom.cdx.json", "--key=env://COSIGN_PRIVATE_KEY")
    pipeline.cosign("attest", *flags, *what, **pipeline.ours.signs)


def of_another_commit(pipeline: Pipeline) -> None:
    """It is signed, and said to be of a commit that it is not asked for."""
    pipeline.do("sign")
    with next_commit(pipeline):
        pipeline.do("attest")


def of_another_repository(pipeline: Pipeline) -> None:
    """It is signed, and said to be of a fork."""
    pipeline.do("sign")
    with changed(pipeline.project / "app" / "service.toml", "https://github.com/", "https://github.com/fork-of-"):
        pipeline.do("attest")


@pytest.mark.parametrize(
    ("happened", "told"),
    [
        (nothing, "no signature by whom we trust could be verified"),
        (by_another_key, "no signature by whom we trust could be verified"),
        (signature_alone, "no SBOM by whom we trust could be verified"),
        (attested_by_another_key, "no SBOM by whom we trust could be verified"),
        (list_alone, "no provenance by whom we trust could be verified"),
        (of_another_commit, "and not of https://github.com/"),
        (of_another_repository, "the image is of https://github.com/fork-of-"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused(
    happened: Callable[[Pipeline], None], told: str, pipeline: Pipeline
) -> None:
    mine = pipeline.elsewhere(happened.__name__)
    mine.do("push")
    happened(mine)

    done = mine.run("verify")

    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if line.startswith("Refused: ") and told in line]) == 1
    assert "was signed" not in done.stdout


def test_a_digest_that_the_registry_does_not_have_is_refused(released: Pipeline) -> None:
    done = released.run("verify", f"DIGEST=sha256:{'0' * 64}")

    assert done.returncode != 0
    assert "Refused: no signature by whom we trust could be verified for 127.0.0.1" in done.stderr


@pytest.mark.parametrize("target", ["sign", "attest", "verify"])
@pytest.mark.parametrize("digest", ["", "latest", f"sha256:{'0' * 63}"])
def test_what_is_no_digest_is_not_asked_for(target: str, digest: str, released: Pipeline) -> None:
    done = released.run(target, f"DIGEST={digest}")

    assert done.returncode != 0
    assert "Which image? Run make push or make digest" in done.stderr


def test_a_commit_that_nothing_was_pushed_for_has_no_digest_of_another_one(released: Pipeline) -> None:
    assert released.do("digest")
    with next_commit(released):
        done, then = released.run("digest"), released.run("sign")

    assert done.returncode != 0
    assert re.search(rf"^{released.repository} has no image of commit [0-9a-f]{{40}}, or ", done.stderr, re.MULTILINE)
    assert then.returncode != 0
    assert "Which image?" in then.stderr


def test_an_image_of_another_commit_is_not_pushed(pipeline: Pipeline) -> None:
    mine = pipeline.elsewhere("older image")
    with next_commit(mine):
        done = mine.run("push")

    assert done.returncode != 0
    assert "run make image first" in done.stderr
    assert mine.run("digest").returncode != 0


def test_an_image_is_not_pushed_beside_changes_that_no_commit_has(pipeline: Pipeline) -> None:
    mine = pipeline.elsewhere("uncommitted")
    with changed(mine.project / "app" / "main.py", '"""', '"""Changed: '):
        done = mine.run("push")

    assert done.returncode != 0
    assert " M app/main.py\nAn image is pushed under the name of a commit, and these are in none" in done.stderr


def test_a_registry_that_does_not_answer_is_told_from_one_that_was_pushed_to(pipeline: Pipeline) -> None:
    nobody = replace(pipeline, repository=f"127.0.0.1:{available([0])[0]}/nobody")

    pushed, digest = nobody.run("push"), nobody.run("digest")

    assert pushed.returncode != 0
    assert "It was not pushed. If the registry does not know you: docker login 127.0.0.1:" in pushed.stderr
    assert digest.returncode != 0
    assert "has no image of commit" in digest.stderr


@pytest.mark.parametrize(
    ("target", "words", "told"),
    [
        ("sign", ["COSIGN_KEY="], "Who signs? Set COSIGN_KEY"),
        ("attest", ["COSIGN_KEY="], "Who signs? Set COSIGN_KEY"),
        ("sign", ["COSIGN_KEY=env://NO_SUCH_KEY"], "NO_SUCH_KEY"),
        ("verify", ["COSIGN_TRUSTED_KEY=env://NO_SUCH_KEY"], "NO_SUCH_KEY"),
        ("verify", ["COSIGN_TRUSTED_KEY=", "TRUSTED_IDENTITY="], "Whom to trust? Set COSIGN_TRUSTED_KEY"),
    ],
)
def test_without_a_key_it_is_told_which_is_missing(
    target: str, words: list[str], told: str, released: Pipeline
) -> None:
    released.do("digest")

    done = released.run(target, *words)

    assert done.returncode != 0
    assert told in done.stderr


def test_an_identity_is_asked_for_where_no_key_is_trusted(released: Pipeline) -> None:
    released.do("digest")

    done = released.run("verify", "COSIGN_TRUSTED_KEY=")

    assert done.returncode != 0
    # By cosign, which understood every word, and has nobody to ask or finds that it was a key that signed.
    assert "unknown flag" not in done.stderr
    assert "Refused: no signature by whom we trust could be verified" in done.stderr
