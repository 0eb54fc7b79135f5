"""Starts a worker outside of the caller's session, and wakes a running one.

Responsible for the two FIFOs of a queue's folder: the worker reads one, the agent the other. Must
not know the queue, nor import the worker, whose code may be of another version. An unneeded worker
exits at once, so that starting one too many does no harm.
"""

import errno
import os
import subprocess
from typing import List

from .. import command_lines
from ..processes import fifo

WORKER_FIFO = "worker.fifo"
AGENT_FIFO = "agent.fifo"
LOG_NAME = "worker.log"
#: Environment variable of all processes below an agent, which end with their connection.
UNDER_AGENT_VARIABLE = "NOSEJOBS_UNDER_AGENT"
#: Bytes of the worker's log after which it is truncated.
_MAX_LOG_BYTES = 1 << 20
#: Seconds that systemd's user manager may take to answer.
_SYSTEMD_TIMEOUT = 5.0


class WorkerStartError(OSError):
    """No worker can be started; the message says what to do."""


def start_worker(folder: str, code: str) -> None:
    """Start a worker for the queue in ``folder`` with the code in ``FOLDER/code/CODE``.

    Below an agent, the agent is requested to start it. Raises :exc:`WorkerStartError`.
    """
    if os.environ.get(UNDER_AGENT_VARIABLE):
        if not fifo.write(os.path.join(folder, AGENT_FIFO), code.encode("ascii") + b"\n"):
            raise WorkerStartError(
                errno.EPIPE, "the host's agent does not answer; it starts the job when it is back"
            )
        return
    message = "a worker cannot be started; see %s" % os.path.join(folder, LOG_NAME)
    launch_command = build_command("launch-worker", folder, code)
    try:
        log = _open_log(folder)
    except OSError as error:
        raise WorkerStartError(errno.ECHILD, message) from error
    try:
        process = subprocess.Popen(
            launch_command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    # Code that cannot run here fails before the process detaches, with an error in the log.
    if process.wait() != 0:
        raise WorkerStartError(errno.ECHILD, message)


def build_command(name: str, folder: str, code: str, *arguments: str) -> List[str]:
    """Return the command that runs ``name FOLDER CODE ARGUMENT...`` with the code of digest
    ``code``.

    Raises :exc:`WorkerStartError` if that code is not in ``folder``.
    """
    path = os.path.join(folder, "code", code)
    try:
        return command_lines.build_command_for(path, name, folder, code, *arguments)
    except OSError as error:
        message = "the code %s is not in %s" % (code[:12], path)
        raise WorkerStartError(errno.ENOENT, message) from error


def wake_worker(folder: str) -> bool:
    """Tell the worker to read the queue; return False if none listens."""
    return fifo.write(os.path.join(folder, WORKER_FIFO), b"!")


def _open_log(folder: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(os.path.join(folder, LOG_NAME), flags, 0o600)
    if os.fstat(log).st_size > _MAX_LOG_BYTES:
        os.ftruncate(log, 0)
    return log


def redirect_output_to_log(folder: str) -> None:
    """Redirect standard error to the worker's log, standard input and output to /dev/null."""
    log = _open_log(folder)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    for descriptor in {log, null} - {0, 1, 2}:
        os.close(descriptor)


def find_scope_command() -> List[str]:
    """Return the command prefix that moves a process out of the login session; empty if not needed.

    logind may kill all processes of a session at logout (KillUserProcesses=); a scope of the user's
    manager does not belong to the session.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime or not os.path.exists(os.path.join(runtime, "systemd", "private")):
        return []
    scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect"]
    try:
        result = subprocess.run(
            scope + ["true"], stdin=subprocess.DEVNULL, timeout=_SYSTEMD_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return scope if result.returncode == 0 else []
