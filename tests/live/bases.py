"""The base images of a service: pulled where that is possible, else made alike from Debian's packages.

A stand-in has the interpreter, the paths, the user and the libraries of the real one, from the same packages. It holds
the certificates of this machine and must not leave it.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import needs
import pytest

SLIM = "python:3.13-slim-trixie"
DISTROLESS = "gcr.io/distroless/python3-debian13:nonroot"

RECIPE = "recipe"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

# What `python:3.13-slim-trixie` offers a Dockerfile: Python with pip, apt, certificates, time zones.
SLIM_PACKAGES = ("ca-certificates", "netbase", "python3.13", "python3.13-venv", "tzdata")

# What the distroless image is made of.
DISTROLESS_PACKAGES = (
    *("base-files", "libbz2-1.0", "libc6", "libcrypt1", "libdb5.3t64", "libexpat1", "libffi8", "libgcc-s1", "libgomp1"),
    *("liblzma5", "libncursesw6", "libpython3.13-minimal", "libpython3.13-stdlib", "libreadline8t64", "libsqlite3-0"),
    *("libssl3t64", "libstdc++6", "libtinfo6", "libuuid1", "libzstd1", "netbase", "python3.13-minimal", "tzdata"),
    "zlib1g",
)


def require() -> None:
    """Have both base images on this machine, under the names that a service's Dockerfiles use.

    A test that cannot have them fails, and says what is missing.
    """
    needs.demand(needs.engine(), "Container engine")
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    with _turn():
        missing = [image for image in (SLIM, DISTROLESS) if not _is_here(image, recipe) and not _pulled(image)]
        if missing:
            _check_tools()
            with tempfile.TemporaryDirectory(prefix="bases-") as folder:
                _make(Path(folder), missing, recipe)


@contextmanager
def _turn() -> Iterator[None]:
    """Let one process make them, while others wait for it and find them made."""
    with Path(tempfile.gettempdir(), "base-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _recipe_of(image: str) -> str:
    """The recipe that an image was made by; empty for one that was pulled, or is not here."""
    label = f'{{{{index .Config.Labels "{RECIPE}"}}}}'
    return _output("docker", "image", "inspect", "--format", label, image, check=False)


def _is_here(image: str, recipe: str) -> bool:
    """Whether the real image is here, or a stand-in of today's recipe."""
    here = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0
    return here and _recipe_of(image) in {"", recipe}


def _pulled(image: str) -> bool:
    """Whether the real one could be pulled."""
    return subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False).returncode == 0


def _check_tools() -> None:
    if os.geteuid() != 0 or sys.platform != "linux":
        said = f"{SLIM} and {DISTROLESS} cannot be pulled; to make stand-ins, run as root on Debian"
        pytest.fail(said, pytrace=False)
    if missing := [tool for tool in ("debootstrap", "dpkg-deb") if not shutil.which(tool)]:
        needed = f"apt-get install {' '.join(missing)}"
        pytest.fail(f"base images cannot be pulled, nor made without these: {needed}", pytrace=False)


def _make(folder: Path, images: list[str], recipe: str) -> None:
    """Make the stand-ins that are missing. The second is made with the tools of the first."""
    slim = folder / "slim"
    packages = ",".join(SLIM_PACKAGES)
    _run("debootstrap", "--variant=minbase", f"--include={packages}", "trixie", str(slim), _mirror())
    _run("chroot", str(slim), "python3.13", "-m", "venv", "/usr/local")
    shutil.copy(CERTIFICATES, slim / CERTIFICATES.relative_to("/"))
    if SLIM in images:
        for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(slim / name)
            (slim / name).mkdir()
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        _import(
            slim, SLIM, recipe, f"ENV {path} PIP_CERT={CERTIFICATES} SSL_CERT_FILE={CERTIFICATES}", 'CMD ["python3"]'
        )
    if DISTROLESS in images:
        bare = folder / "distroless"
        _unpack(slim, bare)
        _import(
            bare,
            DISTROLESS,
            recipe,
            f"ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE={CERTIFICATES}",
            "USER 65532",
            "WORKDIR /home/nonroot",
            'ENTRYPOINT ["/usr/bin/python3.13"]',
        )


def _unpack(slim: Path, bare: Path) -> None:
    """Lay the files of the packages, without installing them, into a root where `/usr` holds everything."""
    archives = slim / "archives"
    archives.mkdir()
    _run("chroot", str(slim), "apt-get", "-qq", "update")
    command = 'cd /archives && exec apt-get -qq download "$@"'
    # It would hand the download to a user of its own, who may not write there.
    sandbox = ("-o", "APT::Sandbox::User=root")
    _run("chroot", str(slim), "sh", "-c", command, "sh", *sandbox, *DISTROLESS_PACKAGES)
    for name in ("bin", "lib", "lib64", "sbin"):
        (bare / "usr" / name).mkdir(parents=True)
        (bare / name).symlink_to(f"usr/{name}")
    for archive in sorted(archives.glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as package:
            extract = ["tar", "-x", "--keep-directory-symlink", "-C", str(bare)]
            subprocess.run(extract, stdin=package.stdout, check=True)
    for name in ("doc", "man", "lintian", "bash-completion", "locale"):
        shutil.rmtree(bare / "usr/share" / name, ignore_errors=True)
    (bare / "usr/bin/python3").symlink_to("python3.13")
    (bare / "usr/bin/python").symlink_to("python3.13")
    (bare / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    shutil.copy(CERTIFICATES, bare / CERTIFICATES.relative_to("/"))
    users = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
    (bare / "etc/passwd").write_text(users, encoding="utf-8")
    (bare / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n", encoding="utf-8")
    home = bare / "home/nonroot"
    home.mkdir(parents=True)
    os.chown(home, 65532, 65532)
    _run("ldconfig", "-X", "-r", str(bare))
    shutil.rmtree(bare / "var/cache/ldconfig", ignore_errors=True)


def _mirror() -> str:
    """The mirror that this machine's own apt uses."""
    for path in sorted(Path("/etc/apt").glob("sources.list*")) + sorted(Path("/etc/apt/sources.list.d").glob("*")):
        if path.is_file() and (
            found := re.search(r"^(?:URIs:|deb)\s+(?:\[.*\]\s+)?(\S+/debian)/?(?:\s|$)", path.read_text(), re.MULTILINE)
        ):
            return found[1]
    pytest.fail("no Debian mirror stands in /etc/apt", pytrace=False)


def _import(root: Path, image: str, recipe: str, *changes: str) -> None:
    """Make an image of a root file system."""
    words = [word for change in (*changes, f"LABEL {RECIPE}={recipe}") for word in ("--change", change)]
    archive = ["tar", "-c", "--numeric-owner", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./archives"]
    with subprocess.Popen([*archive, "-C", str(root), "."], stdout=subprocess.PIPE) as content:
        subprocess.run(["docker", "import", *words, "-", image], stdin=content.stdout, check=True, capture_output=True)


def _run(*command: str) -> None:
    """Run a command; its output is the reason when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}", pytrace=False)


def _output(*command: str, check: bool = True) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout.strip()
