"""Durable jobs: submit latency, jobs drained a second, bytes of a second job, harvest MB/s.

The queue, its contents and its packages are on a disk, as a loss of power must not cost them
anything; where it is said, they are in memory, which shows what the disk takes.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import fleet  # noqa: E402
import measure  # noqa: E402
import ssh  # noqa: E402
from measure import Contender, Run, RunFailed  # noqa: E402

from shell_runner.hosts import gateway  # noqa: E402
from shell_runner.hosts import spec as hosts  # noqa: E402
from shell_runner.jobs import jobfile, submission  # noqa: E402
from shell_runner.jobs.client import JobClient  # noqa: E402
from shell_runner.remote.jobs import paths, queue, queue_location, worker_launcher  # noqa: E402
from shell_runner.remote.processes import process_identity  # noqa: E402
from shell_runner.remote.sessions import job_session  # noqa: E402
from tests.helpers.queue_host import QueueHost  # noqa: E402

NAME = "jobs"
#: Files here survive a loss of power, where the machine has a disk at all.
_DISK = "/var/tmp"
#: Seconds that anything may take.
_PATIENCE = 300.0
#: The command as an installed one runs, of this checkout.
COMMAND = [
    sys.executable, "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    "from shell_runner.cli.main import main; main()",
]  # fmt: skip
_VARIABLES = ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME")
_SUBMIT_NOTES = (
    "The whole command, from its start to its end: it plans the tests, opens the host, brings what "
    "is missing (after the first time: nothing), and the row is on the disk before the answer "
    "comes. A worker is at work meanwhile. tsp (task-spooler) and nq queue a command on the same "
    "machine, in C and without a connection; what they know is lost with their process or with "
    "the power, and they have no contents, no attempts, and no results but an output file.",
)
_OPEN_NOTES = (
    "The same without the start of the command. Open connection: one request and its answer, as "
    "a dispatcher submits. The host's part: the share that the job session takes.",
)
_DRAIN_NOTES = (
    "A worker is started with the full queue, and leaves when it is empty. Each job is unpacked "
    "into a workspace of its own, run in a fresh slot, recorded, and packaged; all of it is on "
    "the disk when the job is ready. tsp runs the same script as often; it keeps the output in a "
    "file, and nothing on purpose on a disk. 'controller' is the worker's memory, 'below' its "
    "runner and the slots.",
)
_HARVEST_NOTES = (
    "The whole command; the package is verified (SHA-256 of all, then each member) and on the "
    "disk before it has its name. cp and scp do neither; `cp, sync` waits for the disk.",
)


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that it works."""
    skipped: list[str] = []
    tables, plain = [], {}
    with folders() as (disk, memory):
        with state(disk / "submit"):
            tables += _submit(disk / "submit", 1 if smoke else 5, 3 if smoke else 50, skipped)
        tables += _drain(disk, memory, smoke, skipped)
        with state(disk / "bytes"):
            plain.update(_bytes(disk / "bytes", 1 << 20 if smoke else 20 << 20))
        with state(disk / "harvest"):
            found, megabytes = _harvest(
                disk / "harvest", (4 if smoke else 200) << 20, 1 if smoke else 5, skipped
            )
            tables.append(found)
            plain.update(megabytes)
    return {"tables": tables, "skipped": skipped, **plain}


# -- places -----------------------------------------------------------------------


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """Yield a folder on a disk and one in memory."""
    base = _DISK if os.path.isdir(_DISK) and os.access(_DISK, os.W_OK) else None
    disk = Path(tempfile.mkdtemp(prefix="bench-", dir=base)).resolve()
    try:
        with measure.workspace() as memory:
            yield disk, memory
    finally:
        shutil.rmtree(disk, ignore_errors=True)


