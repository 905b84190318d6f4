"""A part of the machine for a cluster alone: processes, mounts and a network that nothing else sees.

One process is the first of its own namespaces. All others run in them, so its end is theirs, and the kernel takes
back the network, its rules and the mounts with them. Two things have no namespace: control groups, which have a root of
their own and are removed here, and settings of the kernel, which in there are files that a kubelet may write. Should
the tests be killed, the kernel kills the first process, and the next start removes the rest.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TextIO

from waiting import Found, wait_for

NAME = "cookiecutter-fastapi-sre-cluster"
# How many there may be at a time on a machine, and how long one waits for its turn.
MOST = 3
TURN = 3600

CGROUPS = Path("/sys/fs/cgroup")

# Folders of the machine that are ours alone in there: sockets, logs, and what programs keep.
OWN = ("run", "var/log", "var/lib")
# What a kubelet sets.
SETTINGS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom")
FIRST = """
set -e
here=$1
names=$(readlink -m /etc/resolv.conf)
for folder in $2; do mkdir -p "$here/$folder"; mount --bind "$here/$folder" "/$folder"; done
[[ -e $names ]] || { mkdir -p "$(dirname "$names")"; touch "$names"; }
mount --bind "$here/resolv.conf" "$names"
for setting in $3; do
    cp "/proc/sys/$setting" "$here/${setting////.}"
    mount --bind "$here/${setting////.}" "/proc/sys/$setting"
done
ip link set lo up
touch "$here/ready"
sleep infinity & wait
"""


class ClusterError(AssertionError):
    """Something of the cluster is not as it should be; the message ends with what it logged."""


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

        return wait_for(look, self.tail, seconds)

    def stop(self) -> None:
        """Kill it: what enters the namespaces for it takes it along."""
        self.process.kill()
        self.process.wait()


class Sandbox:
    """The namespaces, from the start of a `with` block to its end.

    Attributes:
        folder: holds everything that is written, and is gone afterwards. Its `resolv.conf` is the one in there.
        group: the control group of all pods, from the root of each tree.
        left: what is on the machine after the end, and was not before the start.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.group = ""
        self.left: set[str] = set()
        self._turn: TextIO | None = None
        self._before: set[str] = set()
        self._outer: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        wait_for(self._take_turn, f"{MOST} others run on this machine", TURN, pause=1)
        self._clear()
        self._before = self._traces()
        self.folder.mkdir(mode=0o711)
        (self.folder / "resolv.conf").touch()
        try:
            self._make_groups()
            self._start_first()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _take_turn(self) -> bool:
        for number in range(MOST):
            name = f"{NAME}-{number}"
            turn = Path(tempfile.gettempdir(), f"{name}.lock").open("w", encoding="utf-8")  # noqa: SIM115 - held to the end
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                turn.close()
                continue
            self._turn, self.folder, self.group = turn, Path(tempfile.gettempdir(), name), name
            return True
        return False

    def _make_groups(self) -> None:
        for tree in _trees():
            group = tree / self.group
            group.mkdir()
            # In version 1 a group has no processor until it is told which.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists() and not (tree / "cgroup.controllers").exists():
                    (group / setting).write_text((tree / setting).read_text(encoding="utf-8"), encoding="utf-8")

    def _start_first(self) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave", "--net", "--pid"]
        command += ["--kill-child", "--mount-proc", "bash", "-c", FIRST, "first", str(self.folder)]
        command += [" ".join(OWN), " ".join(SETTINGS)]
        with (self.folder / "sandbox.log").open("wb") as log:
            # A group of its own, so that an interrupt from the keyboard leaves the order of ending to us.
            self._outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        Program("sandbox", self.folder / "sandbox.log", self._outer).until((self.folder / "ready").exists, 10)
        asked = ["ps", "-o", "pid=", "--ppid", str(self._outer.pid)]
        self._first = int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            space = _space(self._first) if self._first else ""
            # With the first process the kernel ends all others, and only then is it gone itself.
            if self._first:
                os.kill(self._first, signal.SIGKILL)
            else:
                self._outer.kill()
            self._outer.wait()
            for program in self._programs:
                program.process.wait()
            self.left |= {f"process {path.parent.name}" for path in _processes_in(space)}
        self._clear()
        self.left |= self._traces() - self._before
        if self._turn:
            self._turn.close()

    def _clear(self) -> None:
        """Remove what has no namespace."""
        groups = [tree / self.group for tree in _trees()]
        wait_for(lambda: not any(map(_members, groups)), "processes are left in the pods' groups", 20)
        for group in groups:
            for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                inner.rmdir()
            if group.exists():
                group.rmdir()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _traces(self) -> set[str]:
        """What a cluster could leave on a machine, beside what others have there of the same kinds."""
        machine = ("run/netns", "var/lib/kubelet", "var/log/containers", "var/log/pods")
        groups = (tree / group for tree in _trees() for group in (self.group, "kubepods"))
        # The links of the engine come and go with its containers.
        links = (link.name for link in Path("/sys/class/net").iterdir() if not link.name.startswith(("br-", "veth")))
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        return {
            *(f"file {path}" for path in (self.folder, *(Path("/", name) for name in machine)) if path.exists()),
            *(f"control group {group}" for group in groups if group.exists()),
            *(f"link {link}" for link in links),
            *(f"rules {table}" for table in tables.splitlines()),
            *(f"mount {line}" for line in mounts.splitlines() if self.group in line or "kubelet" in line),
            *(f"{name} is {Path('/proc/sys', name).read_text(encoding='utf-8')}" for name in SETTINGS),
        }

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


def processes_of(container: str) -> list[int]:
    """The processes of a container, by its id, as the machine numbers them; the first one first."""
    pods = (group for tree in _trees() for group in tree.glob(f"{NAME}-*"))
    return next((_members(group) for top in pods for group in top.rglob(f"*{container}*")), [])


def _trees() -> list[Path]:
    """The roots of the control groups: one for each controller, or in version 2 one for all."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _members(group: Path) -> list[int]:
    """The processes in a control group and in those below it."""
    found: set[int] = set()
    for file in (group / "cgroup.procs", *group.rglob("cgroup.procs")):
        try:
            found.update(map(int, file.read_text(encoding="utf-8").split()))
        except FileNotFoundError:
            continue
    return sorted(found)


def _space(process: int) -> str:
    """The namespace that a process is numbered in."""
    return str(Path(f"/proc/{process}/ns/pid").readlink())


def _processes_in(space: str) -> list[Path]:
    """What is left of a namespace of processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns"):
        with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
            if str((path / "pid").readlink()) == space:
                found.append(path)
    return found
