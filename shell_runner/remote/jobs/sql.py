"""What is said to the SQLite file of a host's queue, each statement by a name.

Owns text alone.  ``queue`` says them; a test asks SQLite which indexes each one uses.
"""

_JOB = (
    "number, id, name, labels, priority, code, build, tests, config, count, state, how, detail,"
    " cancelled, trouble, submitted, ended, package, size, harvested"
)
_ATTEMPT = "id, job, number, step, detail, pid, start, boot, began, ended, install"

# -- jobs ---------------------------------------------------------------------------

#: A job of exactly this UUID.
JOB_BY_ID = "SELECT " + _JOB + " FROM job WHERE id = ?"
STATE_BY_ID = "SELECT state FROM job WHERE id = ?"
JOB_BY_NUMBER = "SELECT " + _JOB + " FROM job WHERE number = ?"
#: Jobs whose UUID begins with something: from it, to before what follows it.
JOBS_BY_PREFIX = "SELECT " + _JOB + " FROM job WHERE id >= ? AND id < ? ORDER BY id LIMIT 4"
#: What was handed in, to compare it with what is handed in again.
JOB_VALUES = "SELECT name, labels, priority, build, tests, config FROM job WHERE number = ?"
#: Lists: of all, of one state; below a number, with a label (empty: any), newest first.
JOBS = (
    "SELECT "
    + _JOB
    + " FROM job WHERE number < ? AND instr(labels, ?) ORDER BY number DESC LIMIT ?"
)
JOBS_IN_STATE = (
    "SELECT " + _JOB + " FROM job INDEXED BY job_listed"
    " WHERE state = ? AND number < ? AND instr(labels, ?) ORDER BY number DESC LIMIT ?"
)
#: All in a state, the oldest first.
JOBS_OLDEST = "SELECT " + _JOB + " FROM job INDEXED BY job_listed WHERE state = ? ORDER BY number"
COUNTS = "SELECT state, count(*) FROM job GROUP BY state"
COUNT_IN_STATE = "SELECT count(*) FROM job WHERE state = ?"
#: Those queued that come before one of this priority and number.
AHEAD_BY_PRIORITY = "SELECT count(*) FROM job WHERE state = 'queued' AND priority > ?"
AHEAD_BY_NUMBER = "SELECT count(*) FROM job WHERE state = 'queued' AND priority = ? AND number < ?"
#: The one whose turn it is.
NEXT = (
    "SELECT number, code FROM job INDEXED BY job_waiting WHERE state = 'queued'"
    " ORDER BY priority DESC, number LIMIT 1"
)
INSERT_JOB = (
    "INSERT INTO job (id, code, submitted, count, state,"
    " name, labels, priority, build, tests, config)"
    " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)"
)
#: Tests, executions and attempts go with it.
DELETE_JOB = "DELETE FROM job WHERE number = ?"
SET_STATE = "UPDATE job SET state = ? WHERE number = ?"
SET_END = "UPDATE job SET state = ?, how = ?, detail = ?, ended = ? WHERE number = ?"
SET_CONFIG = "UPDATE job SET config = ? WHERE number = ?"
SET_CANCELLED = "UPDATE job SET cancelled = 1 WHERE number = ?"
SET_PACKAGE = "UPDATE job SET state = ?, package = ?, size = ?, trouble = '' WHERE number = ?"
SET_HARVESTED = "UPDATE job SET state = ?, harvested = ? WHERE number = ?"
SET_TROUBLE = "UPDATE job SET trouble = ? WHERE number = ?"
IS_CANCELLED = "SELECT cancelled FROM job WHERE number = ?"
#: Whether one of the last jobs refers to the same contents and code.
REFERS = (
    "SELECT EXISTS (SELECT 1 FROM (SELECT code, build, tests FROM job ORDER BY number DESC"
    " LIMIT 100) WHERE code = ? AND build = ? AND tests = ?)"
)
#: What jobs refer to in the store of contents.
CONTENTS = "SELECT DISTINCT build, tests FROM job"
#: Bytes of packages by state, and which job has how many.
BYTES_IN_STATE = "SELECT coalesce(sum(size), 0) FROM job WHERE state = ?"
SIZES_IN_STATE = (
    "SELECT number, size FROM job INDEXED BY job_listed WHERE state = ? ORDER BY number"
)

# -- tests --------------------------------------------------------------------------

