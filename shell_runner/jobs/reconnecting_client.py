"""A connection to the job queue of one host that is opened again when it breaks.

Responsible for the session and for repeating requests.  Must not know what the requests mean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

from ..errors import HostError, HostLost, HostOpenError
from ..hosts.heartbeat import backoff
from ..hosts.spec import HostSpec
from .session import HOST_TIMEOUT, HostSession

#: Number of times that a lost host is opened for one request.  A request that waits anyway is
#: repeated for two minutes and more, so that a machine can boot meanwhile.
_MAX_ATTEMPTS, _MAX_ATTEMPTS_WAITING = 4, 10
T = TypeVar("T")


class ReconnectingClient:
    """One host, opened when it is needed, and again when it was lost."""

    def __init__(
        self,
        spec: HostSpec,
        timeout: float = HOST_TIMEOUT,
        show_message: Callable[[str], None] = lambda message: None,
        open_session: Callable[[HostSpec, float], HostSession] = HostSession,
        max_attempts: int = 0,
    ) -> None:
        """Create a client; nothing is opened yet.

        ``timeout``: seconds of silence after which the host is lost.  ``show_message`` receives
        messages about what takes long, or failed and is repeated.  ``max_attempts``: how often a
        lost host is opened for one request; 0: more often for a request that waits anyway.
        """
        self.spec = spec
        self._timeout = timeout
        self._show_message = show_message
        self._open = open_session
        self._session: HostSession | None = None
        self._max_attempts = max_attempts
        #: Whether a submitted job may have reached the host, although the host did not confirm it.
        self.may_have_submitted = False
        #: The number of interrupts so far, and of those that the last wait has seen.
        self._interrupts = self._interrupts_seen = 0
        self._interrupt_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _with_session(self, request: Callable[[HostSession], T], waits: bool = False) -> T:
        """Perform a request that is safe to repeat; repeat it if the connection breaks.

        ``waits``: whether the request waits for something that takes long anyway.
        """
        opened = False
        max_attempts = self._max_attempts or (_MAX_ATTEMPTS_WAITING if waits else _MAX_ATTEMPTS)
        for number in range(max_attempts):
            try:
                if self._session is None:
                    self._session = self._open(self.spec, self._timeout)
                opened = True
                return request(self._session)
            except (HostLost, HostOpenError) as error:
                self.close()
                # A host that could never be opened is not waited for.
                if not opened or number == max_attempts - 1:
                    raise
                self._show_message(f"{error}; reconnecting")
                time.sleep(backoff(number))
            except HostError:
                self.close()
                raise
        raise AssertionError("unreachable")

    def _call(self, parse: Callable[[Any], T], request: str, /, **arguments: Any) -> T:
        return self._with_session(lambda s: s.parse_response(parse, s.call(request, **arguments)))

    def interrupt(self) -> None:
        """End the current or the next wait for changes; may be called in any thread."""
        with self._interrupt_lock:
            self._interrupts += 1
            session = self._session
            if session is not None:
                session.wake(self._interrupts)

    def abort(self) -> None:
        """End the current request with :exc:`HostLost`; may be called in any thread."""
        session = self._session
        if session is not None:
            session.abort()
