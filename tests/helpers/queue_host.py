"""A host's queue in a folder of its own and real workers that drain it, without a network."""

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
from shell_runner.remote.jobs.queue import AttemptRow, JobRow, Queue, State
from shell_runner.remote.processes import orphans, process_identity, process_tree
from shell_runner.remote.protocol.job import ARCHIVE, TREE, Content, JobConfig, JobTest, NewJob
from shell_runner.remote.protocol.model import Execution, Test, execution_from_row
from tests.helpers import preloaded_host_code

#: Seconds that any step may take on a busy machine.
TIMEOUT = 60.0


class ScriptFifo:
    """A FIFO through which scripts report their progress, so that tests need no sleeps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    def read_line(self) -> str:
        """Return the next line that a script wrote."""
        deadline = time.monotonic() + TIMEOUT
        while "\n" not in self._text:
            ready = select.select([self._descriptor], [], [], deadline - time.monotonic())[0]
            assert ready, "no script wrote a line"
            self._text += os.read(self._descriptor, 4096).decode()
        line, _, self._text = self._text.partition("\n")
        return line

    def close(self) -> None:
        """Close the FIFO."""
        os.close(self._descriptor)


class QueueHost:
    """The folder of a host's queue, with the code of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        folder.mkdir(mode=0o700)
        self.code = self.install()
        self.store = BlobStore(paths.contents_path(self.folder))
        self.fifo = ScriptFifo(folder.parent / "script.fifo")
        self._workers: list[subprocess.Popen[bytes]] = []
        with self.queue() as queue:
            queue.set_setting("linger", 0)

    def install(self, change: Mapping[str, bytes] | None = None) -> str:
        """Put the code below ``code``, with some files changed; return its digest."""
        digest, _ = gateway.pack_host_code()
        if change:
            digest = hashlib.sha256(digest.encode() + repr(change).encode()).hexdigest()
        folder = Path(paths.code_path(self.folder, digest))
        preloaded_host_code.install(folder)
        for name, text in (change or {}).items():
            path = folder / "nosejobs_host" / name
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
        """Store a tree of executable files; return its Content."""
        entries = []
        for path, text in sorted(files.items()):
            digest, size = self._add(text.encode())
            entries.append(ManifestEntry(path, FILE, 0o755, digest, size))
        return self.entries(entries)

    def entries(self, entries: list[ManifestEntry]) -> Content:
        """Store a tree of files that are in the store; return its Content."""
        part = self._add(json.dumps(entries).encode())
        return Content(TREE, *self._add(json.dumps([part]).encode()))

    def archive(self, data: bytes, name: str = "build.zip") -> Content:
        """Store an archive; return its Content."""
        return Content(ARCHIVE, *self._add(data), name)

    # -- jobs ---------------------------------------------------------------------

    @contextlib.contextmanager
    def queue(self) -> Iterator[Queue]:
        """Open the queue, as any process of this host does."""
        with Queue(self.folder) as queue:
            yield queue

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
        """Submit a job of shell scripts; ``tests`` has fields of Test or JobTest for some."""
        texts = {name: f"#!/bin/sh\n{text}\n" for name, text in scripts.items()}
        cases = []
        for number, name in enumerate(scripts):
            fields = dict((tests or {}).get(name, {}))
            options = {key: fields.pop(key) for key in ("retries", "unmet") if key in fields}
            cases.append(
                JobTest(name, Test(number, name, **{"timeout": 30.0, **fields}), **options)
            )
        settings = JobConfig(**{"slots": 2, "grace": 0.2, **config})
        new = NewJob(str(uuid.uuid4()), self.tree(texts), build, settings, tuple(cases))
        with self.queue() as queue:
            return queue.submit(new._replace(priority=priority), code or self.code, time.time())

    def find(self, job: JobRow) -> JobRow:
        """Return the current row of a job."""
        with self.queue() as queue:
            return queue.find(job.id)

    def attempts(self, job: JobRow) -> list[AttemptRow]:
        """Return all attempts of a job."""
        with self.queue() as queue:
            return queue.get_attempts(job.number)

    def cancel(self, job: JobRow) -> None:
        """Cancel a job, as a job session does."""
        with self.queue() as queue:
            queue.cancel(job, time.time())
        worker_launcher.wake_worker(self.folder)

    # -- workers ------------------------------------------------------------------

    def worker(self, python: str = sys.executable) -> subprocess.Popen[bytes]:
        """Start a worker as a child of the test."""
        command = [python, *worker_launcher.build_command("worker", self.folder, self.code)[1:]]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._workers.append(process)
        return process

    def drain(self) -> None:
        """Let a worker do everything that is to be done."""
        process = self.worker()
        assert process.wait(TIMEOUT) == 0, self.log()

    def runner(self, worker: subprocess.Popen[bytes]) -> int:
        """Return the process id of the running job; a worker has no other children without
        notifications.
        """
        children = process_tree.list_children(worker.pid)
        assert len(children) == 1
        return children[0]

    def log(self) -> str:
        """Return the log of the workers."""
        path = Path(self.folder) / worker_launcher.LOG_NAME
        return path.read_text() if path.exists() else ""

    # -- packages -----------------------------------------------------------------

    def package(self, job: JobRow) -> Package:
        """Return the package of a job that is ready."""
        row = self.find(job)
        assert row.state == State.READY, f"{row.state} {row.waiting_reason}\n{self.log()}"
        data = Path(paths.package_path(self.folder, job.id)).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (
            row.package_digest,
            row.package_size,
        )
        return Package(data)

    def leftovers(self, job: JobRow) -> list[orphans.Process]:
        """Return the processes of all attempts of a job."""
        rows = self.attempts(job)
        return [
            p
            for row in rows
            for p in orphans.find_orphans(row.id, paths.workspace_path(self.folder, row.id))
        ]

    def close(self) -> None:
        """Kill the workers and all that they started."""
        for process in self._workers:
            if process.poll() is None:
                process.kill()
                process.wait()
        with contextlib.suppress(Exception), self.queue() as queue:
            for job in queue.list_jobs():
                for attempt in queue.get_attempts(job.number):
                    orphans.kill_orphans(attempt.id, paths.workspace_path(self.folder, attempt.id))
        self.fifo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Package:
    """The content of a package, read without the code under test."""

    def __init__(self, data: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.manifest = json.loads(self.files["manifest.json"])

    def executions(self, name: str = "executions.jsonl") -> dict[tuple[int, int], Execution]:
        """Return the executions by test and attempt."""
        rows = [json.loads(line) for line in self.files[name].splitlines()]
        executions = {(row[0], row[1]): execution_from_row(row[2]) for row in rows}
        assert list(executions) == sorted(executions)
        assert len(executions) == len(rows)
        return executions

    def exits(self) -> dict[str, int | None]:
        """Return the exit status of the last execution of each test, by name."""
        names = [row[0] for row in self.manifest["tests"]]
        return {names[number]: each.exit_status for (number, _), each in self.executions().items()}

    @property
    def log(self) -> str:
        """Return the lines of the install command and of the tests."""
        return self.files["log.txt"].decode()


class WebhookReceiver:
    """An HTTP server on loopback that responds with the given statuses, then with 204."""

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
        """Stop the server and close its port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def is_dead(pid: int) -> bool:
    """Return whether a process is gone, or a zombie that is not a child of this process."""
    return process_identity.identify(pid) is None


def kill(pid: int) -> None:
    """Kill a process with SIGKILL."""
    os.kill(pid, signal.SIGKILL)
