"""The dispatcher's tables, as SQLAlchemy Core has them.

Owns names, columns and what they mean; the migrations make them.  Must not know policy.  Dates
are seconds since the epoch; JSON columns hold what only one module reads.
docs/dispatcher-schema.md is made of this file.
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


def clean(text: str) -> str:
    r"""What every database takes for text, and a person can read: ``\xff``, ``\x00``.

    File names, branches and output hold bytes that are no UTF-8, as surrogates.
    """
    if text.isascii() and "\0" not in text:
        return text
    text = text.replace("\0", "\\x00")
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, from JSON: it stands for no byte
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


class Words(TypeDecorator[str]):
    """Text that is cleaned on its way in, so that no odd name can stop a transaction."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """As ``clean`` has it."""
        return None if value is None else clean(value)


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

source = Table(
    "source",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number"),
    Column("name", Words, nullable=False, unique=True, comment="as in the dispatcher's file"),
    Column("kind", Words, nullable=False, comment="git or directory"),
    Column("trouble", Words, nullable=False, server_default="", comment="why it cannot be read"),
    Column("looked", Float, comment="when it was looked at last"),
    comment="A watched tree; its settings are in the dispatcher's file.",
)

head = Table(
    "head",
    METADATA,
    Column("source", ForeignKey("source.id"), primary_key=True, comment="whose branch"),
    Column("branch", Words, primary_key=True, comment="its name; of a directory: empty"),
    Column("revision", Words, nullable=False, comment="what it points to"),
    comment="Where each branch stood when it was looked at last.",
)

change = Table(
    "change",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number; later ones are newer"),
    Column("source", ForeignKey("source.id"), nullable=False, comment="where it was seen"),
    Column("branch", Words, nullable=False, comment="on which it was seen"),
    Column("revision", Words, nullable=False, comment="commit, or digest of a directory's tree"),
    Column("before", Words, nullable=False, server_default="", comment="the revision before it"),
    Column("forced", Boolean, nullable=False, server_default="0", comment="not a descendant of it"),
    Column("author", Words, nullable=False, server_default="", comment="as the commit names it"),
    Column(
        "subject", Words, nullable=False, server_default="", comment="first line of its message"
    ),
    Column("seen", Float, nullable=False, comment="when"),
    Index("ix_change_branch", "source", "branch"),
    comment="One revision seen in a source.",
)

build = Table(
    "build",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number, as people say it"),
    Column(
        "change",
        ForeignKey("change.id"),
        nullable=False,
        unique=True,
        comment="what it is the build of",
    ),
    Column("state", Words, nullable=False, comment="model.BuildState"),
    Column("detail", Words, nullable=False, server_default="", comment="why, for people"),
    Column("tree", Words, nullable=False, server_default="", comment="digest of the tree"),
    Column("config", JSON(none_as_null=True), comment="the checked config of that commit"),
    Column("inputs", Words, nullable=False, server_default="", comment="key for reuse"),
    Column("digest", Words, nullable=False, server_default="", comment="of the artefact"),
    Column("size", Integer, nullable=False, server_default="0", comment="bytes of the artefact"),
    Column("reused", ForeignKey("build.id"), comment="the build that made the artefact"),
    Column(
        "level",
        Words,
        nullable=False,
        server_default="goop",
        comment="goop, or the highest of its config that its tags make",
    ),
    Column("began", Float, nullable=False, comment="when the change became a build"),
    Column("ended", Float, comment="when it was built, or will never be"),
    Column("removed", Float, comment="when retention removed artefact and results"),
    Index("ix_build_inputs", "inputs"),
    Index("ix_build_state", "state"),
    comment="The build of a change.",
)

stage_run = Table(
    "stage_run",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number"),
    Column("build", ForeignKey("build.id"), nullable=False, comment="whose stage"),
    Column("stage", Words, nullable=False, comment="its name"),
    Column("number", Integer, nullable=False, comment="from 1; re-runs count on"),
    Column("state", Words, nullable=False, comment="model.StageState"),
    Column("detail", Words, nullable=False, server_default="", comment="why, for people"),
    Column("config", Words, nullable=False, server_default="", comment="digest of its config"),
    Column("only", JSON(none_as_null=True), comment="node ids, for a re-run of failed tests"),
    Column("lost", Integer, nullable=False, server_default="0", comment="hosts lost so far"),
    Column("who", Words, nullable=False, server_default="", comment="who asked; empty: policy"),
    Column("began", Float, comment="when its first job was planned"),
    Column("ended", Float, comment="when it was over"),
    UniqueConstraint("build", "stage", "number"),
    Index("ix_stage_run_state", "state"),
    comment="One go at a stage of a build.  The build command itself is the stage named build.",
)

job = Table(
    "job",
    METADATA,
    Column("id", Words, primary_key=True, comment="UUID, made before it is submitted"),
    Column("stage_run", ForeignKey("stage_run.id"), nullable=False, comment="what it is a part of"),
    Column("host", Words, nullable=False, comment="where it runs"),
    Column("part", Integer, nullable=False, comment="number of the host, shard or peer, from 0"),
    Column("attempt", Integer, nullable=False, comment="from 1; again after a lost host"),
    Column("state", Words, nullable=False, comment="model.JobState"),
    Column("how", Words, nullable=False, server_default="", comment="how it ended on the host"),
    Column("detail", Words, nullable=False, server_default="", comment="why, for people"),
    Column("tests", JSON(none_as_null=True), comment="node ids of a shard; null: all"),
    Column("package", Words, nullable=False, server_default="", comment="digest of its package"),
    Column("planned", Float, nullable=False, comment="when its row was made"),
    Column("submitted", Float, comment="when the host had answered"),
    Column("harvested", Float, comment="when its package was stored"),
    Column("removed", Float, comment="when retention removed package and results"),
    UniqueConstraint("stage_run", "part", "attempt"),
    Index("ix_job_state", "state"),
    Index("ix_job_host", "host", "state"),
    comment="A durable job on a host.",
)

result = Table(
    "result",
    METADATA,
    Column("id", Integer, primary_key=True, comment="short: the cases repeat it"),
    Column("job", ForeignKey("job.id", ondelete="CASCADE"), nullable=False, comment="whose test"),
    Column("number", Integer, nullable=False, comment="of the test in its job"),
    Column("nodeid", Words, nullable=False, comment="what the test is called"),
    Column("outcome", Words, nullable=False, comment="passed, failed, skipped, error"),
    Column("words", Words, nullable=False, comment="exit 3, killed by SIGSEGV"),
    Column("duration", Float, nullable=False, comment="seconds"),
    Column("tries", Integer, nullable=False, server_default="1", comment="how often it ran"),
    Column(
        "infrastructure",
        Boolean,
        nullable=False,
        server_default="0",
        comment="not the test is to blame",
    ),
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
        comment="of which test",
    ),
    Column("number", Integer, primary_key=True, comment="of the case in its test, from 0"),
    Column("name", Words, nullable=False, comment="as the program said it"),
    Column("outcome", Words, nullable=False, comment="as of a result, and xfailed, xpassed"),
    Column(
        "message", Words, nullable=False, server_default="", comment="why it failed or was skipped"
    ),
    Column("duration", Float, comment="seconds, if the program said"),
    sqlite_with_rowid=False,
    comment="A sub-result that a program named; rows lie in the order of their key.",
)

measurement = Table(
    "measurement",
    METADATA,
    Column(
        "result",
        ForeignKey("result.id", ondelete="CASCADE"),
        primary_key=True,
        comment="of which test",
    ),
    Column("case_number", Integer, primary_key=True, comment="-1: of the test itself"),
    Column("name", Words, primary_key=True, comment="as the program said it"),
    Column("value", Float, nullable=False, comment="the number"),
    Column("unit", Words, nullable=False, server_default="", comment="as the program said it"),
    Index("ix_measurement_name", "name"),
    sqlite_with_rowid=False,
    comment="A number that a test reported: JUnit property or TAP YAML.",
)

tag = Table(
    "tag",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number"),
    Column("build", ForeignKey("build.id"), nullable=False, comment="what passed"),
    Column("digest", Words, nullable=False, comment="of the build"),
    Column("stage", Words, nullable=False, comment="what it passed"),
    Column("config", Words, nullable=False, comment="digest of the stage's config"),
    Column("stage_run", ForeignKey("stage_run.id"), comment="null: given by hand"),
    Column("jobs", JSON(none_as_null=True), nullable=False, comment="UUIDs of the jobs that count"),
    Column("who", Words, nullable=False, comment="policy, or a name"),
    Column("given", Float, nullable=False, comment="when"),
    Column("revoked", Float, comment="when; null: it counts"),
    Column("reason", Words, nullable=False, server_default="", comment="of the revocation"),
    Column(
        "serial",
        Integer,
        nullable=False,
        server_default="0",
        comment="0, and its own id once revoked: room for another",
    ),
    UniqueConstraint("build", "stage", "config", "serial"),
    # So what a person revokes is not given again behind their back.
    UniqueConstraint("stage_run"),
    comment="This build passed this stage.",
)

decision = Table(
    "decision",
    METADATA,
    Column("build", ForeignKey("build.id"), primary_key=True, comment="of what"),
    Column("stage", Words, primary_key=True, comment="which one"),
    Column("kind", Words, nullable=False, comment="approved or held"),
    Column("who", Words, nullable=False, comment="who decided"),
    Column("reason", Words, nullable=False, server_default="", comment="why"),
    Column("given", Float, nullable=False, comment="when"),
    comment="What a person decided for a stage of a build.",
)

host = Table(
    "host",
    METADATA,
    Column(
        "name", Words, primary_key=True, comment="as in the dispatcher's file, or made by its pool"
    ),
    Column("spec", Words, nullable=False, comment="how it is reached"),
    Column("labels", JSON(none_as_null=True), nullable=False, comment="list of texts"),
    Column(
        "slots",
        Integer,
        nullable=False,
        server_default="0",
        comment="tests at the same time; 0: as many as cores",
    ),
    Column("pool", Words, nullable=False, server_default="", comment="what made it; empty: static"),
    Column("state", Words, nullable=False, comment="model.HostState"),
    Column("reason", Words, nullable=False, server_default="", comment="why it is in this state"),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row"),
    Column("jobs", Integer, nullable=False, server_default="0", comment="that it has ended"),
    Column("seen", Float, comment="when it answered last"),
    Column("facts", JSON(none_as_null=True), comment="what it says of itself"),
    Column("handle", JSON(none_as_null=True), comment="the pool's own words for it"),
    comment="What is known of a host beyond its configuration.",
)

audit = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True, comment="number"),
    Column("at", Float, nullable=False, comment="when"),
    Column("who", Words, nullable=False, comment="who"),
    Column("what", Words, nullable=False, comment="what was done"),
    Column("build", Integer, comment="to which build, if to one"),
    Column("detail", Words, nullable=False, server_default="", comment="more words"),
    Index("ix_audit_build", "build"),
    comment="What has happened, for people: who did what to what.",
)

duration = Table(
    "duration",
    METADATA,
    Column("source", Integer, primary_key=True, comment="of which source"),
    Column("stage", Words, primary_key=True, comment="of which stage"),
    Column("nodeid", Words, primary_key=True, comment="of which test"),
    Column("seconds", Float, nullable=False, comment="moving mean"),
    comment="How long a test took on average, for shards and for longest first.",
)

note = Table(
    "note",
    METADATA,
    Column("name", Words, primary_key=True, comment="what is noted"),
    Column("value", LargeBinary, nullable=False, comment="bytes, for who wrote them"),
    comment="Small things by name: what has to survive and fits nowhere else.",
)
