"""The first schema.  Never changed: a later one is a file of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False, comment="number"),
        sa.Column("at", sa.Float(), nullable=False, comment="when"),
        sa.Column("who", sa.Text(), nullable=False, comment="who"),
        sa.Column("what", sa.Text(), nullable=False, comment="what was done"),
        sa.Column("build", sa.Integer(), nullable=True, comment="to which build, if to one"),
        sa.Column(
            "detail",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="more words",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        comment="What has happened, for people: who did what to what.",
    )
    op.create_index("ix_audit_build", "audit", ["build"], unique=False)
    op.create_table(
        "duration",
        sa.Column("source", sa.Integer(), nullable=False, comment="of which source"),
        sa.Column("stage", sa.Text(), nullable=False, comment="of which stage"),
        sa.Column("nodeid", sa.Text(), nullable=False, comment="of which test"),
        sa.Column("seconds", sa.Float(), nullable=False, comment="moving mean"),
        sa.PrimaryKeyConstraint("source", "stage", "nodeid", name=op.f("pk_duration")),
        comment="How long a test took on average, for shards and for longest first.",
    )
    op.create_table(
        "host",
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="as in the dispatcher's file, or made by its pool",
        ),
        sa.Column("spec", sa.Text(), nullable=False, comment="how it is reached"),
        sa.Column("labels", sa.JSON(), nullable=False, comment="list of texts"),
        sa.Column(
            "slots",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="tests at the same time; 0: as many as cores",
        ),
        sa.Column(
            "pool",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="what made it; empty: static",
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="model.HostState"),
        sa.Column(
            "reason",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why it is in this state",
        ),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False, comment="in a row"),
        sa.Column(
            "jobs", sa.Integer(), server_default="0", nullable=False, comment="that it has ended"
        ),
        sa.Column("seen", sa.Float(), nullable=True, comment="when it answered last"),
        sa.Column("facts", sa.JSON(), nullable=True, comment="what it says of itself"),
        sa.Column(
            "handle",
            sa.JSON(),
            nullable=True,
            comment="the pool's own words for it",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_host")),
        comment="What is known of a host beyond its configuration.",
    )
    op.create_table(
        "note",
        sa.Column("name", sa.Text(), nullable=False, comment="what is noted"),
        sa.Column("value", sa.LargeBinary(), nullable=False, comment="bytes, for who wrote them"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_note")),
        comment="Small things by name: what has to survive and fits nowhere else.",
    )
    op.create_table(
        "source",
        sa.Column("id", sa.Integer(), nullable=False, comment="number"),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="as in the dispatcher's file",
        ),
        sa.Column("kind", sa.Text(), nullable=False, comment="git or directory"),
        sa.Column(
            "trouble",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why it cannot be read",
        ),
        sa.Column("looked", sa.Float(), nullable=True, comment="when it was looked at last"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source")),
        sa.UniqueConstraint("name", name=op.f("uq_source_name")),
        comment="A watched tree; its settings are in the dispatcher's file.",
    )
    op.create_table(
        "change",
        sa.Column("id", sa.Integer(), nullable=False, comment="number; later ones are newer"),
        sa.Column("source", sa.Integer(), nullable=False, comment="where it was seen"),
        sa.Column(
            "branch",
            sa.Text(),
            nullable=False,
            comment="on which it was seen",
        ),
        sa.Column(
            "revision",
            sa.Text(),
            nullable=False,
            comment="commit, or digest of a directory's tree",
        ),
        sa.Column(
            "before",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="the revision before it",
        ),
        sa.Column(
            "forced",
            sa.Boolean(),
            server_default="0",
            nullable=False,
            comment="not a descendant of it",
        ),
        sa.Column(
            "author",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="as the commit names it",
        ),
        sa.Column(
            "subject",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="first line of its message",
        ),
        sa.Column("seen", sa.Float(), nullable=False, comment="when"),
        sa.ForeignKeyConstraint(["source"], ["source.id"], name=op.f("fk_change_source")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
        comment="One revision seen in a source.",
    )
    op.create_index("ix_change_branch", "change", ["source", "branch"], unique=False)
    op.create_table(
        "head",
        sa.Column("source", sa.Integer(), nullable=False, comment="whose branch"),
        sa.Column(
            "branch",
            sa.Text(),
            nullable=False,
            comment="its name; of a directory: empty",
        ),
        sa.Column("revision", sa.Text(), nullable=False, comment="what it points to"),
        sa.ForeignKeyConstraint(["source"], ["source.id"], name=op.f("fk_head_source")),
        sa.PrimaryKeyConstraint("source", "branch", name=op.f("pk_head")),
        comment="Where each branch stood when it was looked at last.",
    )
    op.create_table(
        "build",
        sa.Column("id", sa.Integer(), nullable=False, comment="number, as people say it"),
        sa.Column("change", sa.Integer(), nullable=False, comment="what it is the build of"),
        sa.Column("state", sa.Text(), nullable=False, comment="model.BuildState"),
        sa.Column(
            "detail",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why, for people",
        ),
        sa.Column(
            "tree",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="digest of the tree",
        ),
        sa.Column(
            "config",
            sa.JSON(),
            nullable=True,
            comment="the checked config of that commit",
        ),
        sa.Column(
            "inputs",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="key for reuse",
        ),
        sa.Column(
            "digest",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="of the artefact",
        ),
        sa.Column(
            "size",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="bytes of the artefact",
        ),
        sa.Column(
            "reused", sa.Integer(), nullable=True, comment="the build that made the artefact"
        ),
        sa.Column(
            "level",
            sa.Text(),
            server_default="goop",
            nullable=False,
            comment="goop, or the highest of its config that its tags make",
        ),
        sa.Column("began", sa.Float(), nullable=False, comment="when the change became a build"),
        sa.Column(
            "ended", sa.Float(), nullable=True, comment="when it was built, or will never be"
        ),
        sa.Column("removed", sa.Float(), comment="when retention removed artefact and results"),
        sa.ForeignKeyConstraint(["change"], ["change.id"], name=op.f("fk_build_change")),
        sa.ForeignKeyConstraint(["reused"], ["build.id"], name=op.f("fk_build_reused")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_build")),
        sa.UniqueConstraint("change", name=op.f("uq_build_change")),
        comment="The build of a change.",
    )
    op.create_index("ix_build_inputs", "build", ["inputs"], unique=False)
    op.create_index("ix_build_state", "build", ["state"], unique=False)
    op.create_table(
        "decision",
        sa.Column("build", sa.Integer(), nullable=False, comment="of what"),
        sa.Column("stage", sa.Text(), nullable=False, comment="which one"),
        sa.Column("kind", sa.Text(), nullable=False, comment="approved or held"),
        sa.Column("who", sa.Text(), nullable=False, comment="who decided"),
        sa.Column(
            "reason",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why",
        ),
        sa.Column("given", sa.Float(), nullable=False, comment="when"),
        sa.ForeignKeyConstraint(["build"], ["build.id"], name=op.f("fk_decision_build")),
        sa.PrimaryKeyConstraint("build", "stage", name=op.f("pk_decision")),
        comment="What a person decided for a stage of a build.",
    )
    op.create_table(
        "stage_run",
        sa.Column("id", sa.Integer(), nullable=False, comment="number"),
        sa.Column("build", sa.Integer(), nullable=False, comment="whose stage"),
        sa.Column("stage", sa.Text(), nullable=False, comment="its name"),
        sa.Column("number", sa.Integer(), nullable=False, comment="from 1; re-runs count on"),
        sa.Column("state", sa.Text(), nullable=False, comment="model.StageState"),
        sa.Column(
            "detail",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why, for people",
        ),
        sa.Column(
            "config",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="digest of its config",
        ),
        sa.Column(
            "only",
            sa.JSON(),
            nullable=True,
            comment="node ids, for a re-run of failed tests",
        ),
        sa.Column(
            "lost", sa.Integer(), server_default="0", nullable=False, comment="hosts lost so far"
        ),
        sa.Column(
            "who",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="who asked; empty: policy",
        ),
        sa.Column("began", sa.Float(), nullable=True, comment="when its first job was planned"),
        sa.Column("ended", sa.Float(), nullable=True, comment="when it was over"),
        sa.ForeignKeyConstraint(["build"], ["build.id"], name=op.f("fk_stage_run_build")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_run")),
        sa.UniqueConstraint(
            "build", "stage", "number", name=op.f("uq_stage_run_build_stage_number")
        ),
        comment="One go at a stage of a build.  The build command itself is the stage named build.",
    )
    op.create_index("ix_stage_run_state", "stage_run", ["state"], unique=False)
    op.create_table(
        "job",
        sa.Column(
            "id",
            sa.Text(),
            nullable=False,
            comment="UUID, made before it is submitted",
        ),
        sa.Column("stage_run", sa.Integer(), nullable=False, comment="what it is a part of"),
        sa.Column("host", sa.Text(), nullable=False, comment="where it runs"),
        sa.Column(
            "part",
            sa.Integer(),
            nullable=False,
            comment="number of the host, shard or peer, from 0",
        ),
        sa.Column(
            "attempt", sa.Integer(), nullable=False, comment="from 1; again after a lost host"
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="model.JobState"),
        sa.Column(
            "how",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="how it ended on the host",
        ),
        sa.Column(
            "detail",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why, for people",
        ),
        sa.Column(
            "tests",
            sa.JSON(),
            nullable=True,
            comment="node ids of a shard; null: all",
        ),
        sa.Column(
            "package",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="digest of its package",
        ),
        sa.Column("planned", sa.Float(), nullable=False, comment="when its row was made"),
        sa.Column("submitted", sa.Float(), nullable=True, comment="when the host had answered"),
        sa.Column("harvested", sa.Float(), nullable=True, comment="when its package was stored"),
        sa.Column(
            "removed",
            sa.Float(),
            nullable=True,
            comment="when retention removed package and results",
        ),
        sa.ForeignKeyConstraint(["stage_run"], ["stage_run.id"], name=op.f("fk_job_stage_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "stage_run", "part", "attempt", name=op.f("uq_job_stage_run_part_attempt")
        ),
        comment="A durable job on a host.",
    )
    op.create_index("ix_job_host", "job", ["host", "state"], unique=False)
    op.create_index("ix_job_state", "job", ["state"], unique=False)
    op.create_table(
        "tag",
        sa.Column("id", sa.Integer(), nullable=False, comment="number"),
        sa.Column("build", sa.Integer(), nullable=False, comment="what passed"),
        sa.Column("digest", sa.Text(), nullable=False, comment="of the build"),
        sa.Column("stage", sa.Text(), nullable=False, comment="what it passed"),
        sa.Column(
            "config",
            sa.Text(),
            nullable=False,
            comment="digest of the stage's config",
        ),
        sa.Column("stage_run", sa.Integer(), nullable=True, comment="null: given by hand"),
        sa.Column(
            "jobs",
            sa.JSON(),
            nullable=False,
            comment="UUIDs of the jobs that count",
        ),
        sa.Column("who", sa.Text(), nullable=False, comment="policy, or a name"),
        sa.Column("given", sa.Float(), nullable=False, comment="when"),
        sa.Column("revoked", sa.Float(), nullable=True, comment="when; null: it counts"),
        sa.Column(
            "reason",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="of the revocation",
        ),
        sa.Column(
            "serial",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="0, and its own id once revoked: room for another",
        ),
        sa.ForeignKeyConstraint(["build"], ["build.id"], name=op.f("fk_tag_build")),
        sa.ForeignKeyConstraint(["stage_run"], ["stage_run.id"], name=op.f("fk_tag_stage_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tag")),
        sa.UniqueConstraint(
            "build", "stage", "config", "serial", name=op.f("uq_tag_build_stage_config_serial")
        ),
        sa.UniqueConstraint("stage_run", name=op.f("uq_tag_stage_run")),
        comment="This build passed this stage.",
    )
    op.create_table(
        "result",
        sa.Column("id", sa.Integer(), nullable=False, comment="short: the cases repeat it"),
        sa.Column("job", sa.Text(), nullable=False, comment="whose test"),
        sa.Column("number", sa.Integer(), nullable=False, comment="of the test in its job"),
        sa.Column(
            "nodeid",
            sa.Text(),
            nullable=False,
            comment="what the test is called",
        ),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=False,
            comment="passed, failed, skipped, error",
        ),
        sa.Column(
            "words",
            sa.Text(),
            nullable=False,
            comment="exit 3, killed by SIGSEGV",
        ),
        sa.Column("duration", sa.Float(), nullable=False, comment="seconds"),
        sa.Column(
            "tries", sa.Integer(), server_default="1", nullable=False, comment="how often it ran"
        ),
        sa.Column(
            "infrastructure",
            sa.Boolean(),
            server_default="0",
            nullable=False,
            comment="not the test is to blame",
        ),
        sa.ForeignKeyConstraint(
            ["job"], ["job.id"], name=op.f("fk_result_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result")),
        sa.UniqueConstraint("job", "number", name=op.f("uq_result_job_number")),
        comment="The outcome of a test of a job.",
    )
    op.create_index("ix_result_nodeid", "result", ["nodeid"], unique=False)
    op.create_table(
        "case_result",
        sa.Column("result", sa.Integer(), nullable=False, comment="of which test"),
        sa.Column(
            "number", sa.Integer(), nullable=False, comment="of the case in its test, from 0"
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="as the program said it",
        ),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=False,
            comment="as of a result, and xfailed, xpassed",
        ),
        sa.Column(
            "message",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="why it failed or was skipped",
        ),
        sa.Column("duration", sa.Float(), nullable=True, comment="seconds, if the program said"),
        sa.ForeignKeyConstraint(
            ["result"], ["result.id"], name=op.f("fk_case_result_result"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("result", "number", name=op.f("pk_case_result")),
        sqlite_with_rowid=False,
        comment="A sub-result that a program named; rows lie in the order of their key.",
    )
    op.create_table(
        "measurement",
        sa.Column("result", sa.Integer(), nullable=False, comment="of which test"),
        sa.Column("case_number", sa.Integer(), nullable=False, comment="-1: of the test itself"),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="as the program said it",
        ),
        sa.Column("value", sa.Float(), nullable=False, comment="the number"),
        sa.Column(
            "unit",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="as the program said it",
        ),
        sa.ForeignKeyConstraint(
            ["result"], ["result.id"], name=op.f("fk_measurement_result"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("result", "case_number", "name", name=op.f("pk_measurement")),
        sqlite_with_rowid=False,
        comment="A number that a test reported: JUnit property or TAP YAML.",
    )
    op.create_index("ix_measurement_name", "measurement", ["name"], unique=False)
