"""Fixtures for all tests: private state folders, and a real sshd."""

import contextlib
import importlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.helpers.sshd import Sshd

pytest_plugins = ("pytester",)

# Durations on a shared machine vary too much for a deadline; a database would be in the checkout.
hypothesis.settings.register_profile("suite", deadline=None, database=None, max_examples=60)
hypothesis.settings.load_profile("suite")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: programs that are interrupted here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """In a worker of xdist that collects all tests, import another part of them first.

    All workers collect all files in the same order.  In a new checkout each of them would compile
    each file, since all do it at the same moment.
    """
    worker = getattr(session.config, "workerinput", None)
    folder = Path(__file__).parent
    if worker is None or [*map(Path, session.config.args)] not in ([folder], [Path("tests")]):
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for path in sorted(folder.rglob("test_*.py"))[number::count]:
        name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        # A file that fails here fails again when it is collected, and is reported then.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)


@pytest.fixture(autouse=True, scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Redirect caches, state and temporary files, so that those of the user stay untouched."""
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cache", "state", "tmp"):
            (folder / name).mkdir(mode=0o700)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "GREP_COLORS"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def _sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as daemon:
        yield daemon


@pytest.fixture
def sshd(_sshd: Sshd) -> Sshd:
    """Return an sshd on loopback whose ``python3`` does not have the packages of this project."""
    _sshd.keep_up()
    return _sshd
