"""Starts a worker where nothing that ends soon takes it along, and wakes one that is there.

Owns the two FIFOs of a queue's folder: one that the worker reads, and one that the agent reads.
Must not know the queue.  A worker that is not needed leaves by itself at once, so
that to start one too many does no harm.
"""

import errno
import importlib
import os
import subprocess
import sys
from typing import List, Tuple

from . import fifo

WORKER_FIFO = "worker.fifo"
AGENT_FIFO = "agent.fifo"
LOG = "worker.log"
#: Set in the environment of all that an agent starts: it ends with its connection.
BEHIND = "NOSEJOBS_BEHIND_AGENT"
#: Where a worker's own words go; a longer file is begun anew.
_LONG = 1 << 20
#: Seconds that a user manager may take to answer.
_MANAGER = 5.0
#: What the code is called in its zip.
_PACKAGE = "nosejobs_host"
_BOOT = (
    "import sys, importlib; sys.path.insert(0, sys.argv[1]); "
    "importlib.import_module(sys.argv[2] + '.' + sys.argv[3]).main(tuple(sys.argv[4:]))"
)


class CannotStart(OSError):
    """No worker can be started from here."""


def start(folder: str, code: str) -> None:
    """Start a worker for the queue in ``folder`` with the code of ``FOLDER/code/CODE``.

    Raises CannotStart, with what a person can do.
    """
    if os.environ.get(BEHIND):
        if not fifo.write(os.path.join(folder, AGENT_FIFO), code.encode("ascii") + b"\n"):
            raise CannotStart(
                errno.EPIPE, "the host's agent does not answer; it starts the job when it is back"
            )
        return
    process = subprocess.Popen(
        command("starting", folder, code), cwd="/", stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    if process.wait() != 0:
        words = "a worker cannot be started; see %s" % os.path.join(folder, LOG)
        raise CannotStart(errno.ECHILD, words)


def command(module: str, folder: str, code: str, *more: str) -> List[str]:
    """What runs ``module.main((folder, code, *more))`` with the code of that digest."""
    path = os.path.join(folder, "code", code)
    if not os.path.isdir(os.path.join(path, _PACKAGE)):
        raise CannotStart(errno.ENOENT, "the code %s is not in %s" % (code[:12], path))
    return [sys.executable, "-I", "-S", "-c", _BOOT, path, _PACKAGE, module, folder, code, *more]


def ring(folder: str) -> bool:
    """Tell the worker to look at the queue; False if none listens."""
    return fifo.write(os.path.join(folder, WORKER_FIFO), b"!")


def log_to(folder: str) -> None:
    """Standard error becomes the worker's log, the other two nothing."""
    path = os.path.join(folder, LOG)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(path, flags, 0o600)
    if os.fstat(log).st_size > _LONG:
        os.ftruncate(log, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    for descriptor in {log, null} - {0, 1, 2}:
        os.close(descriptor)


def main(argv: Tuple[str, ...]) -> None:
    """Leave who called: a process of its own becomes the worker."""
    folder, code = argv
    log_to(folder)
    # Code that cannot be run here fails now, while who called is there to hear of it.
    worker = importlib.import_module(".worker", __package__)
    if os.fork():
        os._exit(0)
    try:
        os.setsid()
        scope = _scope()
        if scope:
            os.execvp(scope[0], scope + command("worker", folder, code))
        worker.main((folder, code))
    finally:
        os._exit(1)


def _scope() -> List[str]:
    """What puts a command out of a login session's reach; empty where nothing needs to.

    logind may kill all of a session at logout (KillUserProcesses=); a scope of the user's
    manager is not a part of it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime or not os.path.exists(os.path.join(runtime, "systemd", "private")):
        return []
    scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect"]
    try:
        done = subprocess.run(scope + ["true"], stdin=subprocess.DEVNULL, timeout=_MANAGER)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return scope if done.returncode == 0 else []