@contextlib.contextmanager
def state(folder: Path) -> Iterator[None]:
    """Keep all state of host and client below ``folder``; leave no worker behind."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    for name in _VARIABLES:
        os.environ[name] = str(folder / name.lower())
        (folder / name.lower()).mkdir(parents=True)
    try:
        yield
    finally:
        end_workers(folder)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_workers(folder: Path) -> None:
    """Kill the workers of all queues below a folder."""
    for found in folder.rglob("queue.db"):
        _end_worker(str(found.parent))


def _end_worker(folder: str) -> None:
    with queue.Queue(folder) as there:
        found = there.get_worker()
    if found is None or not process_identity.is_alive(found.identity):
        return
    os.kill(found.identity.pid, 9)
    while process_identity.is_alive(found.identity):
        time.sleep(0.01)


def _script(folder: Path, name: str, body: str = "true") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    measure.write_script(folder / name, body)
    return folder


def _median(values: list[float]) -> Run:
    return Run(statistics.median(values), 0.0, 0, 0)


# -- submit -----------------------------------------------------------------------


def _submit(folder: Path, rounds: int, count: int, skipped: list[str]) -> list[dict[str, Any]]:
    tests = _script(folder / "tests", "test_one.sh")
    with contextlib.ExitStack() as stack:
        hosts_of = {"popen": "popen"}
        if measure.has_module("cryptography"):
            agent = stack.enter_context(fleet.agents(folder / "fleet", 1))[0]
            hosts_of["agent"] = agent.spec(1)
        else:
            skipped.append("agents: cryptography is not installed")
        contenders = [
            Contender(f"nosejobs job submit, {name}", _submitting(spec, tests), folder)
            for name, spec in hosts_of.items()
        ]
        contenders += queueing_contenders(stack, folder, tests / "test_one.sh", skipped)
        for each in contenders:
            each.run()  # the first time, the host lacks all
        whole = measure.in_turn(contenders, rounds)
        parts = {
            f"open connection, {name}": submit_over_open_connection(spec, tests, rounds, count)
            for name, spec in hosts_of.items()
        }
        parts["host's part"] = measure_host_part(rounds, count)
    base = "tsp" if "tsp" in whole else contenders[0].name
    words = measure.format_rounds(rounds)
    return [
        measure.table(f"submit, the whole command, {words}", whole, base, _SUBMIT_NOTES),
        measure.table(
            f"submit, one of {count}, {words}", parts, "open connection, popen", _OPEN_NOTES
        ),
    ]


def _submitting(spec: str, tests: Path) -> list[str]:
    return [*COMMAND, "job", "submit", "--host", spec, "--tests", str(tests)]


def queueing_contenders(
    stack: contextlib.ExitStack, folder: Path, script: Path, skipped: list[str]
) -> Iterator[Contender]:
    """Return the peers on the same machine."""
    if shutil.which("tsp"):
        stack.enter_context(task_spooler(folder / "tsp"))
        yield Contender("tsp", ["tsp", str(script)], folder)
    else:
        skipped.append("tsp is not installed (Debian: task-spooler)")
    if shutil.which("nq"):
        yield Contender("nq", ["nq", "-q", str(script)], _script(folder / "nq", "x"))
    else:
        skipped.append("nq is not installed (Debian: nq)")


@contextlib.contextmanager
def task_spooler(folder: Path) -> Iterator[None]:
    """Run a task spooler server of our own."""
    folder.mkdir()
    os.environ["TS_SOCKET"] = str(folder / "socket")
    subprocess.run(["tsp", "-S", "1"], check=True, env=measure.environment())
    try:
        yield
    finally:
        subprocess.run(["tsp", "-K"], check=True, env=measure.environment())
        del os.environ["TS_SOCKET"]


def submit_over_open_connection(spec: str, tests: Path, rounds: int, count: int) -> list[Run]:
    """Submit over an open connection."""
    with JobClient(hosts.parse_specs([spec], {})[0]) as client:
        ready = _ready(client, tests)
        client.submit(ready.job, ready.trees)

        def submit() -> None:
            job = ready.job._replace(id=str(uuid.uuid4()))
            client.submit(job, ready.trees)

        return median_times(submit, rounds, count)


def _ready(client: JobClient, tests: Path, **options: str) -> submission.Submission:
    wanted = jobfile.describe_job(None, {"tests": str(tests), **options}, os.environ)
    return submission.prepare_submission(wanted, client.spec, str(uuid.uuid4()))


def measure_host_part(rounds: int, count: int) -> list[Run]:
    """Measure the host's part of a submission: check contents, write the row, wake the worker."""
    folder = queue_location.find_queue_folder()
    with queue.Queue(folder) as there:
        last = there.list_jobs(limit=1)[0]
        tests = there.get_tests(last.number)
    alone = job_session.JobSession(None, folder, paths.code_path(folder, last.code))
    row = {
        "tests": last.tests, "build": None, "config": last.config._asdict(), "cases": tests,
        "name": "", "labels": (), "priority": 0,
    }  # fmt: skip

    def submit() -> None:
        job = json.loads(json.dumps({**row, "id": str(uuid.uuid4())}))
        alone._handlers["submit"](job=job)

    return median_times(submit, rounds, count)


def median_times(action: Callable[[], None], rounds: int, count: int) -> list[Run]:
    """Return the median of ``count`` times, for each round."""
    runs = []
    for _ in range(rounds):
        taken = []
        for _ in range(count):
            begin = time.perf_counter()
            action()
            taken.append(time.perf_counter() - begin)
        runs.append(_median(taken))
    return runs


# -- drain ------------------------------------------------------------------------


