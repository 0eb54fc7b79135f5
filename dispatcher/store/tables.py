"""The dispatcher's tables, defined in SQLAlchemy Core.

This module owns the names of tables and columns and their meaning; the migrations create them.  It
must not depend on policy.  Timestamps are seconds since the epoch (UTC); a JSON column holds a
value that only one module reads.  docs/dispatcher-schema.md is generated from this module.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


def escape_invalid_characters(text: str) -> str:
    r"""Return text that every database can store: invalid bytes become ``\xff``, NUL ``\x00``.

    File names, branches and output contain bytes that are not UTF-8; Python decodes these as
    surrogates (PEP 383), which neither SQLite nor PostgreSQL accepts.
    """
    if text.isascii() and "\0" not in text:
        return text
    text = text.replace("\0", "\\x00")
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # an unpaired surrogate from JSON, which stands for no byte
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


class StorableText(TypeDecorator[str]):
    """A text column whose values are escaped on write, so that no text fails a transaction."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """Escape the characters that a database cannot store."""
        return None if value is None else escape_invalid_characters(value)


#: Constraints have predictable names, so that migrations can change them.
METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str, comment: str) -> Column[str]:
    """Return a text column that is empty by default."""
    return Column(name, StorableText, nullable=False, server_default="", comment=comment)


source = Table(
    "source",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number of the source"),
    Column(
        "name",
        StorableText,
        nullable=False,
        unique=True,
        comment="name in the dispatcher's settings",
    ),
    Column("kind", StorableText, nullable=False, comment="git or directory"),
    _text("error", "why the last poll failed; empty: it succeeded"),
    Column("polled_at", Float, comment="when the source was polled last"),
    comment="A watched repository or directory. Its settings are in the dispatcher's file.",
)

head = Table(
    "head",
    METADATA,
    Column("source", ForeignKey("source.id"), primary_key=True, comment="source of the branch"),
    Column("branch", StorableText, primary_key=True, comment="name; empty for a directory"),
    Column("revision", StorableText, nullable=False, comment="revision at the last poll"),
    comment="The revision of each branch at the last poll.",
)

change = Table(
    "change",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number; later changes have higher ones"),
    Column("source", ForeignKey("source.id"), nullable=False, comment="source of the revision"),
    Column("branch", StorableText, nullable=False, comment="branch of the revision"),
    Column(
        "revision", StorableText, nullable=False, comment="commit, or digest of a directory's tree"
    ),
    _text("previous_revision", "head of the branch before; empty: the branch is new"),
    Column(
        "forced",
        Boolean,
        nullable=False,
        server_default="0",
        comment="whether it is not a descendant of previous_revision",
    ),
    _text("author", "author of the commit"),
    _text("subject", "first line of the commit message"),
    Column("seen_at", Float, nullable=False, comment="when the dispatcher saw it first"),
    Index("ix_change_branch", "source", "branch"),
    comment="A revision seen in a source.",
)

build = Table(
    "build",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number of the build"),
    Column(
        "change",
        ForeignKey("change.id"),
        nullable=False,
        unique=True,
        comment="change that is built",
    ),
    Column("state", StorableText, nullable=False, comment="model.BuildState"),
    _text("detail", "reason for the state, as text"),
    _text("tree_digest", "digest of the tree"),
    Column(
        "config",
        JSON(none_as_null=True),
        comment="validated nosejobs.toml of the revision; null: not read yet, or invalid",
    ),
    _text("inputs_digest", "digest of the build's inputs; equal inputs reuse an artifact"),
    _text("artifact_digest", "digest of the artifact"),
    Column("artifact_size", Integer, nullable=False, server_default="0", comment="size in bytes"),
    Column(
        "reused_build",
        ForeignKey("build.id"),
        comment="build that made the artifact; null: this one",
    ),
    Column(
        "level",
        StorableText,
        nullable=False,
        server_default="goop",
        comment="goop, or the highest level of its config whose tags it has",
    ),
    Column("created_at", Float, nullable=False, comment="when the build was created"),
    Column("ended_at", Float, comment="when it was built, or had failed for good"),
    Column("removed_at", Float, comment="when retention removed its artifact and results"),
    Index("ix_build_inputs_digest", "inputs_digest"),
    Index("ix_build_state", "state"),
    comment="The build of a change.",
)

stage_run = Table(
    "stage_run",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number of the stage run"),
    Column("build", ForeignKey("build.id"), nullable=False, comment="build that is tested"),
    Column("stage", StorableText, nullable=False, comment="name of the stage"),
    Column("number", Integer, nullable=False, comment="run of this stage, from 1"),
    Column("state", StorableText, nullable=False, comment="model.StageState"),
    _text("detail", "reason for the state, as text"),
    _text("config_digest", "digest of the stage's config"),
    Column(
        "selected_tests",
        JSON(none_as_null=True),
        comment="node ids, for a re-run of failed tests; null: all tests",
    ),
    Column("hosts_lost", Integer, nullable=False, server_default="0", comment="hosts lost so far"),
    _text("requested_by", "person who requested the run; empty: policy"),
    Column("started_at", Float, comment="when its first job was planned"),
    Column("ended_at", Float, comment="when it reached a final state"),
    UniqueConstraint("build", "stage", "number"),
    Index("ix_stage_run_state", "state"),
    comment="One run of a stage of a build. The build command is the stage named build.",
)

job = Table(
    "job",
    METADATA,
    Column(
        "id", StorableText, primary_key=True, comment="UUID, chosen before the job is submitted"
    ),
    Column("stage_run", ForeignKey("stage_run.id"), nullable=False, comment="stage run of the job"),
    Column("host", StorableText, nullable=False, comment="host that runs the job"),
    Column("part", Integer, nullable=False, comment="number of the host, shard or peer, from 0"),
    Column("attempt", Integer, nullable=False, comment="from 1; one more after a lost host"),
    Column("state", StorableText, nullable=False, comment="model.JobState"),
    _text("end_reason", "end reason that the host reported, such as completed or timed-out"),
    _text("detail", "reason for the state, as text"),
    Column("tests", JSON(none_as_null=True), comment="node ids of a shard; null: all tests"),
    _text("package_digest", "digest of the result package; empty: not harvested"),
    Column("planned_at", Float, nullable=False, comment="when this row was created"),
    Column("submitted_at", Float, comment="when the host accepted the job"),
    Column("harvested_at", Float, comment="when the result package was stored"),
    Column("removed_at", Float, comment="when retention removed its package and results"),
    UniqueConstraint("stage_run", "part", "attempt"),
    Index("ix_job_state", "state"),
    Index("ix_job_host", "host", "state"),
    comment="A durable job on a host.",
)

result = Table(
    "result",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number; short, because each case repeats it"),
    Column(
        "job", ForeignKey("job.id", ondelete="CASCADE"), nullable=False, comment="job of the test"
    ),
    Column("number", Integer, nullable=False, comment="number of the test in its job"),
    Column("nodeid", StorableText, nullable=False, comment="node id of the test"),
    Column("outcome", StorableText, nullable=False, comment="passed, failed, skipped, error"),
    Column("message", StorableText, nullable=False, comment="such as exit 3, killed by SIGSEGV"),
    Column("duration", Float, nullable=False, comment="seconds"),
    Column(
        "attempts", Integer, nullable=False, server_default="1", comment="how often the test ran"
    ),
    Column(
        "infrastructure",
        Boolean,
        nullable=False,
        server_default="0",
        comment="whether the infrastructure failed, not the test",
    ),
    _text("earlier_failures", "why earlier attempts failed, a line for each; empty: it ran once"),
    UniqueConstraint("job", "number"),
    Index("ix_result_nodeid", "nodeid"),
    comment="The outcome of a test of a job.",
)

case = Table(
    "case_result",
    METADATA,
    Column(
        "result",
        ForeignKey("result.id", ondelete="CASCADE"),
        primary_key=True,
        comment="result of the test",
    ),
    Column("number", Integer, primary_key=True, comment="number of the case in its test, from 0"),
    Column("name", StorableText, nullable=False, comment="name that the program gave"),
    Column(
        "outcome",
        StorableText,
        nullable=False,
        comment="an outcome of a result, xfailed or xpassed",
    ),
    _text("message", "why it failed or was skipped"),
    Column("duration", Float, comment="seconds; null: the program reported none"),
    sqlite_with_rowid=False,
    comment="A sub-result that a program named. Rows are stored in the order of their key.",
)

measurement = Table(
    "measurement",
    METADATA,
    Column(
        "result",
        ForeignKey("result.id", ondelete="CASCADE"),
        primary_key=True,
        comment="result of the test",
    ),
    Column("case_number", Integer, primary_key=True, comment="number of the case; -1: the test"),
    Column("name", StorableText, primary_key=True, comment="name that the program gave"),
    Column("value", Float, nullable=False, comment="measured number"),
    _text("unit", "unit that the program gave"),
    Index("ix_measurement_name", "name"),
    sqlite_with_rowid=False,
    comment="A number that a test reported: a JUnit property or a TAP YAML value.",
)

tag = Table(
    "tag",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number of the tag"),
    Column("build", ForeignKey("build.id"), nullable=False, comment="build that passed"),
    Column(
        "artifact_digest", StorableText, nullable=False, comment="digest of the build's artifact"
    ),
    Column("stage", StorableText, nullable=False, comment="stage that the build passed"),
    Column(
        "config_digest",
        StorableText,
        nullable=False,
        comment="digest of the stage's config; empty: granted by hand",
    ),
    Column("stage_run", ForeignKey("stage_run.id"), comment="null: granted by hand"),
    Column(
        "jobs",
        JSON(none_as_null=True),
        nullable=False,
        comment="UUIDs of the jobs whose results count",
    ),
    Column("actor", StorableText, nullable=False, comment="policy, or the name of a person"),
    Column("granted_at", Float, nullable=False, comment="when the tag was granted"),
    Column("revoked_at", Float, comment="when the tag was revoked; null: it is valid"),
    _text("revocation_reason", "why it was revoked"),
    Column(
        "serial",
        Integer,
        nullable=False,
        server_default="0",
        comment="0; id of the tag once it is revoked, so that another can be granted",
    ),
    UniqueConstraint("build", "stage", "config_digest", "serial"),
    # A tag that a person revoked must not be granted again for the same stage run.
    UniqueConstraint("stage_run"),
    comment="This build passed this stage.",
)

decision = Table(
    "decision",
    METADATA,
    Column("build", ForeignKey("build.id"), primary_key=True, comment="build"),
    Column("stage", StorableText, primary_key=True, comment="name of the stage"),
    Column("kind", StorableText, nullable=False, comment="model.DecisionKind"),
    Column("actor", StorableText, nullable=False, comment="person who decided"),
    _text("reason", "reason that was given"),
    Column("decided_at", Float, nullable=False, comment="when it was decided"),
    comment="A person's decision on a stage of a build.",
)

host = Table(
    "host",
    METADATA,
    Column(
        "name",
        StorableText,
        primary_key=True,
        comment="name in the dispatcher's settings, or chosen by its pool",
    ),
    Column("spec", StorableText, nullable=False, comment="execnet spec"),
    Column("labels", JSON(none_as_null=True), nullable=False, comment="list of texts"),
    Column(
        "slots",
        Integer,
        nullable=False,
        server_default="0",
        comment="concurrent tests; 0: number of cores",
    ),
    _text("pool", "pool that created the host; empty: a static host"),
    Column("state", StorableText, nullable=False, comment="model.HostState"),
    _text("reason", "reason for the state"),
    Column(
        "consecutive_failures",
        Integer,
        nullable=False,
        server_default="0",
        comment="infrastructure failures in a row",
    ),
    Column(
        "jobs_ended", Integer, nullable=False, server_default="0", comment="jobs that it has ended"
    ),
    Column("last_seen_at", Float, comment="when the host answered last"),
    Column("facts", JSON(none_as_null=True), comment="facts that the host reports about itself"),
    Column("handle", JSON(none_as_null=True), comment="the pool's own data about the host"),
    comment="The state of a host, beyond its configuration.",
)

audit = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number of the entry"),
    Column("recorded_at", Float, nullable=False, comment="when it was done"),
    Column(
        "actor",
        StorableText,
        nullable=False,
        comment="person, or policy; empty: the dispatcher itself",
    ),
    Column("action", StorableText, nullable=False, comment="what was done"),
    Column("build", Integer, comment="build that it was done to; null: none"),
    _text("detail", "reason or circumstances"),
    Index("ix_audit_build", "build"),
    comment="The log of who did what to what, for people.",
)

duration = Table(
    "duration",
    METADATA,
    Column("source", Integer, primary_key=True, comment="number of the source"),
    Column("stage", StorableText, primary_key=True, comment="name of the stage"),
    Column("nodeid", StorableText, primary_key=True, comment="node id of the test"),
    Column("seconds", Float, nullable=False, comment="moving average"),
    comment="The average duration of a test, to balance shards and start long tests first.",
)

key_value = Table(
    "key_value",
    METADATA,
    Column("name", StorableText, primary_key=True, comment="key"),
    Column("value", LargeBinary, nullable=False, comment="bytes; only their writer reads them"),
    comment="Small values by name that must survive a restart and have no table of their own.",
)
