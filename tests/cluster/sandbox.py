"""A part of the machine for a cluster alone: processes, mounts and a network that nothing else sees.

One process is the first of its own namespaces. All others run in them, so its end is theirs, and the kernel takes back
the network, its rules and the mounts with them. What has no namespace is put back here: control groups and a few
settings of the kernel. Should the tests be killed, the kernel kills the first process; the next start does the rest.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

STATE = Path(tempfile.gettempdir(), "cookiecutter-fastapi-sre-cluster")
LOCK = STATE.with_suffix(".lock")
# How long another run on the same machine may have its cluster.
TURN = 3600

CGROUPS = Path("/sys/fs/cgroup")
# What a kubelet makes, and where: below each controller, or in the one tree of version 2.
PODS = ("kubepods", "*/kubepods")
# What a kubelet sets without a namespace.
SETTINGS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom")

# Folders of the machine that are ours alone in there: sockets, logs, and what programs keep.
OWN = ("run", "var/log", "var/lib")
FIRST = """
set -e
for folder in "${@:2}"; do mkdir -p "$1/$folder"; mount --bind "$1/$folder" "/$folder"; done
names=$(readlink -m /etc/resolv.conf)
[[ -e $names ]] || { mkdir -p "$(dirname "$names")"; touch "$names"; }
mount --bind "$1/resolv.conf" "$names"
ip link set lo up
touch "$1/ready"
sleep infinity & wait
"""

Found = TypeVar("Found")


class ClusterError(AssertionError):
    """Something of the cluster is not as it should be; the message ends with what it logged."""


def within(seconds: float, look: Callable[[], Found], otherwise: Callable[[], str], pause: float = 0.1) -> Found:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise ClusterError(f"not within {seconds:.0f} s: {otherwise()}")
        time.sleep(pause)
    return found


class Program:
    """A program that runs in the sandbox until it is stopped, or the sandbox ends.

    Attributes:
        name: what it is called in messages.
        log: the file that holds all that it writes.
    """

    def __init__(self, name: str, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.log = log
        self.process = process

    def tail(self) -> str:
        """The end of what it wrote, and whether it still runs."""
        ended = "" if self.process.poll() is None else f" ended with {self.process.returncode}"
        return f"{self.name}{ended}:\n{self.log.read_text(encoding='utf-8', errors='replace')[-3000:]}"

    def until(self, ready: Callable[[], Found], seconds: float = 60) -> Found:
        """Wait until it is ready; its end is the end of waiting."""

        def look() -> Found:
            if self.process.poll() is not None:
                raise ClusterError(self.tail())
            return ready()

        return within(seconds, look, self.tail)

    def stop(self) -> None:
        """Kill it: what enters the namespaces for it takes it along."""
        self.process.kill()
        self.process.wait()


class Sandbox:
    """The namespaces, from the start of a `with` block to its end. One at a time on a machine: others wait.

    Attributes:
        folder: holds everything that is written, and is gone afterwards. Its `resolv.conf` is the one in there.
        left: what is on the machine after the end, and was not before the start.
    """

    def __init__(self) -> None:
        self.folder = STATE
        self._turn = LOCK.open("w")
        self._outer: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._programs: list[Program] = []
        self._before: set[str] = set()
        self.left: set[str] = set()

    def __enter__(self) -> Self:
        within(TURN, self._take_turn, lambda: f"another run holds {LOCK}", pause=1)
        self._clear()
        self._before = traces()
        if used := [str(group) for group in _pod_groups() if _processes(group)]:
            raise ClusterError(f"a kubelet runs on this machine already: {', '.join(used)}")
        self.folder.mkdir(mode=0o711)
        (self.folder / "resolv.conf").touch()
        settings = {name: _setting(name).read_text(encoding="utf-8") for name in SETTINGS}
        (self.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave", "--net", "--pid"]
        command += ["--kill-child", "--mount-proc", "bash", "-c", FIRST, "first", str(self.folder), *OWN]
        with (self.folder / "sandbox.log").open("wb") as log:
            # A group of its own, so that an interrupt from the keyboard leaves the order of ending to us.
            self._outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        outer = Program("sandbox", self.folder / "sandbox.log", self._outer)
        try:
            outer.until((self.folder / "ready").exists, 10)
        except BaseException:
            self.__exit__()
            raise
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._outer.pid)], capture_output=True, text=True, check=True
        )
        self._first = int(children.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            # With the first process the kernel ends all others, and only then is it gone itself.
            if self._first:
                os.kill(self._first, signal.SIGKILL)
            else:
                self._outer.kill()
            self._outer.wait()
        for program in self._programs:
            program.process.wait()
        self._clear()
        self.left = traces() - self._before
        self._turn.close()

    def _take_turn(self) -> bool:
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _clear(self) -> None:
        """Put back what has no namespace; nothing if no sandbox was here."""
        if not self.folder.exists():
            return
        within(20, lambda: not any(map(_processes, _pod_groups())), lambda: "processes are left in the pods' groups")
        for group in _pod_groups():
            for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                inner.rmdir()
            group.rmdir()
        saved = self.folder / "settings.json"
        if saved.exists():
            for name, value in json.loads(saved.read_text(encoding="utf-8")).items():
                if _setting(name).read_text(encoding="utf-8") != value:
                    _setting(name).write_text(value, encoding="utf-8")
        shutil.rmtree(self.folder)

    def _entered(self, command: Sequence[str | Path], *spaces: str, cwd: Path | None = None) -> list[str]:
        """A command that runs another in the mounts, the network and these namespaces."""
        # Whoever enters the mounts stands in their root at first.
        there = ["env", f"--chdir={cwd or self.folder}"]
        return ["nsenter", "--target", str(self._first), "--mount", "--net", *spaces, *there, *map(str, command)]

    def start(self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None) -> Program:
        """Start a program."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        entered = self._entered(["setpriv", "--pdeathsig", "KILL", *command], "--pid")
        with (logs / name).open("ab") as log:
            process = subprocess.Popen(
                entered,
                env=os.environ | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        program = Program(name, logs / name, process)
        self._programs.append(program)
        return program

    def run(
        self,
        *command: str | Path,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the network and the mounts, to its end."""
        return subprocess.run(
            self._entered(command, cwd=cwd),
            capture_output=True,
            check=False,
            env=os.environ | dict(environment or {}),
            input=stdin,
            text=True,
            timeout=timeout,
        )

    def do(self, *command: str | Path, stdin: str = "", timeout: float = 120) -> str:
        """Run a command that has to succeed; return what it says."""
        done = self.run(*command, stdin=stdin, timeout=timeout)
        if done.returncode:
            words = " ".join(map(str, command))
            raise ClusterError(f"{words} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done.stdout


def traces() -> set[str]:
    """What a cluster could leave on a machine, beside what others have there of the same kinds."""
    places = (
        STATE,
        *(Path("/", name) for name in ("run/netns", "var/lib/kubelet", "var/log/containers", "var/log/pods")),
    )
    # Those of the engine come and go with its containers.
    links = (link.name for link in Path("/sys/class/net").iterdir() if not link.name.startswith(("br-", "veth")))
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    commands = subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True, check=True).stdout
    ours = re.compile(rf"{STATE}|/kube|kubelet|-namespace k8s\.io")
    return {
        *(f"file {place}" for place in places if place.exists()),
        *(f"link {link}" for link in links),
        *(f"rules {table}" for table in tables.splitlines()),
        *(f"mount {line}" for line in mounts.splitlines() if ours.search(line)),
        *(f"process {line}" for line in commands.splitlines() if ours.search(line)),
        *(f"control group {group}" for group in _pod_groups()),
        *(f"{name} is {_setting(name).read_text(encoding='utf-8')}" for name in SETTINGS),
    }


def processes_of(container: str) -> list[int]:
    """The processes of a container, by its id, as the machine numbers them; the first one first."""
    return next((sorted(_processes(group)) for top in _pod_groups() for group in top.rglob(f"*{container}*")), [])


def _setting(name: str) -> Path:
    return Path("/proc/sys", name)


def _pod_groups() -> list[Path]:
    return [group for pattern in PODS for group in CGROUPS.glob(pattern)]


def _processes(group: Path) -> list[int]:
    """The processes in a control group and in those below it."""
    found: set[int] = set()
    for file in (group / "cgroup.procs", *group.rglob("cgroup.procs")):
        try:
            found.update(map(int, file.read_text(encoding="utf-8").split()))
        except FileNotFoundError:
            continue
    return sorted(found)