def _drain(disk: Path, memory: Path, smoke: bool, skipped: list[str]) -> list[dict[str, Any]]:
    rounds = 1 if smoke else 2
    few, many = (3, 3) if smoke else (100, 1000)
    with contextlib.ExitStack() as stack:
        full = QueueTemplate(memory / "full")
        contenders = [
            full.contender(f"{few} jobs of 1 test", disk, few, 1),
            full.contender(f"{few} jobs of 10 tests", disk, few, 10),
        ]
        if not smoke:
            contenders.append(full.contender(f"{few} jobs of 1 test, in memory", memory, few, 1))
        if shutil.which("tsp"):
            contenders.append(drain_with_task_spooler(stack, memory / "tsp", few))
        else:
            skipped.append("tsp is not installed (Debian: task-spooler)")
        runs = measure.in_turn(contenders, rounds)
        tables = [
            measure.table(
                f"drained by one worker, {measure.format_rounds(rounds)}", runs,
                contenders[-1].name, _DRAIN_NOTES, memory=True,
            ),
            divide_by_count(runs, {each.name: few for each in contenders}),
        ]  # fmt: skip
        if many > few:
            large = full.contender(f"{many} jobs of 1 test", disk, many, 1)
            runs = measure.in_turn([large], 1)
            tables += [
                measure.table(f"{many} jobs, 1 round", runs, large.name, (), memory=True),
                divide_by_count(runs, {large.name: many}),
            ]
    return tables


