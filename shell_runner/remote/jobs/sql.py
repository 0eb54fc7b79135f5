"""The SQL statements of a host's queue, by name.

Contains text only. ``queue`` executes the statements; a test asks SQLite which index each one uses.
"""

_JOB = (
    "number, id, name, labels, priority, code, build, tests, config, test_count, state, end_reason,"
    " detail, cancel_requested, waiting_reason, submitted_at, ended_at, package_digest,"
    " package_size, harvested_at"
)
_ATTEMPT = (
    "id, job, number, phase, detail, pid, start_ticks, boot_id, started_at, ended_at, install"
)

# -- jobs ---------------------------------------------------------------------------

#: A job of exactly this UUID.
JOB_BY_ID = "SELECT " + _JOB + " FROM job WHERE id = ?"
STATE_BY_ID = "SELECT state FROM job WHERE id = ?"
JOB_BY_NUMBER = "SELECT " + _JOB + " FROM job WHERE number = ?"
#: Jobs whose UUID is not less than one text and less than another.
JOBS_BY_PREFIX = "SELECT " + _JOB + " FROM job WHERE id >= ? AND id < ? ORDER BY id LIMIT 4"
#: The submitted values, to compare them with those of a repeated submission.
JOB_VALUES = "SELECT name, labels, priority, build, tests, config FROM job WHERE number = ?"
#: Jobs below a number and with a label (empty: any), newest first; of all states, or of one.
JOBS = (
    "SELECT "
    + _JOB
    + " FROM job WHERE number < ? AND instr(labels, ?) ORDER BY number DESC LIMIT ?"
)
JOBS_IN_STATE = (
    "SELECT " + _JOB + " FROM job INDEXED BY job_listed"
    " WHERE state = ? AND number < ? AND instr(labels, ?) ORDER BY number DESC LIMIT ?"
)
#: All jobs in a state, oldest first.
JOBS_OLDEST = "SELECT " + _JOB + " FROM job INDEXED BY job_listed WHERE state = ? ORDER BY number"
COUNTS = "SELECT state, count(*) FROM job GROUP BY state"
COUNT_IN_STATE = "SELECT count(*) FROM job WHERE state = ?"
#: The number of queued jobs before one of this priority and number.
AHEAD_BY_PRIORITY = "SELECT count(*) FROM job WHERE state = 'queued' AND priority > ?"
AHEAD_BY_NUMBER = "SELECT count(*) FROM job WHERE state = 'queued' AND priority = ? AND number < ?"
#: The next job to run.
NEXT_JOB = (
    "SELECT number, code FROM job INDEXED BY job_waiting WHERE state = 'queued'"
    " ORDER BY priority DESC, number LIMIT 1"
)
INSERT_JOB = (
    "INSERT INTO job (id, code, submitted_at, test_count, state,"
    " name, labels, priority, build, tests, config)"
    " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)"
)
#: Also deletes its tests, attempts and executions.
DELETE_JOB = "DELETE FROM job WHERE number = ?"
SET_STATE = "UPDATE job SET state = ? WHERE number = ?"
SET_END = "UPDATE job SET state = ?, end_reason = ?, detail = ?, ended_at = ? WHERE number = ?"
SET_CONFIG = "UPDATE job SET config = ? WHERE number = ?"
SET_CANCEL_REQUESTED = "UPDATE job SET cancel_requested = 1 WHERE number = ?"
SET_PACKAGE = (
    "UPDATE job SET state = ?, package_digest = ?, package_size = ?, waiting_reason = ''"
    " WHERE number = ?"
)
SET_HARVESTED = "UPDATE job SET state = ?, harvested_at = ? WHERE number = ?"
SET_WAITING_REASON = "UPDATE job SET waiting_reason = ? WHERE number = ?"
CANCEL_REQUESTED = "SELECT cancel_requested FROM job WHERE number = ?"
#: 1 if one of the last 100 jobs has the same code and contents, else 0.
HAS_RECENT_REFERENCE = (
    "SELECT EXISTS (SELECT 1 FROM (SELECT code, build, tests FROM job ORDER BY number DESC"
    " LIMIT 100) WHERE code = ? AND build = ? AND tests = ?)"
)
#: The contents that jobs refer to.
CONTENTS = "SELECT DISTINCT build, tests FROM job"
#: The size of packages in a state: all together, and by job.
BYTES_IN_STATE = "SELECT coalesce(sum(package_size), 0) FROM job WHERE state = ?"
SIZES_IN_STATE = (
    "SELECT number, package_size FROM job INDEXED BY job_listed WHERE state = ? ORDER BY number"
)

# -- tests --------------------------------------------------------------------------

