"""The log of a stage: of all its jobs, as it is, or as it grows.

Owns which jobs belong to it, and whose line is whose.  What comes is output of strangers'
programs: nothing of it drives the terminal.
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
from .api_client import Client, Refused, Unreachable, path, patient

Say = Callable[[str], None]


def logs(client: Client, build: int, stage: str, run: int | None, follow: bool, say: Say) -> None:
    """Print it to standard output."""
    if follow:
        _Following(client, build, stage, run, say).run()
    else:
        _print_all(client, build, stage, run, say)


class _Output:
    """Text that comes in pieces, from several hosts at once: whole lines, each with its host."""

    _turn = threading.Lock()

    def __init__(self, host: str) -> None:
        """``host``: empty if there is only one."""
        self._prefix = f"{to_single_line(host, 100)} | " if host else ""
        self._begun = ""

    def write(self, text: str) -> None:
        """Some more."""
        if not self._prefix:
            self._put(strip_control_chars(text))
            return
        *lines, self._begun = (self._begun + strip_control_chars(text)).split("\n")
        self._put("".join(f"{self._prefix}{line}\n" for line in lines))

    def end(self) -> None:
        """What has no line end gets one."""
        if self._begun:
            self.write("\n")

    def _put(self, text: str) -> None:
        with self._turn:
            data = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _print_all(client: Client, build: int, stage: str, run: int | None, say: Say) -> None:
    parameters = {"run": run} if run else {}
    found = client.get(path("builds", build, "stages", stage, "jobs"), **parameters)
    jobs = tables.latest(found)
    if not jobs:
        raise Refused(_not_begun(client, build, stage, run))
    done = sum(_print_one(client, job, len(jobs) > 1, say) for job in jobs)
    if not done:
        raise Refused(f"no log of {stage} of build {build} can be had")


def _not_begun(client: Client, build: int, stage: str, run: int | None) -> str:
    """That nothing has run yet, and why."""
    found = client.get(path("builds", build))
    runs = [each for each in found["runs"] if each["stage"] == stage]
    wanted = [each for each in runs if run in (None, each["number"])]
    why = f": it is {_why(wanted[-1], 'state')}" if wanted else ""
    return f"{stage} of build {build} has not been given to a host yet{why}"


def _why(found: Any, key: str) -> str:
    return f"{found[key]}: {found['detail']}" if found["detail"] else str(found[key])


def _print_one(client: Client, job: Any, many: bool, say: Say) -> bool:
    output = _Output(job["host"] if many else "")
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    try:
        for data in client.text(path("jobs", job["id"], "log")):
            output.write(decoder.decode(data))
    except (Refused, Unreachable) as error:
        say(str(error))
        return False
    output.write(decoder.decode(b"", True))
    output.end()
    return True


class _Following:
    """A thread for each job, as they come, until the run is over."""

    def __init__(self, client: Client, build: int, stage: str, run: int | None, say: Say) -> None:
        self._client, self._build, self._stage = client, build, stage
        self._number, self._say = run, say
        self._threads: dict[str, threading.Thread] = {}
        self._said = ""
        #: Why logs could not be read; and that nobody reads what is printed.
        self._troubles: list[str] = []
        self._unread = False

    def run(self) -> None:
        """To the end of the run."""
        found, tag = self._client.news(f"/builds/{self._build}", "")
        while not self._look(found) and not self._unread:
            found, tag = self._news(tag)
        if not self._unread:
            for thread in self._threads.values():
                thread.join()
        if self._unread:
            raise BrokenPipeError
        if self._troubles and len(self._troubles) == len(self._threads):
            raise Refused(f"no log of {self._stage} of build {self._build} can be had")

    def _news(self, tag: str) -> tuple[Any, str]:
        found = None
        while found is None:
            ask = partial(self._client.news, path("builds", self._build), tag)
            found, tag = patient(ask, self._say)
        return found, tag

    def _look(self, found: Any) -> bool:
        """Whether nothing more comes."""
        run = self._run(found)
        if run is None:
            return self._without(found)
        jobs = [job for job in found["jobs"] if tables.is_of(job, run)]
        many = len({job["part"] for job in jobs}) > 1
        for job in jobs:
            if job["id"] not in self._threads and job["state"] != "lost":
                self._follow(job, many)
        over = run["state"] in ("passed", "failed", "error", "cancelled")
        if not jobs and not over:
            hint = f"\n  next: nosejobs approve {self._build} {self._stage}"
            self._tell(tables.news(run), hint if run["state"] in ("gated", "held") else "")
        return over or found["outcome"] not in ("going", "stopped")

    def _run(self, found: Any) -> Any:
        runs = [each for each in found["runs"] if each["stage"] == self._stage]
        if self._number is None and runs:
            self._number = max(each["number"] for each in runs)
        return next((each for each in runs if each["number"] == self._number), None)

    def _without(self, found: Any) -> bool:
        if found["state"] in ("new", "building"):
            detail = f": {found['detail']}" if found["detail"] else ""
            self._tell(f"build {self._build}: {found['words']}", detail)
            return False
        if not found["stages"]:
            raise Refused(f"build {self._build}: {_why(found, 'words')}")
        names = ", ".join(stage["name"] for stage in found["stages"])
        which = f"run {self._number} of {self._stage}" if self._number else self._stage
        raise Refused(f"build {self._build} has no {which}; its stages: {names}")

    def _tell(self, words: str, more: str) -> None:
        words += more
        if words != self._said:
            self._say(words)
            self._said = words

    def _follow(self, job: Any, many: bool) -> None:
        thread = threading.Thread(target=self._read, args=(job, many), daemon=True)
        self._threads[job["id"]] = thread
        thread.start()

    def _read(self, job: Any, many: bool) -> None:
        output = _Output(job["host"] if many else "")
        if job["attempt"] > 1:
            self._say(f"-- attempt {job['attempt']}, on {job['host']} --")
        try:
            _read_events(Client(self._client.url), job["id"], output, self._say)
            output.end()
        except BrokenPipeError:
            self._unread = True
        except Exception as error:
            odd = "" if isinstance(error, NosejobsError) else "it cannot be understood: "
            self._troubles.append(f"{odd}{error}")
            self._say(self._troubles[-1])


def _read_events(client: Client, job: str, output: _Output, say: Say) -> None:
    """A connection that ends before the log does is made again, where it ended."""
    where, place = path("jobs", job, "log", "events"), ""

    def read() -> bool:
        nonlocal place
        for event in client.events(where, place):
            if event.name == "log":
                output.write(event.data["text"])
                place = event.id
            elif event.name == "trouble":
                raise Refused(event.data["detail"])
            elif event.name == "end":
                return True
        raise Unreachable(f"the dispatcher at {client.url} has ended")

    patient(read, say)
