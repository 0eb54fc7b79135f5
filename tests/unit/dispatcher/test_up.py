"""What is said on standard error while a dispatcher runs."""

import logging

from dispatcher.store import Store
from dispatcher.up import _Clean, notify_secret


def test_a_log_of_strangers_words_cannot_drive_the_terminal() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "h1: %s", ("\x1b]0;a\x07b\r",), None)
    assert _Clean("%(message)s").format(record) == "h1: 0;a\\x07b\\r"


def test_the_secret_of_notifications_is_made_once(store: Store) -> None:
    first = notify_secret(store)
    assert len(first) == 64
    assert notify_secret(store) == first
