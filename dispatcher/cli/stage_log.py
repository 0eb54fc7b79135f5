"""The log of a stage: the logs of all its jobs, complete or while they grow.

Logs are output of arbitrary programs: control characters are removed before they are printed.
"""

from __future__ import annotations

import codecs
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from shell_runner.errors import NosejobsError
from shell_runner.text import strip_control_chars, to_single_line

from . import tables
from .api_client import (
    ApiClient,
    DispatcherUnreachable,
    RequestRefused,
    build_path,
    retry_until_reachable,
)

ShowMessage = Callable[[str], None]


def print_logs(
    client: ApiClient, build: int, stage: str, run: int | None, follow: bool, say: ShowMessage
) -> None:
    """Print the log of a stage to standard output."""
    if follow:
        LogFollower(client, build, stage, run, say).run()
    else:
        _print_all(client, build, stage, run, say)


class _LogOutput:
    """Output of logs of several hosts: complete lines, each with the name of its host."""

    _lock = threading.Lock()

    def __init__(self, host: str) -> None:
        """``host`` is empty if there is only one."""
        self._prefix = f"{to_single_line(host, 100)} | " if host else ""
        self._partial_line = ""

    def write(self, text: str) -> None:
        """Print more text; if there are several hosts, only complete lines."""
        if not self._prefix:
            self._print(strip_control_chars(text))
            return
        *lines, self._partial_line = (self._partial_line + strip_control_chars(text)).split("\n")
        self._print("".join(f"{self._prefix}{line}\n" for line in lines))

    def finish(self) -> None:
        """Print the last line if it has no line end."""
        if self._partial_line:
            self.write("\n")

    def _print(self, text: str) -> None:
        with self._lock:
            data = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _print_all(
    client: ApiClient, build: int, stage: str, run: int | None, say: ShowMessage
) -> None:
    parameters = {"run_number": run} if run else {}
    attempts = client.get(build_path("builds", build, "stages", stage, "jobs"), **parameters)
    jobs = tables.latest_attempts(attempts)
    if not jobs:
        raise RequestRefused(_no_jobs_message(client, build, stage, run))
    done = sum(_print_job_log(client, job, len(jobs) > 1, say) for job in jobs)
    if not done:
        raise RequestRefused(f"no log of {stage} of build {build} is available")


def _no_jobs_message(client: ApiClient, build: int, stage: str, run: int | None) -> str:
    """Return the message that no host has a job of the stage yet, and the reason."""
    build_json = client.get(build_path("builds", build))
    runs = [each for each in build_json["runs"] if each["stage"] == stage]
    wanted = [each for each in runs if run in (None, each["number"])]
    why = f": it is {_state_and_detail(wanted[-1], 'state')}" if wanted else ""
    return f"{stage} of build {build} has no job on a host yet{why}"


def _state_and_detail(values: Any, key: str) -> str:
    return f"{values[key]}: {values['detail']}" if values["detail"] else str(values[key])


def _print_job_log(client: ApiClient, job: Any, many: bool, say: ShowMessage) -> bool:
    output = _LogOutput(job["host"] if many else "")
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    try:
        for data in client.stream_bytes(build_path("jobs", job["id"], "log")):
            output.write(decoder.decode(data))
    except (RequestRefused, DispatcherUnreachable) as error:
        say(str(error))
        return False
    output.write(decoder.decode(b"", True))
    output.finish()
    return True