TESTS = "SELECT number, row FROM test WHERE job = ? ORDER BY number"
INSERT_TEST = "INSERT INTO test (job, number, row) VALUES (?, ?, ?)"

# -- attempts -----------------------------------------------------------------------

ATTEMPT = "SELECT " + _ATTEMPT + " FROM attempt WHERE id = ?"
ATTEMPTS = "SELECT " + _ATTEMPT + " FROM attempt WHERE job = ? ORDER BY number"
#: Of what is at work: few jobs, of the many that there are.
ATTEMPTS_OF_STATE = (
    "SELECT "
    + ", ".join("attempt." + name for name in _ATTEMPT.split(", "))
    + " FROM job INDEXED BY job_listed JOIN attempt ON attempt.job = job.number"
    " WHERE job.state = ? AND attempt.step NOT IN ('ended', 'lost') ORDER BY job.number"
)
LAST_NUMBER = "SELECT coalesce(max(number), 0) FROM attempt WHERE job = ?"
INSERT_ATTEMPT = (
    "INSERT INTO attempt (id, job, number, step, pid, start, boot, began)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
SET_STEP = "UPDATE attempt SET step = ? WHERE id = ?"
SET_ATTEMPT_END = "UPDATE attempt SET step = ?, detail = ?, ended = ? WHERE id = ?"
#: The one that has just been packaged.
SET_ATTEMPT_PACKAGED = "UPDATE attempt SET step = 'ended' WHERE job = ? AND step = 'packaging'"
SET_INSTALL = "UPDATE attempt SET install = ? WHERE id = ?"

# -- executions ---------------------------------------------------------------------

#: The first one stays.
INSERT_EXECUTION = (
    "INSERT OR IGNORE INTO execution (attempt, test, try, outcome, row) VALUES (?, ?, ?, ?, ?)"
)
#: Those after a test and a try, a few at a time.
EXECUTIONS = (
    "SELECT test, try, outcome, row FROM execution"
    " WHERE attempt = ? AND (test, try) > (?, ?) ORDER BY test, try LIMIT 16"
)
#: By the last try of each test.
OUTCOMES = (
    "SELECT outcome, count(*) FROM execution AS one WHERE attempt = ? AND try ="
    " (SELECT max(try) FROM execution WHERE attempt = one.attempt AND test = one.test)"
    " GROUP BY outcome"
)

# -- the outbox ---------------------------------------------------------------------

_OUTBOX = "SELECT number, job, url, secret, body, tries, due, trouble FROM outbox WHERE due "
#: What is due; dates that are too far ahead were made before the clock was set back.
DUE = (
    "SELECT * FROM (" + _OUTBOX + "<= ? ORDER BY due, number LIMIT 100)"
    " UNION ALL SELECT * FROM (" + _OUTBOX + "> ? ORDER BY due, number LIMIT 100)"
)
NEXT_DUE = "SELECT min(due) FROM outbox"
INSERT_OUTBOX = "INSERT INTO outbox (job, url, secret, body) VALUES (?, ?, ?, ?)"
#: What has become of the news of one job.
OUTBOX_OF_JOB = "SELECT tries, due, trouble FROM outbox WHERE job = ?"
DELETE_OUTBOX = "DELETE FROM outbox WHERE number = ?"
SET_FAILED = "UPDATE outbox SET tries = tries + 1, trouble = ?, due = ? WHERE number = ?"
#: What nobody could be told stays to be seen at the job.
TROUBLE_OF_OUTBOX = (
    "UPDATE job SET trouble = (SELECT 'nobody at ' || url || ' could be told: ' || trouble"
    " FROM outbox WHERE number = ?1) WHERE id = (SELECT job FROM outbox WHERE number = ?1)"
)
HAS_OUTBOX = "SELECT EXISTS (SELECT 1 FROM outbox)"

# -- the worker, and settings -------------------------------------------------------

WORKER = "SELECT pid, start, boot, code, since FROM worker"
SET_WORKER = (
    "INSERT OR REPLACE INTO worker (one, pid, start, boot, code, since) VALUES (1, ?, ?, ?, ?, ?)"
)
DELETE_WORKER = "DELETE FROM worker WHERE pid = ? AND start = ? AND boot = ?"
SETTING = "SELECT value FROM setting WHERE name = ?"
SET_SETTING = "INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)"
