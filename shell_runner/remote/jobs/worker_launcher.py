"""Starts a worker where nothing that ends soon takes it along, and wakes one that is there.

Owns the two FIFOs of a queue's folder: one that the worker reads, and one that the agent reads.
Must not know the queue, nor import the worker, whose code may be of another version.  A worker
that is not needed leaves by itself at once, so that to start one too many does no harm.
"""

import errno
import os
import subprocess
from typing import List

from .. import entry_point
from ..processes import fifo

WORKER_FIFO = "worker.fifo"
AGENT_FIFO = "agent.fifo"
LOG = "worker.log"
#: Set in the environment of all that an agent starts: it ends with its connection.
BEHIND = "NOSEJOBS_BEHIND_AGENT"
#: Where a worker's own words go; a longer file is begun anew.
_LONG = 1 << 20
#: Seconds that a user manager may take to answer.
_MANAGER = 5.0


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
    words = "a worker cannot be started; see %s" % os.path.join(folder, LOG)
    launch = command("launch-worker", folder, code)
    try:
        log = _open_log(folder)
    except OSError as error:
        raise CannotStart(errno.ECHILD, words) from error
    try:
        process = subprocess.Popen(
            launch, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    # Code that cannot be run here fails before it leaves this process, with words in the log.
    if process.wait() != 0:
        raise CannotStart(errno.ECHILD, words)


def command(name: str, folder: str, code: str, *arguments: str) -> List[str]:
    """Return the command that runs ``name FOLDER CODE ARGUMENT...`` with the code of that digest.

    Raises CannotStart if that code is not in ``folder``.
    """
    path = os.path.join(folder, "code", code)
    try:
        return entry_point.command_of(path, name, folder, code, *arguments)
    except OSError as error:
        words = "the code %s is not in %s" % (code[:12], path)
        raise CannotStart(errno.ENOENT, words) from error


def ring(folder: str) -> bool:
    """Tell the worker to look at the queue; False if none listens."""
    return fifo.write(os.path.join(folder, WORKER_FIFO), b"!")


def _open_log(folder: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(os.path.join(folder, LOG), flags, 0o600)
    if os.fstat(log).st_size > _LONG:
        os.ftruncate(log, 0)
    return log


def log_to(folder: str) -> None:
    """Standard error becomes the worker's log, the other two nothing."""
    log = _open_log(folder)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    for descriptor in {log, null} - {0, 1, 2}:
        os.close(descriptor)


def scope_command() -> List[str]:
    """Return what runs a command out of a login session's reach; empty if nothing is needed.

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