class LogFollower:
    """Follows all logs of a run, with a thread for each job, until the run has ended."""

    def __init__(
        self, client: ApiClient, build: int, stage: str, run: int | None, say: ShowMessage
    ) -> None:
        self._client, self._build, self._stage = client, build, stage
        self._number, self._say = run, say
        self._threads: dict[str, threading.Thread] = {}
        self._last_message = ""
        #: Errors of logs that could not be read, and whether standard output was closed.
        self._errors: list[str] = []
        self._is_output_closed = False

    def run(self) -> None:
        """Follow the logs until the run has ended."""
        build_json, etag = self._client.wait_for_change(f"/builds/{self._build}", "")
        while not self._update(build_json) and not self._is_output_closed:
            build_json, etag = self._wait_for_build_change(etag)
        if not self._is_output_closed:
            for thread in self._threads.values():
                thread.join()
        if self._is_output_closed:
            raise BrokenPipeError
        if self._errors and len(self._errors) == len(self._threads):
            raise RequestRefused(f"no log of {self._stage} of build {self._build} is available")

    def _wait_for_build_change(self, etag: str) -> tuple[Any, str]:
        build_json = None
        while build_json is None:
            ask = partial(self._client.wait_for_change, build_path("builds", self._build), etag)
            build_json, etag = retry_until_reachable(ask, self._say)
        return build_json, etag

    def _update(self, build_json: Any) -> bool:
        """Start threads for new jobs; return whether the run has ended."""
        run = self._find_run(build_json)
        if run is None:
            return self._handle_missing_run(build_json)
        jobs = [job for job in build_json["jobs"] if tables.is_part_of_run(job, run)]
        many = len({job["part"] for job in jobs}) > 1
        for job in jobs:
            if job["id"] not in self._threads and job["state"] != "lost":
                self._start_thread(job, many)
        has_ended = run["state"] in ("passed", "failed", "error", "canceled")
        if not jobs and not has_ended:
            hint = f"\n  next: nosejobs approve {self._build} {self._stage}"
            self._say_once(
                tables.format_run_status(run), hint if run["state"] in ("gated", "held") else ""
            )
        return has_ended or build_json["outcome"] not in ("running", "stopped")

    def _find_run(self, build_json: Any) -> Any:
        runs = [each for each in build_json["runs"] if each["stage"] == self._stage]
        if self._number is None and runs:
            self._number = max(each["number"] for each in runs)
        return next((each for each in runs if each["number"] == self._number), None)

    def _handle_missing_run(self, build_json: Any) -> bool:
        if build_json["state"] in ("new", "building"):
            detail = f": {build_json['detail']}" if build_json["detail"] else ""
            self._say_once(f"build {self._build}: {build_json['message']}", detail)
            return False
        if not build_json["stages"]:
            raise RequestRefused(f"build {self._build}: {_state_and_detail(build_json, 'message')}")
        numbers = [str(run["number"]) for run in build_json["runs"] if run["stage"] == self._stage]
        if numbers:
            missing, known = f"run {self._number} of {self._stage}", f"runs: {', '.join(numbers)}"
        else:
            names = ", ".join(stage["name"] for stage in build_json["stages"])
            missing, known = self._stage, f"stages: {names}"
        raise RequestRefused(f"build {self._build} has no {missing}; its {known}")

    def _say_once(self, message: str, more: str) -> None:
        message += more
        if message != self._last_message:
            self._say(message)
            self._last_message = message

    def _start_thread(self, job: Any, many: bool) -> None:
        thread = threading.Thread(target=self._follow_job, args=(job, many), daemon=True)
        self._threads[job["id"]] = thread
        thread.start()

    def _follow_job(self, job: Any, many: bool) -> None:
        output = _LogOutput(job["host"] if many else "")
        if job["attempt"] > 1:
            self._say(f"-- attempt {job['attempt']}, on {job['host']} --")
        try:
            _read_events(ApiClient(self._client.url), job["id"], output, self._say)
            output.finish()
        except BrokenPipeError:
            self._is_output_closed = True
        except Exception as error:
            prefix = "" if isinstance(error, NosejobsError) else "malformed response: "
            self._errors.append(f"{prefix}{error}")
            self._say(self._errors[-1])


def _read_events(client: ApiClient, job: str, output: _LogOutput, say: ShowMessage) -> None:
    """Print a log; if the connection breaks, continue at the same position."""
    url_path, position = build_path("jobs", job, "log", "events"), ""

    def read() -> bool:
        nonlocal position
        for event in client.stream_events(url_path, position):
            if event.name == "log":
                output.write(event.data["text"])
                position = event.id
            elif event.name == "failure":
                raise RequestRefused(event.data["detail"])
            elif event.name == "end":
                return True
        raise DispatcherUnreachable(f"the dispatcher at {client.url} has stopped")

    retry_until_reachable(read, say)