TESTS = "SELECT number, row FROM test WHERE job = ? ORDER BY number"
INSERT_TEST = "INSERT INTO test (job, number, row) VALUES (?, ?, ?)"

# -- attempts -----------------------------------------------------------------------

ATTEMPT = "SELECT " + _ATTEMPT + " FROM attempt WHERE id = ?"
ATTEMPTS = "SELECT " + _ATTEMPT + " FROM attempt WHERE job = ? ORDER BY number"
#: Attempts that have not ended, of jobs in a state; such jobs are few.
ATTEMPTS_OF_STATE = (
    "SELECT "
    + ", ".join("attempt." + name for name in _ATTEMPT.split(", "))
    + " FROM job INDEXED BY job_listed JOIN attempt ON attempt.job = job.number"
    " WHERE job.state = ? AND attempt.phase NOT IN ('ended', 'lost') ORDER BY job.number"
)
LAST_ATTEMPT_NUMBER = "SELECT coalesce(max(number), 0) FROM attempt WHERE job = ?"
INSERT_ATTEMPT = (
    "INSERT INTO attempt (id, job, number, phase, pid, start_ticks, boot_id, started_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
SET_PHASE = "UPDATE attempt SET phase = ? WHERE id = ?"
SET_ATTEMPT_END = "UPDATE attempt SET phase = ?, detail = ?, ended_at = ? WHERE id = ?"
#: Ends the attempt whose package was built.
SET_ATTEMPT_PACKAGED = "UPDATE attempt SET phase = 'ended' WHERE job = ? AND phase = 'packaging'"
SET_INSTALL = "UPDATE attempt SET install = ? WHERE id = ?"

# -- executions ---------------------------------------------------------------------

#: Keeps the row that exists already.
INSERT_EXECUTION = (
    "INSERT OR IGNORE INTO execution (attempt, test, test_attempt, outcome, row)"
    " VALUES (?, ?, ?, ?, ?)"
)
#: The next few executions after a test and its attempt.
EXECUTIONS = (
    "SELECT test, test_attempt, outcome, row FROM execution"
    " WHERE attempt = ? AND (test, test_attempt) > (?, ?) ORDER BY test, test_attempt LIMIT 16"
)
#: The number of tests by outcome, from the last execution of each test.
OUTCOMES = (
    "SELECT outcome, count(*) FROM execution AS one WHERE attempt = ? AND test_attempt ="
    " (SELECT max(test_attempt) FROM execution WHERE attempt = one.attempt AND test = one.test)"
    " GROUP BY outcome"
)

# -- the outbox ---------------------------------------------------------------------

_OUTBOX = "SELECT number, job, url, secret, body, attempts, due_at, error FROM outbox WHERE due_at "
#: Notifications that are due; times too far ahead are of before the clock was set back.
DUE_NOTIFICATIONS = (
    "SELECT * FROM (" + _OUTBOX + "<= ? ORDER BY due_at, number LIMIT 100)"
    " UNION ALL SELECT * FROM (" + _OUTBOX + "> ? ORDER BY due_at, number LIMIT 100)"
)
NEXT_DUE = "SELECT min(due_at) FROM outbox"
INSERT_OUTBOX = "INSERT INTO outbox (job, url, secret, body) VALUES (?, ?, ?, ?)"
#: The state of the notification of one job.
OUTBOX_OF_JOB = "SELECT attempts, due_at, error FROM outbox WHERE job = ?"
DELETE_OUTBOX = "DELETE FROM outbox WHERE number = ?"
SET_DELIVERY_FAILURE = (
    "UPDATE outbox SET attempts = attempts + 1, error = ?, due_at = ? WHERE number = ?"
)
#: Shows the error of an undeliverable notification at its job.
COPY_ERROR_TO_JOB = (
    "UPDATE job SET waiting_reason = (SELECT 'cannot notify ' || url || ': ' || error"
    " FROM outbox WHERE number = ?1) WHERE id = (SELECT job FROM outbox WHERE number = ?1)"
)
HAS_OUTBOX = "SELECT EXISTS (SELECT 1 FROM outbox)"

# -- the worker, and settings -------------------------------------------------------

WORKER = "SELECT pid, start_ticks, boot_id, code, registered_at FROM worker"
SET_WORKER = (
    "INSERT OR REPLACE INTO worker (singleton, pid, start_ticks, boot_id, code, registered_at)"
    " VALUES (1, ?, ?, ?, ?, ?)"
)
DELETE_WORKER = "DELETE FROM worker WHERE pid = ? AND start_ticks = ? AND boot_id = ?"
SETTING = "SELECT value FROM setting WHERE name = ?"
SET_SETTING = "INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)"
