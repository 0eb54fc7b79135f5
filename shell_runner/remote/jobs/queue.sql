-- The queue of a host.  Version 1.
--
-- This schema only grows: a new version adds tables, columns with a default, and indexes.
-- What an older version wrote can always be read; a newer one is refused by its number
-- (PRAGMA user_version).

-- What the host has been told to bound: see queue.SETTINGS for names and defaults.
CREATE TABLE setting (
    name    TEXT PRIMARY KEY,
    value   INTEGER NOT NULL
) WITHOUT ROWID;

-- A job is (build, tests, config).  `number` gives the order among equals.
CREATE TABLE job (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,       -- UUID, made by who submits
    name        TEXT NOT NULL,              -- for people
    labels      TEXT NOT NULL,              -- JSON: list of texts
    priority    INTEGER NOT NULL,           -- higher ones first
    code        TEXT NOT NULL,              -- digest of the zip that runs it
    build       TEXT NOT NULL,              -- JSON: Content, or null
    tests       TEXT NOT NULL,              -- JSON: Content
    config      TEXT NOT NULL,              -- JSON: JobConfig as it was sent
    count       INTEGER NOT NULL,           -- tests that it has
    state       TEXT NOT NULL,              -- queue.State
    how         TEXT NOT NULL DEFAULT '',   -- queue.How, once it has ended
    detail      TEXT NOT NULL DEFAULT '',   -- what a person needs to know of that
    cancelled   INTEGER NOT NULL DEFAULT 0, -- somebody has asked for its end
    trouble     TEXT NOT NULL DEFAULT '',   -- why it does not get on (disk full), if it does not
    submitted   REAL NOT NULL,              -- dates are seconds since the epoch, for people
    ended       REAL,
    package     TEXT NOT NULL DEFAULT '',   -- SHA-256 of its package
    size        INTEGER NOT NULL DEFAULT 0, -- bytes of its package
    harvested   REAL                        -- when the package was acknowledged
);

-- What waits, in its order.
CREATE INDEX job_waiting ON job (state, priority DESC, number);

-- What is listed by its state, and what the packages take of the disk.
CREATE INDEX job_listed ON job (state, number, size);

-- The tests of a job, by their place in it.
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
    step        TEXT NOT NULL,              -- queue.Step
    detail      TEXT NOT NULL DEFAULT '',
    pid         INTEGER NOT NULL,           -- the worker: all three, or it is somebody else
    start       TEXT NOT NULL,              -- clock ticks between boot and its start
    boot        TEXT NOT NULL,
    began       REAL NOT NULL,
    ended       REAL,
    install     TEXT,                       -- JSON: model.Execution of the install command
    UNIQUE (job, number)
);

-- What happened, test by test; `try` counts from 1 within the attempt.
CREATE TABLE execution (
    attempt     TEXT NOT NULL REFERENCES attempt ON DELETE CASCADE,
    test        INTEGER NOT NULL,
    try         INTEGER NOT NULL,
    outcome     TEXT NOT NULL,              -- as the host judged it, for lists; no verdict
    row         TEXT NOT NULL,              -- JSON: model.Execution
    PRIMARY KEY (attempt, test, try)
);

-- Who is to be told that a job has ended.
CREATE TABLE outbox (
    number      INTEGER PRIMARY KEY,
    job         TEXT NOT NULL,              -- UUID; the row outlives its job
    url         TEXT NOT NULL,
    secret      TEXT NOT NULL,
    body        TEXT NOT NULL,              -- JSON
    tries       INTEGER NOT NULL DEFAULT 0,
    due         REAL NOT NULL DEFAULT 0,
    trouble     TEXT NOT NULL DEFAULT ''
);

CREATE INDEX outbox_due ON outbox (due);

-- The worker that is at work, if there is one.
CREATE TABLE worker (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    pid         INTEGER NOT NULL,
    start       TEXT NOT NULL,
    boot        TEXT NOT NULL,
    code        TEXT NOT NULL,
    since       REAL NOT NULL
);
