"""The dispatcher's tables, as SQLAlchemy Core has them.

Owns names, columns and what they mean; the migrations make them.  Must not know policy.  Dates
are seconds since the epoch; JSON columns hold what only one module reads.
"""

from __future__ import annotations

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
    UniqueConstraint,
)

#: Names of constraints that migrations can rely on.
METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: A watched tree; its settings are in the dispatcher's file.
source = Table(
    "source",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False, comment="git or directory"),
    Column("trouble", Text, nullable=False, server_default="", comment="why it cannot be read"),
    Column("looked", Float, comment="when it was looked at last"),
)

#: Where each branch stood when it was looked at last.
head = Table(
    "head",
    METADATA,
    Column("source", ForeignKey("source.id"), primary_key=True),
    Column("branch", Text, primary_key=True),
    Column("revision", Text, nullable=False),
)

#: One revision seen in a source.
change = Table(
    "change",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("source", ForeignKey("source.id"), nullable=False),
    Column("branch", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("before", Text, nullable=False, server_default="", comment="the revision before it"),
    Column("forced", Boolean, nullable=False, server_default="0", comment="not a descendant of it"),
    Column("author", Text, nullable=False, server_default=""),
    Column("subject", Text, nullable=False, server_default=""),
    Column("seen", Float, nullable=False),
    UniqueConstraint("source", "branch", "revision", "before"),
)

#: The build of a change.
build = Table(
    "build",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("change", ForeignKey("change.id"), nullable=False, unique=True),
    Column("state", Text, nullable=False, comment="model.BuildState"),
    Column("detail", Text, nullable=False, server_default="", comment="why, for people"),
    Column("tree", Text, nullable=False, server_default="", comment="digest of the tree"),
    Column("config", JSON, comment="the checked config of that commit"),
    Column("inputs", Text, nullable=False, server_default="", comment="key for reuse"),
    Column("digest", Text, nullable=False, server_default="", comment="of the artefact"),
    Column("size", Integer, nullable=False, server_default="0"),
    Column("reused", ForeignKey("build.id"), comment="the build that made the artefact"),
    Column("level", Text, nullable=False, server_default="goop"),
    Column("began", Float, nullable=False),
    Column("ended", Float),
    Index("ix_build_inputs", "inputs"),
    Index("ix_build_state", "state"),
)

#: One go at a stage of a build.  The build command itself is the stage named "build".
stage_run = Table(
    "stage_run",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("build", ForeignKey("build.id"), nullable=False),
    Column("stage", Text, nullable=False),
    Column("number", Integer, nullable=False, comment="from 1; re-runs count on"),
    Column("state", Text, nullable=False, comment="model.StageState"),
    Column("detail", Text, nullable=False, server_default="", comment="why, for people"),
    Column("config", Text, nullable=False, server_default="", comment="digest of its config"),
    Column("only", JSON, comment="node ids, for a re-run of failed tests"),
    Column("lost", Integer, nullable=False, server_default="0", comment="hosts lost so far"),
    Column("who", Text, nullable=False, server_default="", comment="who asked; empty: policy"),
    Column("began", Float),
    Column("ended", Float),
    UniqueConstraint("build", "stage", "number"),
    Index("ix_stage_run_state", "state"),
)

#: A durable job on a host.
job = Table(
    "job",
    METADATA,
    Column("id", Text, primary_key=True, comment="UUID, made before it is submitted"),
    Column("stage_run", ForeignKey("stage_run.id"), nullable=False),
    Column("host", Text, nullable=False),
    Column("part", Integer, nullable=False, comment="number of the host, shard or peer, from 0"),
    Column("attempt", Integer, nullable=False, comment="from 1; again after a lost host"),
    Column("state", Text, nullable=False, comment="model.JobState"),
    Column("how", Text, nullable=False, server_default="", comment="how it ended on the host"),
    Column("detail", Text, nullable=False, server_default=""),
    Column("tests", JSON, comment="node ids of a shard; null: all"),
    Column("package", Text, nullable=False, server_default="", comment="digest of its package"),
    Column("planned", Float, nullable=False),
    Column("submitted", Float),
    Column("harvested", Float),
    UniqueConstraint("stage_run", "part", "attempt"),
    Index("ix_job_state", "state"),
    Index("ix_job_host", "host", "state"),
)

#: The outcome of a test of a job.
result = Table(
    "result",
    METADATA,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("nodeid", Text, nullable=False),
    Column("outcome", Text, nullable=False, comment="passed, failed, skipped, error"),
    Column("words", Text, nullable=False, comment="exit 3, killed by SIGSEGV"),
    Column("duration", Float, nullable=False),
    Column("tries", Integer, nullable=False, server_default="1"),
    Column("infrastructure", Boolean, nullable=False, server_default="0"),
    Index("ix_result_nodeid", "nodeid"),
)

#: A sub-result that a program named.
case = Table(
    "case_result",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("test", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("message", Text, nullable=False, server_default=""),
    Column("duration", Float),
)

#: A number that a test reported: JUnit property or TAP YAML.
measurement = Table(
    "measurement",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("test", Integer, primary_key=True),
    Column("case_number", Integer, primary_key=True, comment="-1: of the test itself"),
    Column("name", Text, primary_key=True),
    Column("value", Float, nullable=False),
    Column("unit", Text, nullable=False, server_default=""),
)

#: This build passed this stage.
tag = Table(
    "tag",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("build", ForeignKey("build.id"), nullable=False),
    Column("digest", Text, nullable=False, comment="of the build"),
    Column("stage", Text, nullable=False),
    Column("config", Text, nullable=False, comment="digest of the stage's config"),
    Column("stage_run", ForeignKey("stage_run.id"), comment="null: given by hand"),
    Column("jobs", JSON, nullable=False, comment="UUIDs of the jobs that count"),
    Column("who", Text, nullable=False, comment="policy, or a name"),
    Column("given", Float, nullable=False),
    Column("revoked", Float),
    Column("reason", Text, nullable=False, server_default="", comment="of the revocation"),
    # One that is revoked makes room for another: its id is then its own serial.
    Column("serial", Integer, nullable=False, server_default="0"),
    UniqueConstraint("build", "stage", "config", "serial"),
)

#: What a person decided for a stage of a build.
decision = Table(
    "decision",
    METADATA,
    Column("build", ForeignKey("build.id"), primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("kind", Text, nullable=False, comment="approved or held"),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("given", Float, nullable=False),
)

#: What is known of a host beyond its configuration.
host = Table(
    "host",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("pool", Text, nullable=False, server_default=""),
    Column("state", Text, nullable=False, comment="model.HostState"),
    Column("reason", Text, nullable=False, server_default=""),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row"),
    Column("jobs", Integer, nullable=False, server_default="0", comment="that it has ended"),
    Column("seen", Float, comment="when it answered last"),
    Column("facts", JSON),
    Column("handle", JSON, comment="the pool's own words for it"),
)

#: What has happened, for people: who did what to what.
audit = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("build", Integer),
    Column("detail", Text, nullable=False, server_default=""),
)

#: How long a test took on average, for shards and for longest first.
duration = Table(
    "duration",
    METADATA,
    Column("source", Integer, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("nodeid", Text, primary_key=True),
    Column("seconds", Float, nullable=False),
)

#: Small things by name: what has to survive and fits nowhere else.
note = Table(
    "note",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