def divide_by_count(runs: Mapping[str, list[Run]], counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the seconds of one job."""
    single = {
        name: [Run(run.wall / counts[name], run.cpu / counts[name], 0, 0) for run in done]
        for name, done in runs.items()
    }
    return measure.table("each job", single, list(single)[-1])


class QueueTemplate:
    """A template of a host's folder with its code, copied with waiting jobs in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: Digest of the code of each full folder.
        self._codes: dict[Path, str] = {}
        folder.mkdir()

    def contender(self, name: str, base: Path, count: int, tests: int) -> Contender:
        """Return a contender: a worker that drains so many jobs of so many tests."""
        full = self._folder / f"{count}-{tests}"
        if full not in self._codes:
            self._codes[full] = _fill(full, count, tests)
        place = base / f"drain-{count}-{tests}"

        def copy() -> None:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(full, place)
            os.sync()

        def check() -> float:
            with queue.Queue(str(place)) as there:
                counts = there.count_jobs()
                last = there.get_attempts(there.list_jobs(limit=1)[0].number)[-1]
                passed = there.count_outcomes(last.id)
            if counts[queue.State.READY] != count or passed != {"passed": tests}:
                words = (place / worker_launcher.LOG_NAME).read_text()[-2000:]
                raise RunFailed(f"{name}: {counts}, {passed}\n{words}")
            return 0.0

        copy()
        command = worker_launcher.build_command("worker", str(place), self._codes[full])
        return Contender(name, command, base, before=copy, check=check)


def _fill(folder: Path, count: int, tests: int) -> str:
    """Add waiting jobs and their contents; return the digest of their code."""
    with QueueHost(folder) as host:
        scripts = {f"test_{number}.sh": "true" for number in range(tests)}
        for _ in range(count):
            host.submit(scripts)
        host.fifo.path.unlink()
        # As on any host that has run a job before.
        compileall.compile_dir(paths.code_path(host.folder, host.code), quiet=1)
    return host.code


#: Queue scripts behind one that waits, let it go, and wait for the last one.
_TSP = """\
set -e
tsp -n sh -c 'read x < go'
for i in $(seq {count}); do tsp {script} > /dev/null; done
date +%s.%N > begin
echo > go
tsp -w
date +%s.%N > end
"""


def drain_with_task_spooler(stack: contextlib.ExitStack, folder: Path, count: int) -> Contender:
    """Measure the drain without the queueing: see ``_ReTimed``."""
    stack.enter_context(task_spooler(folder))
    script = _script(folder, "test_one.sh") / "test_one.sh"
    os.mkfifo(folder / "go")
    _script(folder, "all.sh", _TSP.format(count=count, script=script))
    return SelfTimedContender(f"tsp, {count} times the test", [str(folder / "all.sh")], folder)


class SelfTimedContender(Contender):
    """A contender that reports itself when the measured part began and ended."""

    def run(self) -> Run:
        done = super().run()
        begin, end = (float((self.cwd / name).read_text()) for name in ("begin", "end"))
        return Run(**{**vars(done), "wall": end - begin})


# -- bytes ------------------------------------------------------------------------


def _bytes(folder: Path, size: int) -> dict[str, Any]:
    """Measure the bytes sent for the first and for the second job with the same build."""
    build, tests = folder / "build", _script(folder / "tests", "test_one.sh")
    _noise(build, size)
    archive = shutil.make_archive(str(folder / "build"), "gztar", build)
    found: dict[str, Any] = {}
    with JobClient(hosts.parse_specs(["popen"], {})[0]) as client:
        client.get_limits()  # opens the host
        for words, path in (("folder", build), ("archive", Path(archive))):
            ready = _ready(client, tests, build=str(path))
            for which in ("first", "second"):
                job = ready.job._replace(id=str(uuid.uuid4()))
                with record_frame_lengths() as sent:
                    _, brought = client.submit(job, ready.trees)
                what = f"build of {size >> 20} MiB, {words}, {which} job"
                found[f"{what}: bytes to the host"] = sum(sent)
            if sum(sent) > 10_000:
                raise RunFailed(f"{what}: {sum(sent)} bytes; {brought}")
            found[f"{what}: of these, for contents"] = sum(each.wire_bytes for each in brought)
    return found


def _noise(folder: Path, size: int) -> None:
    """Write files that cannot be compressed."""
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(os.urandom(size // 20))


@contextlib.contextmanager
def record_frame_lengths() -> Iterator[list[int]]:
    """Record the lengths of all frames that are sent."""
    sent: list[int] = []
    send = gateway.Gateway.send

    def count(self: gateway.Gateway, frame: bytes) -> None:
        sent.append(len(frame))
        send(self, frame)

    gateway.Gateway.send = count  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        gateway.Gateway.send = send  # type: ignore[method-assign]


# -- harvest ----------------------------------------------------------------------


def _harvest(
    folder: Path, size: int, rounds: int, skipped: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    body = f'head -c {size} /dev/urandom > "$TEST_UNDECLARED_OUTPUTS_DIR/noise"'
    tests = _script(folder / "tests", "test_noise.sh", body)
    file = folder / "job.toml"
    file.write_text(f'tests = "{tests}"\nartifacts = {size * 2}\n')
    with contextlib.ExitStack() as stack:
        hosts_of = {"popen": "popen"}
        if rounds > 1 and measure.has_module("cryptography"):
            agent = stack.enter_context(fleet.agents(folder / "fleet", 1))[0]
            hosts_of["agent"] = agent.spec(1)
        rates: dict[str, Any] = {}
        target = folder / "here.zip"
        contenders, path = [], None
        for name, spec in hosts_of.items():
            found = _packaged(spec, file)
            argv = [*COMMAND, "job", "harvest", "--host", spec, "--no-ack"]
            argv += ["--out", str(target), found]
            contenders.append(_copying(f"nosejobs job harvest, {name}", argv, target, size))
            path = path or paths.package_path(queue_location.find_queue_folder(), found)
            rates[f"open connection, {name}: MB/s"] = _downloaded(spec, found, target, rounds)
        assert path is not None
        argv = ["cp", path, str(target)]
        contenders.append(_copying("cp", argv, target, size))
        argv = ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", path, str(target)]
        contenders.append(_copying("cp, sync", argv, target, size))
        if ssh.missing_program() or rounds == 1:
            skipped.append(f"scp: {ssh.missing_program() or 'a server'} is not there")
        else:
            config = stack.enter_context(ssh.server(folder))
            argv = ["scp", "-O", "-q", "-F", str(config), f"bench:{path}", str(target)]
            contenders.append(_copying("scp", argv, target, size))
        runs = measure.in_turn(contenders, rounds)
    title = f"harvest of {size >> 20} MiB, {measure.format_rounds(rounds)}"
    for name, done in runs.items():
        rates[f"{name}: MB/s"] = size / 1e6 / statistics.median(run.wall for run in done)
    return measure.table(title, runs, "scp" if "scp" in runs else "cp", _HARVEST_NOTES), rates


def _downloaded(spec: str, job: str, target: Path, rounds: int) -> float:
    """Return the MB/s of a package that is fetched, stored and verified."""
    rates = []
    with JobClient(hosts.parse_specs([spec], {})[0]) as client:
        for _ in range(rounds):
            target.unlink(missing_ok=True)
            begin = time.perf_counter()
            found = client.download(job, target, lambda part: None)
            rates.append(found.package_size / 1e6 / (time.perf_counter() - begin))
    return statistics.median(rates)


def _packaged(spec: str, file: Path) -> str:
    """Run a job to its end; return its UUID."""
    argv = [*COMMAND, "job", "submit", "--host", spec, "--config", str(file), "--wait"]
    argv += ["--out", str(file.parent / "first.zip")]
    done = subprocess.run(argv, env=measure.environment(), capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(f"{' '.join(argv)}: {done.stderr}")
    (file.parent / "first.zip").unlink()
    return done.stdout.strip()


def _copying(name: str, argv: list[str], target: Path, size: int) -> Contender:
    def before() -> None:
        target.unlink(missing_ok=True)
        os.sync()

    def check() -> float:
        if target.stat().st_size < size:
            raise RunFailed(f"{name}: {target.stat().st_size} bytes")
        return 0.0

    return Contender(name, argv, target.parent, before=before, check=check)
