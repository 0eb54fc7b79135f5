"""Parts of what a host answers about its jobs, as JSON objects."""

from __future__ import annotations

from typing import Any

ID = "01234567-89ab-cdef-0123-456789abcdef"
#: The summary of a job that has passed and can be harvested.
JOB: dict[str, Any] = {
    "id": ID, "number": 1, "name": "n", "labels": ["l"], "priority": 0, "test_count": 1,
    "state": "ready", "end_reason": "completed", "detail": "", "cancel_requested": False,
    "waiting_reason": "", "submitted_at": 1.0, "ended_at": 2.0, "package_digest": "a" * 64,
    "package_size": 3, "harvested_at": None, "attempts": 1, "phase": "ended",
    "outcomes": {"passed": 1},
}  # fmt: skip
