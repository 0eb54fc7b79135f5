"""A host's queue in a folder of its own, real workers that drain it, and no network."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from shell_runner.hosts import gateway
from shell_runner.remote.files.blob_store import BlobStore
from shell_runner.remote.files.manifest import FILE, ManifestEntry
from shell_runner.remote.jobs import paths, worker_launcher
from shell_runner.remote.jobs.queue import JobRow, Queue, State
from shell_runner.remote.processes import orphans, process_identity, process_tree
from shell_runner.remote.protocol.job import ARCHIVE, TREE, Content, JobConfig, JobTest, NewJob
from shell_runner.remote.protocol.model import Execution, Test, execution_from_row
from tests.helpers import preloaded_host_code

#: Seconds that anything may take on a machine with much to do.
TIMEOUT = 60.0


class ScriptFifo:
    """A FIFO through which scripts tell where they are, so that nobody has to guess."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    def line(self) -> str:
        """The next line that somebody wrote."""
        deadline = time.monotonic() + TIMEOUT
        while "\n" not in self._text:
            ready = select.select([self._descriptor], [], [], deadline - time.monotonic())[0]
            assert ready, "nobody came"
            self._text += os.read(self._descriptor, 4096).decode()
        line, _, self._text = self._text.partition("\n")
        return line

    def close(self) -> None:
        """Nobody is awaited any more."""
        os.close(self._descriptor)


