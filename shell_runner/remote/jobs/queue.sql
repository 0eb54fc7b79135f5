-- The queue of a host.  Version 1.
--
-- This schema only grows: a new version adds tables, columns with a default, and indexes.
-- A new version reads whatever an older one wrote; a version that is newer than the program
-- (PRAGMA user_version) is refused by its number.

-- Limits that were set for this host; queue.SETTINGS has their names and defaults.
CREATE TABLE setting (
    name    TEXT PRIMARY KEY,
    value   INTEGER NOT NULL
) WITHOUT ROWID;

-- A job is (build, tests, config).  `number` gives the order among equal priorities.
CREATE TABLE job (
    number              INTEGER PRIMARY KEY AUTOINCREMENT,
    id                  TEXT NOT NULL UNIQUE,       -- UUID, made by the submitting client
    name                TEXT NOT NULL,              -- for people
    labels              TEXT NOT NULL,              -- JSON: list of texts
    priority            INTEGER NOT NULL,           -- higher ones first
    code                TEXT NOT NULL,              -- digest of the zip that runs it
    build               TEXT NOT NULL,              -- JSON: Content, or null
    tests               TEXT NOT NULL,              -- JSON: Content
    config              TEXT NOT NULL,              -- JSON: JobConfig as submitted
    test_count          INTEGER NOT NULL,
    state               TEXT NOT NULL,              -- states.State
    end_reason          TEXT NOT NULL DEFAULT '',   -- states.EndReason, once it has ended
    detail              TEXT NOT NULL DEFAULT '',   -- the end reason, for people
    cancel_requested    INTEGER NOT NULL DEFAULT 0, -- 1: a client has canceled it
    waiting_reason      TEXT NOT NULL DEFAULT '',   -- why it makes no progress (disk full), if so
    submitted_at        REAL NOT NULL,              -- times: seconds since the epoch, for people
    ended_at            REAL,
    package_digest      TEXT NOT NULL DEFAULT '',   -- SHA-256 of its package
    package_size        INTEGER NOT NULL DEFAULT 0, -- bytes of its package
    harvested_at        REAL                        -- when the package was acknowledged
);

-- Queued jobs in their order.
CREATE INDEX job_waiting ON job (state, priority DESC, number);

-- Lists of jobs by state, and the size of packages.
CREATE INDEX job_listed ON job (state, number, package_size);

-- The tests of a job, by position.
CREATE TABLE test (
    job         INTEGER NOT NULL REFERENCES job ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    row         TEXT NOT NULL,              -- JSON: job.JobTest
    PRIMARY KEY (job, number)
) WITHOUT ROWID;

-- Each start of a job.
CREATE TABLE attempt (
    id          TEXT PRIMARY KEY,           -- UUID; the marker in the environment of its processes
    job         INTEGER NOT NULL REFERENCES job ON DELETE CASCADE,
    number      INTEGER NOT NULL,           -- from 1
    phase       TEXT NOT NULL,              -- states.AttemptPhase
    detail      TEXT NOT NULL DEFAULT '',
    pid         INTEGER NOT NULL,           -- the worker: pid, start_ticks and boot_id identify it
    start_ticks TEXT NOT NULL,              -- clock ticks between boot and its start
    boot_id     TEXT NOT NULL,
    started_at  REAL NOT NULL,
    ended_at    REAL,
    install     TEXT,                       -- JSON: model.Execution of the install command
    UNIQUE (job, number)
);

-- The executions of tests; `test_attempt` counts from 1 within the job's attempt.
CREATE TABLE execution (
    attempt         TEXT NOT NULL REFERENCES attempt ON DELETE CASCADE,
    test            INTEGER NOT NULL,
    test_attempt    INTEGER NOT NULL,
    outcome         TEXT NOT NULL,          -- as the host judged it, for lists; not the verdict
    row             TEXT NOT NULL,          -- JSON: model.Execution
    PRIMARY KEY (attempt, test, test_attempt)
);

-- Notifications of ended jobs that are not delivered yet.
CREATE TABLE outbox (
    number      INTEGER PRIMARY KEY,
    job         TEXT NOT NULL,              -- UUID; the row outlives its job
    url         TEXT NOT NULL,
    secret      TEXT NOT NULL,
    body        TEXT NOT NULL,              -- JSON
    attempts    INTEGER NOT NULL DEFAULT 0,
    due_at      REAL NOT NULL DEFAULT 0,
    error       TEXT NOT NULL DEFAULT ''    -- of the last attempt
);

CREATE INDEX outbox_due ON outbox (due_at);

-- The registered worker, if there is one.
CREATE TABLE worker (
    singleton       INTEGER PRIMARY KEY CHECK (singleton = 1),
    pid             INTEGER NOT NULL,
    start_ticks     TEXT NOT NULL,
    boot_id         TEXT NOT NULL,
    code            TEXT NOT NULL,
    registered_at   REAL NOT NULL
);
