"""Tests of a dispatcher's log, notification secret and signals."""

import logging
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from dispatcher.store import Store
from dispatcher.up import _CleanFormatter, notify_secret, stop_signals
from shell_runner.cli.main import main


def test_a_log_of_strangers_words_cannot_drive_the_terminal() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "h1: %s", ("\x1b]0;a\x07b\r",), None)
    assert _CleanFormatter("%(message)s").format(record) == "h1: 0;a\\x07b\\r"


def test_the_secret_of_notifications_is_made_once(store: Store) -> None:
    first = notify_secret(store)
    assert len(first) == 64
    assert notify_secret(store) == first


def test_a_signal_is_noticed_whichever_thread_receives_it() -> None:
    """A signal to another thread does not interrupt the main thread, but must end its wait."""

    def interrupt() -> None:
        time.sleep(0.1)  # the main thread waits by then
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with stop_signals() as wait:
        thread.start()
        wait()
    thread.join()


def test_a_signal_before_the_wait_is_noticed() -> None:
    with stop_signals() as wait:
        signal.raise_signal(signal.SIGTERM)
        wait()


@pytest.mark.parametrize("data", ["/proc/nope", "file/data", "file"])
def test_a_data_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dispatcher.toml").write_text(f'[dispatcher]\ndata = "{data}"\n')
    done = CliRunner().invoke(main, ["up"])
    assert done.exit_code == 2
    assert re.search(rf"cannot use the data folder \S*{data}: \w+", done.output)
    assert "[dispatcher] data" in done.output