class QueueHost:
    """Like the folder of a host's queue, with the code of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        folder.mkdir(mode=0o700)
        self.code = self.install()
        self.store = BlobStore(paths.contents_path(self.folder))
        self.door = ScriptFifo(folder.parent / "doorway")
        self._workers: list[subprocess.Popen[bytes]] = []
        with self.queue() as queue:
            queue.set_setting("linger", 0)

    def install(self, change: Mapping[str, bytes] | None = None) -> str:
        """The code below ``code``, with some files changed; its digest."""
        digest, _ = gateway.pack_host_code()
        if change:
            digest = hashlib.sha256(digest.encode() + repr(change).encode()).hexdigest()
        place = Path(paths.code_path(self.folder, digest))
        preloaded_host_code.put(place)
        for name, text in (change or {}).items():
            path = place / "nosejobs_host" / name
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
                compiled.unlink()
            path.unlink(missing_ok=True)
            path.write_bytes(text)
        return digest

    # -- contents -----------------------------------------------------------------

    def _add(self, data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        self.store.add(digest, data)
        return digest, len(data)

    def tree(self, files: Mapping[str, str]) -> Content:
        """Files of a tree, all of them executable."""
        entries = []
        for path, text in sorted(files.items()):
            digest, size = self._add(text.encode())
            entries.append(ManifestEntry(path, FILE, 0o755, digest, size))
        return self.entries(entries)

    def entries(self, entries: list[ManifestEntry]) -> Content:
        """A tree of files that are there."""
        part = self._add(json.dumps(entries).encode())
        return Content(TREE, *self._add(json.dumps([part]).encode()))

    def archive(self, data: bytes, name: str = "build.zip") -> Content:
        """A file that is to be unpacked."""
        return Content(ARCHIVE, *self._add(data), name)

    # -- jobs ---------------------------------------------------------------------

    @contextlib.contextmanager
    def queue(self) -> Iterator[Queue]:
        """As any process of this host has it."""
        with Queue(self.folder) as found:
            yield found

    def submit(
        self,
        scripts: Mapping[str, str],
        *,
        build: Content | None = None,
        tests: Mapping[str, Any] | None = None,
        code: str = "",
        priority: int = 0,
        **config: Any,
    ) -> JobRow:
        """A job of shell scripts; ``tests``: fields of Test or JobTest for some of them."""
        texts = {name: f"#!/bin/sh\n{text}\n" for name, text in scripts.items()}
        cases = []
        for number, name in enumerate(scripts):
            fields = dict((tests or {}).get(name, {}))
            beside = {key: fields.pop(key) for key in ("retries", "unmet") if key in fields}
            cases.append(JobTest(name, Test(number, name, **{"timeout": 30.0, **fields}), **beside))
        settings = JobConfig(**{"slots": 2, "grace": 0.2, **config})
        new = NewJob(str(uuid.uuid4()), self.tree(texts), build, settings, tuple(cases))
        with self.queue() as queue:
            return queue.submit(new._replace(priority=priority), code or self.code, time.time())

    def find(self, job: JobRow) -> JobRow:
        """What its row says now."""
        with self.queue() as queue:
            return queue.find(job.id)

    def attempts(self, job: JobRow) -> list[Any]:
        """All of its starts."""
        with self.queue() as queue:
            return queue.get_attempts(job.number)

    def cancel(self, job: JobRow) -> None:
        """As the desk does it."""
        with self.queue() as queue:
            queue.cancel(job, time.time())
        worker_launcher.wake_worker(self.folder)

    # -- workers ------------------------------------------------------------------

    def worker(self, python: str = sys.executable) -> subprocess.Popen[bytes]:
        """A worker, as a child of the test."""
        command = [python, *worker_launcher.build_command("worker", self.folder, self.code)[1:]]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._workers.append(process)
        return process

    def drain(self) -> None:
        """A worker does all that there is to do."""
        process = self.worker()
        assert process.wait(TIMEOUT) == 0, self.log()

    def runner(self, worker: subprocess.Popen[bytes]) -> int:
        """The process of the job that runs; there are no others while nobody is told."""
        found = process_tree.list_children(worker.pid)
        assert len(found) == 1
        return found[0]

    def log(self) -> str:
        """What workers said."""
        path = Path(self.folder) / worker_launcher.LOG_NAME
        return path.read_text() if path.exists() else ""

    # -- packages -----------------------------------------------------------------

    def package(self, job: JobRow) -> Package:
        """The package of a job that is ready."""
        row = self.find(job)
        assert row.state == State.READY, f"{row.state} {row.waiting_reason}\n{self.log()}"
        data = Path(paths.package_path(self.folder, job.id)).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (
            row.package_digest,
            row.package_size,
        )
        return Package(data)

    def leftovers(self, job: JobRow) -> list[orphans.Process]:
        """Processes of any attempt."""
        rows = self.attempts(job)
        return [
            p
            for row in rows
            for p in orphans.find_orphans(row.id, paths.workspace_path(self.folder, row.id))
        ]

    def close(self) -> None:
        """No worker stays, and nothing of theirs."""
        for process in self._workers:
            if process.poll() is None:
                process.kill()
                process.wait()
        with contextlib.suppress(Exception), self.queue() as queue:
            for job in queue.list_jobs():
                for attempt in queue.get_attempts(job.number):
                    orphans.kill_orphans(attempt.id, paths.workspace_path(self.folder, attempt.id))
        self.door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Package:
    """What is in one, read with no code of ours."""

    def __init__(self, data: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.manifest = json.loads(self.files["manifest.json"])

    def executions(self, name: str = "executions.jsonl") -> dict[tuple[int, int], Execution]:
        """By test and try."""
        rows = [json.loads(line) for line in self.files[name].splitlines()]
        found = {(row[0], row[1]): execution_from_row(row[2]) for row in rows}
        assert list(found) == sorted(found)
        assert len(found) == len(rows)
        return found

    def exits(self) -> dict[str, int | None]:
        """The exit status of each test by its name; of the last try."""
        names = [row[0] for row in self.manifest["tests"]]
        return {names[number]: each.exit_status for (number, _), each in self.executions().items()}

    @property
    def log(self) -> str:
        """Lines of the install command and of the tests."""
        return self.files["log.txt"].decode()


class WebhookReceiver:
    """An HTTP server on loopback that answers as it is told, then with 204."""

    def __init__(self, answers: list[int]) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                outer.got.append((self.path, dict(self.headers), self.rfile.read(size)))
                self.send_response(answers.pop(0) if answers else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """No port stays open."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def is_dead(pid: int) -> bool:
    """Gone, or a zombie of a process that is none of ours."""
    return process_identity.identify(pid) is None


def kill(pid: int) -> None:
    """As if by the kernel."""
    os.kill(pid, signal.SIGKILL)
