"""One slot on this machine, for tests that run by the ordinary protocol.

Owns a host that is opened when the first test needs it.  It is opened and spoken to
like any other, so that a test has the same outcome here and there.
"""

from __future__ import annotations

from collections.abc import Callable

from shell_runner.errors import HostError, HostLost
from shell_runner.fleet import Ended, Fleet, Ready, Said
from shell_runner.hosts import HostSpec
from shell_runner.remote.model import Execution, Setup, Test, execution_from_row


class Here:
    """Runs one test at a time, and waits for it."""

    #: What reports call this machine.
    NAME = "here"

    def __init__(
        self,
        setup: Setup,
        artefact: Callable[[int, int, str, bytes], None],
        line: Callable[[int, str, str], None],
    ) -> None:
        self._setup = setup
        self._artefact = artefact
        self._line = line
        self._fleet: Fleet | None = None

    def run(self, test: Test) -> Execution:
        """Run one test to its end; raises HostError if this machine cannot."""
        fleet = self._open()
        try:
            fleet.hosts[0].run([test])
            return self._await(fleet, test)
        except BaseException:
            # A Ctrl-C, a timeout of another plugin, a lost host: the test must not live on.
            self.close()
            raise

    def _open(self) -> Fleet:
        if self._fleet is None:
            self._fleet = Fleet([HostSpec(self.NAME, "popen", 1)], self._setup)
            self._fleet.open()
            event = self._fleet.events.get()
            if isinstance(event, Ended):
                self.close()
                raise event.error
            assert isinstance(event, Ready)
        return self._fleet

    def _await(self, fleet: Fleet, test: Test) -> Execution:
        while True:
            event = fleet.events.get()
            if isinstance(event, Ended):
                raise HostLost(self.NAME, event.error.cause)
            if isinstance(event, Said):
                for message in event.host.messages(event.frame):
                    if message[0] == "done":
                        return execution_from_row(message[1])
                    if message[0] == "artefact":
                        _, number, attempt, path, _, body = message
                        self._artefact(number, attempt, path, body)
                    if message[0] == "line":
                        self._line(message[1], self.NAME, message[2])
                    if message[0] == "trouble":
                        raise HostError(self.NAME, str(message[1]))

    def close(self) -> None:
        """End the slot and whatever it runs."""
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None
