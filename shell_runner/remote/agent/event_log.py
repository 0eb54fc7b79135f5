"""The event log of the agent: one line to standard error for each event.

Must not know what the events mean.
"""

import os
import select
import time

#: Lines dropped since the last one that was written.
_dropped_lines = 0


def log(event: str, **fields: object) -> None:
    """Write one line: time, event, and fields as NAME=VALUE.

    Values are quoted and cleaned, so that a peer cannot forge lines.  If standard error is a full
    pipe, the line is dropped and counted: a slow reader must not stop the agent.
    """
    global _dropped_lines
    parts = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), event]
    for name, value in fields.items():
        text = "".join(c if c.isprintable() and c != '"' else "?" for c in str(value))[:300]
        parts.append('%s="%s"' % (name, text) if " " in text or not text else name + "=" + text)
    text = " ".join(parts) + "\n"
    if _dropped_lines:
        parts[1:] = ["error", 'reason="%d log lines were dropped"\n%s' % (_dropped_lines, text)]
        text = " ".join(parts)
    try:
        # A pipe that is ready takes PIPE_BUF bytes without blocking: 512 in POSIX, 4096 on Linux.
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode("utf-8", "replace"))
            _dropped_lines = 0
        else:
            _dropped_lines += 1
    except OSError:
        pass  # a log that cannot be written is no reason to refuse connections
