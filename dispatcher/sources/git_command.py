"""One git command, so that no repository and no server can hang it or make it run anything.

Owns the environment, the bounds and the words of git's failures.  Must not know mirrors or
sources.  Addresses are the operator's; everything behind them is a stranger's: refs, names,
contents, what a server says.  Credentials stay git's: its helpers and ssh are asked, nobody else.
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

#: Bytes of output that are read, unless told otherwise.
MOST = 64 << 20
#: Bytes of git's last words.
_WORDS = 1 << 13
#: Ways to a repository; ``ext::`` and helpers run what an address says.  ``file`` comes last.
_TRANSPORTS = ("https", "http", "ssh", "git", "file")
#: Our own repositories run no hook, no program and no upkeep of their own.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
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
#: Variables by which somebody else's git points at its own repository, or asks a person.
_STRANGE = frozenset(
    [
        "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_GRAFT_FILE",
        "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_CEILING_DIRECTORIES",
        "GIT_INTERNAL_SUPER_PREFIX", "GIT_IMPLICIT_WORK_TREE", "GIT_EXTERNAL_DIFF",
        "GIT_QUARANTINE_PATH", "GIT_PROTOCOL_FROM_USER", "SSH_ASKPASS", "DISPLAY",
    ]
)  # fmt: skip
#: Lines of git that say nothing of the reason.
_ADVICE = ("hint:", "Please make sure", "and the repository exists", "warning: redirecting")
_REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LOCAL = re.compile(r"file://|(?![a-zA-Z0-9_.@\[\]-]*:)")
_HELPER = re.compile(r"[a-zA-Z0-9+.-]+::")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")


class SourceError(NosejobsError):
    """A source cannot be read."""


def is_revision(text: str) -> bool:
    """Whether it is the full name of a commit, and nothing else that git understands."""
    return _REVISION.fullmatch(text) is not None


def check_address(address: str) -> str:
    """The address of a repository, if git may be given it; SourceError says why not."""
    scheme = _SCHEME.match(address)
    if not address or address.startswith("-") or not address.isprintable():
        raise SourceError(f"{shown(address)!r} is no address of a repository")
    if _HELPER.match(address) or (scheme and scheme[1].lower() not in _TRANSPORTS):
        known = ", ".join(_TRANSPORTS)
        raise SourceError(f"{shown(address)}: this way to a repository is not used, but {known}")
    return address


def shown(address: str) -> str:
    """An address without its password."""
    return _PASSWORD.sub(r"\1:***@", address)


def git(
    *arguments: str,
    repository: Path | None = None,
    address: str = "",
    timeout: float = 60.0,
    most: int = MOST,
    feed: bytes = b"",
    good: tuple[int, ...] = (0,),
) -> bytes:
    """What a git command prints; SourceError if it fails, prints too much or takes too long."""
    what = f"git {arguments[0]}"
    with started(arguments, repository, address, feed) as process:
        try:
            out, words = _exchange(process, time.monotonic() + timeout, most)
        except TimeoutError:
            raise SourceError(f"{what}: no end after {timeout:g} s") from None
        except OverflowError:
            raise SourceError(f"{what}: more than {most} bytes") from None
    if process.returncode not in good:
        raise SourceError(f"{what}: {_reason(words, process.returncode)}")
    return bytes(out)


@contextlib.contextmanager
def started(
    arguments: tuple[str, ...], repository: Path | None, address: str = "", feed: bytes = b""
) -> Iterator[subprocess.Popen[bytes]]:
    """A git process of its own session: nothing of it can ask a terminal, or outlive this."""
    command = ["git", *(part for each in _SETTINGS for part in ("-c", each))]
    if repository is not None:
        command.append(f"--git-dir={repository}")
    with tempfile.TemporaryFile() as told:
        told.write(feed)
        told.seek(0)
        try:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=told,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(os.environ, address),
                start_new_session=True,
            )
        except OSError as error:
            raise SourceError(f"git cannot be started: {error.strerror}") from error
    with _ended(process):
        yield process


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
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


def environment(ours: Mapping[str, str], address: str = "") -> dict[str, str]:
    """What git gets: no other repository, no prompt, the allowed transports, plain words."""
    kept = {
        name: value
        for name, value in ours.items()
        if name not in _STRANGE and not name.startswith("GIT_TRACE")
    }
    allowed = _TRANSPORTS if _LOCAL.match(address) else _TRANSPORTS[:-1]
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


def _exchange(
    process: subprocess.Popen[bytes], deadline: float, most: int
) -> tuple[bytearray, bytes]:
    """Output, and the last words; OverflowError, TimeoutError.

    The end is that of the process: ssh may leave one behind that keeps its error output.
    """
    out, words = bytearray(), bytearray()
    assert process.stdout
    assert process.stderr
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, words)
        while process.stdout.fileno() in {key.fd for key in selector.get_map().values()}:
            ready = selector.select(deadline - time.monotonic())
            if not ready or time.monotonic() > deadline:
                raise TimeoutError
            for key, _ in ready:
                _take(selector, key)
            if len(out) > most:
                raise OverflowError
            del words[:-_WORDS]
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return out, bytes(words + _rest(process.stderr))[-_WORDS:]


def _take(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    piece = os.read(key.fd, 1 << 16)
    if piece:
        key.data.extend(piece)
    else:
        selector.unregister(key.fileobj)


def _rest(stream: IO[bytes]) -> bytes:
    """What can be read without waiting."""
    os.set_blocking(stream.fileno(), False)
    try:
        return os.read(stream.fileno(), _WORDS)
    except BlockingIOError:
        return b""


def _reason(words: bytes, status: int) -> str:
    """Git's own reason, in one line that cannot drive a terminal, without a password."""
    lines = words.decode("utf-8", "replace").splitlines()
    chosen = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-3:]
    # What another program of git's said (ssh) is the reason more often than what git makes of it.
    others = [line for line in lines if line not in chosen and not line.startswith(_ADVICE)]
    text = to_single_line(" ".join([*others[-2:], *chosen[:3]]), 500)
    return shown(text) or f"it ended with status {status}"


def last_words(process: subprocess.Popen[Any]) -> str:
    """Why a process that was read from directly has failed."""
    stream = process.stderr
    return _reason(_rest(stream) if stream else b"", process.wait())
