"""The loop: read rows, ask policy, act, write; until there is nothing left to be done.

Owns which decision is made of which rows, and that each is one transaction with all that comes of
it.  Whatever takes longer is asked of ``tasks`` first, and decided about when the answer is there.
So a step can end at any line and be made again: rows are as if it had never begun, or as if it had
been made.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError, UsageError

from . import artifact, config, harvest, model
from . import builds as trees_of
from .artifact import BuildFailed
from .builds import Examined
from .checkouts import CheckoutCache
from .config import Mode, Stage, Tree
from .evidence import Blob, BlobStore
from .model import (
    BUILD,
    BuildEvent,
    BuildState,
    HostState,
    JobState,
    StageEvent,
    StageRun,
    StageState,
)
from .policy import placement, pooling, promotion, retry
from .policy.placement import Place, Waits, Wish
from .policy.retry import newest
from .settings import Settings
from .store import Store, audit, board, builds, durations, hosts, jobs, notes, stage_runs, tags
from .store.board import Rows
from .store.engine import changes_of
from .store.results import Counts
from .tasks import Tasks, Trouble

_LOG = logging.getLogger(__name__)
#: Under which the newest entry of the audit is noted that was looked at.
_NOTE = "reconciled"
#: Seconds between two looks though nobody has written anything.
_LOOK = 30.0
#: Seconds until a look that failed is repeated.
_AGAIN = 1.0
#: Trees and artefacts that are worked on at the same time.
_THREADS = 4
#: Characters of what a row says.
_WORDS = 8000
#: How it begins if somebody has to do something about it, or time.
_WAITS = "it waits: "


@dataclass(frozen=True)
class _Part:
    """A job that is to be planned."""

    part: int
    attempt: int = 1
    tests: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Want:
    """A stage run that wants hosts."""

    rows: Rows
    run: StageRun
    wish: Wish
    #: Called when there are hosts: what each of them is for.
    parts: Callable[[], Sequence[_Part]]
    #: Of a run that goes on: why some of its parts go again.
    why: str = ""


@dataclass
class Seen:
    """What a look at all rows has come to, beside rows."""

    #: What waits for hosts that are not there, for pools.
    waits: list[Waits] = field(default_factory=list)
    #: Jobs that are to end on their hosts: their peers are gone.
    stop: set[str] = field(default_factory=set)
    #: Rows were written, of which all were told who wait; and there is more to be decided.
    wrote: bool = False
    again: bool = False


class Reconciler:
    """Decides about all builds, again and again."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        trees: CheckoutCache,
        blobs: BlobStore,
        tell: Callable[[Seen], None] = lambda seen: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``tell``: called after each look, with what is for others to do."""
        self._store, self._settings = store, settings
        self._trees, self._blobs = trees, blobs
        self._tell, self._clock = tell, clock
        self._tasks = Tasks(store.due.signal)
        self._audited = -1
        #: By active build, what the last look has seen of it: rows of which nothing has come.
        self._known: dict[int, Rows] = {}
        self._marks: dict[int, set[Any]] = {}
        #: By build, its config as its row has it, and what that means.
        self._configs: dict[int, tuple[object, Tree]] = {}
        self._closed = threading.Event()

    # -- the loop -----------------------------------------------------------------

    def step(self) -> Seen:
        """All that can be done now."""
        while True:
            count = self._store.due.now()
            seen = self._look()
            if not self._tasks.answer() and self._is_done(count, seen):
                return seen

    def run(self) -> None:
        """Until ``close``: whenever something has changed."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="task") as executor:
            while not self._closed.is_set():
                count = self._store.due.now()
                try:
                    seen = self._look()
                except Exception as error:
                    trace = not isinstance(error, NosejobsError)
                    _LOG.error("builds cannot be looked after: %s", error, exc_info=trace)
                    self._closed.wait(_AGAIN)
                    continue
                self._tasks.answer(executor)
                if not seen.again:
                    self._store.due.wait(count + seen.wrote, _LOOK)

    def _is_done(self, count: int, seen: Seen) -> bool:
        """Nobody but us has written anything since ``count``, and we need no other look."""
        return not seen.again and self._store.due.now() <= count + seen.wrote

    def close(self) -> None:
        """The loop ends, with what it is at."""
        self._closed.set()
        self._store.due.signal()

    def _look(self) -> Seen:
        """One look at all rows, and what it decides, in one transaction."""
        with self._store.write() as connection:
            before = changes_of(connection)
            if self._audited < 0:
                self._audited = int(notes.get(connection, _NOTE) or 0)
            audited, touched = board.audited(connection, self._audited)
            marks = board.marks(connection)
            look = _Look(connection, self)
            look.all(self._found(connection, marks, touched))
            last = board.audited(connection, audited)[0]
            if last != self._audited:
                notes.put(connection, _NOTE, b"%d" % last)
            look.seen.wrote = changes_of(connection) != before
        self._audited, self._known, self._configs = last, look.known, look.configs
        self._marks = marks
        self._tell(look.seen)
        return look.seen

    def _found(
        self, connection: Connection, marks: Mapping[int, set[Any]], touched: Set[int]
    ) -> list[Rows]:
        """Rows of active builds, and of those that somebody has touched, oldest first.

        Most of them are as they were at the last look, and are not read again.
        """
        same = {
            build: self._known[build]
            for build, mark in marks.items()
            if build in self._known and build not in touched and self._marks.get(build) == mark
        }
        read = board.of(connection, (marks.keys() | touched) - same.keys())
        return sorted([*same.values(), *read], key=lambda rows: rows.build.id)

    # -- what takes longer --------------------------------------------------------

    def _examined(self, rows: Rows) -> Examined | Trouble | None:
        return self._tasks.ask(
            ("examine", rows.build.id),
            lambda: trees_of.examine(self._trees.get(rows.source, rows.change.revision)),
        )

    def _tests(self, rows: Rows, stage: Stage) -> tuple[str, ...] | Trouble | None:
        def find() -> tuple[str, ...] | Trouble:
            checkout = self._trees.get(rows.source, rows.change.revision, rows.build.tree)
            try:
                return tuple(case.nodeid for case in trees_of.stage_tests(checkout, stage))
            except UsageError as error:
                return Trouble(trees_of.plain(str(error), checkout), verdict=True)

        return self._tasks.ask(("tests", rows.build.id, stage.name), find)

    def _artefact(self, tree: Tree, job: model.Job) -> Blob | Trouble | None:
        """Of a build job that was harvested; or why there is none, with the end of its log."""

        def find() -> Blob | Trouble:
            assert tree.build is not None
            path = self._blobs.path(job.package)
            with harvest.opened(path, job.host, job.id) as package:
                (result,) = harvest.read(package, job.id).results
                if job.how == "completed" and result.outcome == "passed":
                    try:
                        return artifact.store_artifact(package, tree.build, self._blobs)
                    except BuildFailed as error:
                        return Trouble(str(error))
                why = artifact.failure_reason(package, tree.build) or result.words
                return Trouble("\n".join(filter(None, [why, harvest.tail(package)])))

        return self._tasks.ask(("artefact", job.id), find)


