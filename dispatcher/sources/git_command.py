"""Run git so that no repository and no server can hang it or make it run a program.

Owns git's environment, limits and error messages.  Must not know mirrors or sources.  Addresses
come from the operator and are trusted; refs, names, contents and messages of servers are not.
Credentials come from git's own helpers and from ssh.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from shell_runner.errors import NosejobsError
from shell_runner.text import to_single_line

from ..configuration.git_address import ALLOWED_TRANSPORTS, find_address_error

#: Bytes of output that are read by default.
MAX_OUTPUT_BYTES = 64 << 20
#: Bytes of the end of git's error output that are kept.
_MAX_ERROR_BYTES = 1 << 13
#: Settings with which git runs no hook, no other program and no maintenance.
_GIT_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "advice.fetchShowForcedUpdates=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "transfer.bundleURI=false",
    "log.showSignature=false",
    "i18n.logOutputEncoding=UTF-8",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
)
#: Variables that point git to another repository, or make it ask a person.
_REMOVED_VARIABLES = frozenset(
    [
        "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_GRAFT_FILE",
        "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_CEILING_DIRECTORIES",
        "GIT_INTERNAL_SUPER_PREFIX", "GIT_IMPLICIT_WORK_TREE", "GIT_EXTERNAL_DIFF",
        "GIT_QUARANTINE_PATH", "GIT_PROTOCOL_FROM_USER", "SSH_ASKPASS", "DISPLAY",
    ]
)  # fmt: skip
#: Beginnings of lines of git's error output that do not contain the reason.
_ADVICE = ("hint:", "Please make sure", "and the repository exists", "warning: redirecting")
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LOCAL_ADDRESS = re.compile(r"file://|(?![a-zA-Z0-9_.@\[\]-]*:)")
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")


class SourceError(NosejobsError):
    """A source cannot be read."""


def is_revision(text: str) -> bool:
    """Return whether a text is the full hash of a commit, and nothing else that git accepts."""
    return _REVISION.fullmatch(text) is not None


def check_address(address: str) -> str:
    """Return the address of a repository; raise SourceError if it is invalid or not allowed."""
    reason = find_address_error(address)
    if reason:
        raise SourceError(f"{hide_password(address)!r}: {reason}")
    return address


def hide_password(address: str) -> str:
    """Return a text in which the passwords of URLs are replaced by ``***``."""
    return _PASSWORD.sub(r"\1:***@", address)


def run_git(
    *arguments: str,
    repository: Path | None = None,
    address: str = "",
    timeout: float = 60.0,
    max_bytes: int = MAX_OUTPUT_BYTES,
    stdin: bytes = b"",
) -> bytes:
    """Run a git command, and return its output.

    ``repository``: the git directory, if the command needs one.  ``address``: the address that
    the command connects to.  ``timeout``: seconds.  ``max_bytes``: limit of the output.
    ``stdin``: its input.

    Raises SourceError if the command fails, prints too much or takes too long.
    """
    command = f"git {arguments[0]}"
    with start_git(arguments, repository, address, stdin) as process:
        try:
            output, errors = _communicate(process, time.monotonic() + timeout, max_bytes)
        except TimeoutError:
            raise SourceError(f"{command}: timeout after {timeout:g} s") from None
        except OverflowError:
            raise SourceError(f"{command}: more than {max_bytes} bytes") from None
    if process.returncode != 0:
        raise SourceError(f"{command}: {_extract_reason(errors, process.returncode)}")
    return bytes(output)


@contextlib.contextmanager
def start_git(
    arguments: tuple[str, ...], repository: Path | None, address: str = "", stdin: bytes = b""
) -> Iterator[subprocess.Popen[bytes]]:
    """Start git in a session of its own, so that it has no terminal, and kill all of it at the end.

    Raises SourceError if git cannot be started.
    """
    command = ["git", *(part for each in _GIT_SETTINGS for part in ("-c", each))]
    if repository is not None:
        command.append(f"--git-dir={repository}")
    with tempfile.TemporaryFile() as stdin_file:
        stdin_file.write(stdin)
        stdin_file.seek(0)
        try:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=stdin_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=git_environment(os.environ, address),
                start_new_session=True,
            )
        except OSError as error:
            raise SourceError(f"git cannot be started: {error.strerror}") from error
    with _kill_at_end(process):
        yield process


@contextlib.contextmanager
def _kill_at_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def git_environment(variables: Mapping[str, str], address: str = "") -> dict[str, str]:
    """Return the environment of a git process that connects to ``address``, or to none.

    It is ``variables`` without those that name other repositories; prompts are off, only allowed
    transports are on, and messages are in English.
    """
    kept = {
        name: value
        for name, value in variables.items()
        if name not in _REMOVED_VARIABLES and not name.startswith("GIT_TRACE")
    }
    allowed = ALLOWED_TRANSPORTS if _LOCAL_ADDRESS.match(address) else ALLOWED_TRANSPORTS[:-1]
    return {
        **kept,
        "GIT_ALLOW_PROTOCOL": ":".join(allowed),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_PAGER": "cat",
        "SSH_ASKPASS_REQUIRE": "never",
        "GCM_INTERACTIVE": "never",
        "LC_ALL": "C",
    }


def _communicate(
    process: subprocess.Popen[bytes], deadline: float, max_bytes: int
) -> tuple[bytearray, bytes]:
    """Return the output of a process and the end of its error output.

    Reading ends with the process, since ssh may leave a process that keeps the error output open.
    Raises OverflowError for too much output, and TimeoutError at ``deadline`` (monotonic).
    """
    output, errors = bytearray(), bytearray()
    assert process.stdout
    assert process.stderr
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while process.stdout.fileno() in {key.fd for key in selector.get_map().values()}:
            ready = selector.select(deadline - time.monotonic())
            if not ready or time.monotonic() > deadline:
                raise TimeoutError
            for key, _ in ready:
                _read_chunk(selector, key)
            if len(output) > max_bytes:
                raise OverflowError
            del errors[:-_MAX_ERROR_BYTES]
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return output, bytes(errors + _read_available(process.stderr))[-_MAX_ERROR_BYTES:]


def _read_chunk(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    chunk = os.read(key.fd, 1 << 16)
    if chunk:
        key.data.extend(chunk)
    else:
        selector.unregister(key.fileobj)


def _read_available(stream: IO[bytes]) -> bytes:
    """Return the bytes that can be read without waiting."""
    os.set_blocking(stream.fileno(), False)
    try:
        return os.read(stream.fileno(), _MAX_ERROR_BYTES)
    except BlockingIOError:
        return b""


def _extract_reason(errors: bytes, status: int) -> str:
    """Return git's reason for a failure as one printable line without passwords."""
    lines = errors.decode("utf-8", "replace").splitlines()
    chosen = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-3:]
    # A line of another program (ssh) explains more than the line of git that follows from it.
    others = [line for line in lines if line not in chosen and not line.startswith(_ADVICE)]
    text = to_single_line(" ".join([*others[-2:], *chosen[:3]]), 500)
    return hide_password(text) or f"exit status {status}"


def failure_reason(process: subprocess.Popen[Any]) -> str:
    """Wait for a failed process, and return the reason."""
    stream = process.stderr
    return _extract_reason(_read_available(stream) if stream else b"", process.wait())