class _Look:
    """One look: the rows as they are, and as they become."""

    def __init__(self, connection: Connection, whole: Reconciler) -> None:
        self._connection, self._whole = connection, whole
        self._now = whole._clock()
        self._every = {each.name for each in whole._settings.sources if each.bursts == "every"}
        self._hosts = hosts.every(connection)
        self._load = jobs.load(connection)
        self._wants: list[_Want] = []
        #: Whether some run has hosts, or wants them.
        self._busy = bool(self._load)
        self.seen = Seen()
        #: Rows of builds for which nothing was to be done.
        self.known: dict[int, Rows] = {}
        #: Builds of which other rows than these were written.
        self._written: set[int] = set()
        #: Those that this look had to understand, or the last one has.
        self.configs: dict[int, tuple[object, Tree]] = {}

    def all(self, found: Sequence[Rows]) -> None:
        """Builds that have begun, then new ones while there is room, then hosts."""
        for rows in found:
            if rows.build.state is not BuildState.NEW:
                self._one(rows)
        room = self._room()
        for rows in found:
            if rows.build.state is not BuildState.NEW:
                continue
            self.known[rows.build.id] = rows  # whatever is written of it changes its mark
            if rows.source in self._every or room > 0 or not (self._busy or self._wants):
                self._new(rows)
                room -= 1
        self._place()

    def _room(self) -> int:
        """Jobs that hosts could take beyond what wants them already."""
        depth = self._whole._settings.queue
        up = [host.name for host in self._hosts if host.state is HostState.UP]
        free = sum(max(0, depth - self._load.get(name, 0)) for name in up)
        return free - sum(want.wish.count for want in self._wants)

    def _one(self, rows: Rows) -> None:
        before = rows
        if rows.build.state is BuildState.BUILDING:
            rows = self._building(rows)
            self._look_ahead(rows)
        if rows.build.state is BuildState.BUILT:
            rows = self._stages(rows)
            if self._whole._known.get(rows.build.id) != rows:
                rows = self._promote(rows)
            for run in rows.runs:
                if run.state is StageState.PLACING and run.stage != BUILD:
                    self._want_stage(rows, run)
            self._look_ahead(rows)
        if rows == before and rows.build.id not in self._written:
            self.known[rows.build.id] = rows

    def _look_ahead(self, rows: Rows) -> None:
        """Find the tests of what comes next, while something runs."""
        tree = self._tree(rows)
        running = {run.stage for run in rows.runs if run.state is StageState.RUNNING}
        for stage in tree.stages if running and self._whole._tasks.has_room() else ():
            if BUILD in running or not running.isdisjoint(stage.needs):
                self._whole._tests(rows, stage)

    def _tree(self, rows: Rows) -> Tree:
        """What a build's config means: it is the same at each look."""
        build = rows.build
        found = self.configs.get(build.id) or self._whole._configs.get(build.id)
        if found is None or found[0] != build.config:
            found = build.config, config.from_data(build.config or {})
        self.configs[build.id] = found
        return found[1]

    # -- builds -------------------------------------------------------------------

    def _move_build(self, rows: Rows, event: BuildEvent, **fields: object) -> Rows:
        if "detail" in fields:
            fields["detail"] = _short(str(fields["detail"]))
        if not builds.move(self._connection, rows.build.id, event, **fields):
            return rows
        build = builds.get(self._connection, rows.build.id)
        assert build is not None
        detail = build.detail.partition("\n")[0]
        audit.write(self._connection, self._now, f"build {build.state}", detail, build=build.id)
        return replace(rows, build=build)

    def _new(self, rows: Rows) -> None:
        """Look at its tree, and begin."""
        found = self._examine(rows)
        if found is None:
            return
        rows, tree = found
        if tree.build is None:
            self._finish_itself(rows, BuildEvent.REUSE)
            return
        other = builds.reusable(self._connection, rows.change.source, rows.build.inputs)
        if other is not None and self._whole._blobs.holds(other.digest):
            self._one(
                self._move_build(
                    rows, BuildEvent.REUSE, digest=other.digest, size=other.size,
                    reused=other.reused or other.id, ended=self._now,
                    detail=f"its inputs are those of build {other.reused or other.id}",
                )
            )  # fmt: skip
            return
        rows = self._move_build(rows, BuildEvent.BEGIN)
        run = StageRun(0, rows.build.id, BUILD, state=StageState.PLACING, config=rows.build.inputs)
        self._building(self._added(rows, run))

    def _examine(self, rows: Rows) -> tuple[Rows, Tree] | None:
        """The config of its commit is in its row; None: not yet, or there will be none."""
        found = self._whole._examined(rows)
        if found is None:
            return None
        if isinstance(found, Trouble) and found.again is not None:
            self._describe(rows, f"{_WAITS}{found.words}")
            return None
        self._whole._tasks.forget(("examine", rows.build.id))
        if isinstance(found, Trouble):
            self._give_up(rows, BuildEvent.FAIL, found.words)
            return None
        builds.describe(self._connection, rows.build.id, tree=found.tree)
        if found.config is None:
            is_new = rows.build.state is BuildState.NEW
            self._give_up(rows, BuildEvent.REJECT if is_new else BuildEvent.FAIL, found.why)
            return None
        told = {"config": found.config.data, "inputs": found.inputs, "detail": ""}
        builds.describe(self._connection, rows.build.id, **told)
        build = builds.get(self._connection, rows.build.id)
        assert build is not None
        return replace(rows, build=replace(build, size=found.size)), found.config

    def _give_up(self, rows: Rows, event: BuildEvent, why: str) -> None:
        """Its tree is of no use; a run of its build command that was asked for ends with it."""
        for run in rows.runs:
            if run.stage == BUILD and run.state.idle:
                rows = self._move_run(rows, run, StageEvent.FAIL, why)
        self._move_build(rows, event, detail=why, ended=self._now)

    def _describe(self, rows: Rows, words: str) -> None:
        if rows.build.detail != _short(words):
            builds.describe(self._connection, rows.build.id, detail=_short(words))

    def _finish_itself(self, rows: Rows, event: BuildEvent) -> None:
        """The tree is the build."""
        fields = {"digest": rows.build.tree, "size": rows.build.size, "ended": self._now}
        self._one(self._move_build(rows, event, **fields))

    def _building(self, rows: Rows) -> Rows:
        """Its build command is to be run, runs, or has run."""
        if rows.build.config is None:
            found = self._examine(rows)
            if found is None:
                return rows
            rows = found[0]
        tree = self._tree(rows)
        runs = [run for run in rows.runs if run.stage == BUILD]
        if tree.build is None:
            self._finish_itself(rows, BuildEvent.FINISH)
            return rows
        if not runs:
            new = StageRun(0, rows.build.id, BUILD, state=StageState.PLACING)
            rows = self._added(rows, new)
            runs = [run for run in rows.runs if run.stage == BUILD]
        run = runs[-1]
        if run.state.idle:
            self._want_build(rows, run, tree)
        elif run.state is StageState.RUNNING:
            return self._build_runs(rows, run, tree)
        else:
            detail = run.detail or f"its build command was {run.state}"
            return self._move_build(rows, BuildEvent.FAIL, detail=detail, ended=self._now)
        return rows

    def _build_runs(self, rows: Rows, run: StageRun, tree: Tree) -> Rows:
        """What has become of the one job of a build command."""
        assert tree.build is not None
        parts = _parts(rows, run)
        step = retry.step(config.build_stage(tree.build), parts)
        if step.event in (StageEvent.PASS, StageEvent.FAIL):
            kept = self._whole._artefact(tree, parts[0].job)
            if isinstance(kept, Trouble) and kept.again is not None:
                self._describe(rows, f"{_WAITS}{kept.words}")
                return rows
            if kept is None:
                return rows
            return self._built(rows, run, kept, step.event)
        if step.event is not None:
            rows = self._move_run(rows, run, step.event, step.detail)
            return self._move_build(rows, BuildEvent.FAIL, detail=step.detail, ended=self._now)
        if step.again:
            self._want_build(rows, run, tree, step.detail)
        else:
            self._tell(rows, run, step)
        return rows

    def _built(self, rows: Rows, run: StageRun, kept: Blob | Trouble, event: StageEvent) -> Rows:
        if isinstance(kept, Trouble):
            words = kept.words.partition("\n")[0]
            rows = self._move_run(rows, run, StageEvent.FAIL, words)
            words = f"the build command failed: {kept.words}"
            return self._move_build(rows, BuildEvent.FAIL, detail=words, ended=self._now)
        rows = self._move_run(rows, run, event, "")
        return self._move_build(
            rows, BuildEvent.FINISH, digest=kept.digest, size=kept.size, ended=self._now, detail=""
        )

    # -- stages -------------------------------------------------------------------

    def _move_run(self, rows: Rows, run: StageRun, event: StageEvent, detail: str) -> Rows:
        to = model.after(model.STAGES, run.state, event)
        fields: dict[str, object] = {"detail": _short(detail)}
        if to.over:
            fields["ended"] = self._now
        if not stage_runs.move(self._connection, run.id, event, **fields):
            return rows
        return _with(rows, replace(run, state=to, **fields))  # type: ignore[arg-type]

    def _added(self, rows: Rows, run: StageRun) -> Rows:
        number = stage_runs.add(self._connection, run)
        if number is None:
            return rows
        return replace(rows, runs=(*rows.runs, replace(run, id=number)))

    def _stages(self, rows: Rows) -> Rows:
        """What has become of the jobs of its stages."""
        tree = self._tree(rows)
        for run in rows.runs:
            stage = tree.stage(run.stage)
            if run.state is not StageState.RUNNING or stage is None:
                continue
            step = retry.step(stage, _parts(rows, run))
            self.seen.stop.update(step.stop)
            if step.event is not None:
                rows = self._move_run(rows, run, step.event, step.detail)
            elif step.again:
                self._want_again(rows, run, stage, step)
            else:
                self._tell(rows, run, step)
        return rows

    def _promote(self, rows: Rows) -> Rows:
        """Tags, level, and what may run next."""
        tree = self._tree(rows)
        facts = promotion.Facts(rows.build.state, tree, rows.runs, rows.tags, rows.decisions)
        plan = promotion.plan(facts)
        if plan.revoke or plan.give:
            self._written.add(rows.build.id)
        for revoke in plan.revoke:
            who = {"who": model.POLICY, "reason": revoke.reason, "at": self._now}
            tags.revoke_tag(self._connection, revoke.tag, **who)  # type: ignore[arg-type]
        for give in plan.give:
            tags.give_tag(self._connection, self._tag(rows, give))
        for begin in plan.begin:
            fields = (0, rows.build.id, begin.stage, 1, begin.state, begin.detail, begin.config)
            rows = self._added(rows, StageRun(*fields))
        by_id = {run.id: run for run in rows.runs}
        for move in plan.move:
            rows = self._move_run(rows, by_id[move.run], move.event, move.detail)
        if builds.set_level(self._connection, rows.build.id, plan.level):
            words = f"level {plan.level}"
            audit.write(self._connection, self._now, words, build=rows.build.id)
        return rows

    def _tag(self, rows: Rows, give: promotion.Give) -> model.Tag:
        found = jobs.of_runs(self._connection, give.runs)
        by_run: dict[int, list[model.Job]] = {}
        for job in found:
            by_run.setdefault(job.stage_run, []).append(job)
        ids = tuple(job.id for each in by_run.values() for job in newest(each))
        build = rows.build
        return model.Tag(
            0, build.id, build.digest, give.stage, give.config, give.run, ids, given=self._now
        )

    # -- hosts --------------------------------------------------------------------

    def _want_build(self, rows: Rows, run: StageRun, tree: Tree, why: str = "") -> None:
        assert tree.build is not None
        if run.state.idle and run.state is not StageState.PLACING:
            rows = self._move_run(rows, run, StageEvent.READY, "")
            run = next(each for each in rows.runs if each.id == run.id)
        wish = placement.wish_of(
            config.build_stage(tree.build), run.id, _name(rows, run), [rows.build.tree]
        )
        found = newest(_jobs(rows, run))
        attempt = found[0].attempt + 1 if found else 1
        avoid = frozenset(job.host for job in _jobs(rows, run))
        self._wants.append(
            _Want(rows, run, replace(wish, avoid=avoid), lambda: [_Part(0, attempt)], why)
        )

    def _want_stage(self, rows: Rows, run: StageRun) -> None:
        """Hosts for a run that has none; or its end, if it has no tests."""
        stage = self._tree(rows).stage(run.stage)
        assert stage is not None
        tests = self._whole._tests(rows, stage)
        if tests is None:
            return
        if isinstance(tests, Trouble):
            self._cannot(rows, run, tests)
            return
        wanted = tests if run.only is None else run.only
        if not wanted:
            self._cannot(rows, run, Trouble("its names and tags select no test", verdict=True))
            return
        if not set(tests).issuperset(wanted):
            # What is left of them would make a tag that says more than it knows.
            self._cannot(rows, run, Trouble("the stage has no such tests: run all of it again"))
            return
        wish = placement.wish_of(stage, run.id, _name(rows, run), [rows.build.digest])
        before = newest(_jobs(rows, run))
        if before:
            self._want_all_again(rows, run, wish, before)
        elif stage.mode is Mode.SHARD:
            count = min(stage.hosts, len(wanted))
            self._wants.append(
                _Want(
                    rows, run, replace(wish, count=count),
                    lambda: self._shards(rows, stage, wanted, count),
                )
            )  # fmt: skip
        else:
            parts = [_Part(number) for number in range(stage.hosts)]
            self._wants.append(_Want(rows, run, wish, lambda: parts))

    def _cannot(self, rows: Rows, run: StageRun, why: Trouble) -> None:
        """It ends before it has begun; what needs it hears of that at the next look."""
        self.seen.again |= why.again is None
        if why.again is not None:
            words = _short(f"{_WAITS}{why.words}")
            stage_runs.move(self._connection, run.id, StageEvent.READY, detail=words)
            return
        self._whole._tasks.forget(("tests", rows.build.id, run.stage))
        self._move_run(rows, run, StageEvent.FAIL if why.verdict else StageEvent.GIVE_UP, why.words)

    def _shards(
        self, rows: Rows, stage: Stage, tests: Sequence[str], count: int
    ) -> Sequence[_Part]:
        known = durations.known(self._connection, rows.change.source, stage.name)
        found = placement.shards(tests, known, count)
        return [_Part(number, 1, tests) for number, tests in enumerate(found)]

    def _want_all_again(
        self, rows: Rows, run: StageRun, wish: Wish, before: Sequence[model.Job]
    ) -> None:
        parts = [_Part(job.part, job.attempt + 1, job.tests) for job in before]
        avoid = frozenset(job.host for job in before if job.state is JobState.LOST)
        wish = replace(wish, count=len(parts), avoid=avoid)
        self._wants.append(_Want(rows, run, wish, lambda: parts))

    def _want_again(self, rows: Rows, run: StageRun, stage: Stage, step: retry.Step) -> None:
        """Hosts for the parts of a run that were lost, while its other parts go on."""
        wanted, found = set(step.again), newest(_jobs(rows, run))
        lost = [job for job in found if job.part in wanted]
        parts = [_Part(job.part, job.attempt + 1, job.tests) for job in lost]
        wish = placement.wish_of(stage, run.id, _name(rows, run), [rows.build.digest])
        taken = frozenset(job.host for job in found if job.part not in wanted)
        avoid = frozenset(job.host for job in _jobs(rows, run) if job.part in wanted)
        wish = replace(wish, count=len(parts), taken=taken, avoid=avoid)
        self._wants.append(_Want(rows, run, wish, lambda: parts, step.detail))

    def _place(self) -> None:
        """All wishes together, oldest first."""
        if not self._wants:
            return
        self._wants.sort(key=lambda want: (want.rows.build.id, want.run.id))
        by_run = {want.run.id: want for want in self._wants}
        depth = self._whole._settings.queue
        wishes = [want.wish for want in self._wants]
        for answer in placement.place(wishes, self._places(), depth):
            want = by_run[answer.wish]
            if isinstance(answer, Waits):
                self.seen.waits.append(answer)
                help = pooling.no_help(answer, self._whole._settings.pools)
                self._wait(want, "; ".join(filter(None, [answer.words, help])))
            else:
                self._plan(want, answer.hosts)

    def _places(self) -> list[Place]:
        digests = {want.rows.build.id: want.wish.contents for want in self._wants}
        cached: dict[str, set[str]] = {}
        if len(self._hosts) > 1:
            for build, names in board.hosts_of(self._connection, digests).items():
                for name in names:
                    cached.setdefault(name, set()).update(digests[build])
        return [
            Place(host, self._load.get(host.name, 0), frozenset(cached.get(host.name, ())))
            for host in self._hosts
        ]

    def _wait(self, want: _Want, words: str) -> None:
        """Most that wait have done so before: their rows say it, and are not written again."""
        run = want.run
        if run.state is StageState.RUNNING:
            self._say(run, f"{want.why}; it waits: {words}")
        elif run.state is not StageState.PLACING or run.detail != _short(words):
            stage_runs.move(self._connection, run.id, StageEvent.READY, detail=_short(words))

    def _tell(self, rows: Rows, run: StageRun, step: retry.Step) -> None:
        """Of one that goes on: what its jobs wait for, until they do not."""
        found = [job for job in newest(_jobs(rows, run)) if job.state.open and job.detail]
        stuck = [f"{job.host}: {job.detail}" for job in found]
        words = step.detail or (f"{_WAITS}{'; '.join(stuck)}" if stuck else "")
        if words or run.detail.startswith(_WAITS):
            self._say(run, words)

    def _say(self, run: StageRun, words: str) -> None:
        """Of a run that goes on."""
        if run.detail != _short(words):
            stage_runs.describe(self._connection, run.id, detail=_short(words))

    def _plan(self, want: _Want, names: Sequence[str]) -> None:
        """Rows for its jobs; whoever speaks with their hosts sees them."""
        run, parts = want.run, want.parts()
        fields = {"lost": _lost(want.rows, run), "detail": _short(want.why)}
        if run.state is StageState.RUNNING:
            stage_runs.describe(self._connection, run.id, **fields)
        elif not stage_runs.move(
            self._connection, run.id, StageEvent.PLACE, began=run.began or self._now, **fields
        ):
            return
        made = [
            model.Job(
                str(uuid.uuid4()), run.id, name, each.part, each.attempt, tests=each.tests,
                planned=self._now,
            )
            for each, name in zip(parts, names, strict=False)
        ]  # fmt: skip
        jobs.plan(self._connection, made)


def _name(rows: Rows, run: StageRun) -> str:
    return f"{run.stage} of build {rows.build.id}"


def _with(rows: Rows, run: StageRun) -> Rows:
    """The rows after one run has changed."""
    return replace(rows, runs=tuple(run if each.id == run.id else each for each in rows.runs))


def _jobs(rows: Rows, run: StageRun) -> list[model.Job]:
    return [job for job in rows.jobs if job.stage_run == run.id]


def _lost(rows: Rows, run: StageRun) -> int:
    return sum(job.state is JobState.LOST for job in _jobs(rows, run))


def _parts(rows: Rows, run: StageRun) -> list[retry.Part]:
    counts: Mapping[str, Counts] = dict(rows.counts)
    return [_part(job, counts.get(job.id, Counts())) for job in newest(_jobs(rows, run))]


def _part(job: model.Job, counts: Counts) -> retry.Part:
    failed = counts.failed + counts.error - counts.infrastructure
    return retry.Part(job, sum(counts[:4]), failed, counts.infrastructure)


def _short(words: str) -> str:
    return words if len(words) <= _WORDS else f"{words[:_WORDS]} ..."
