"""Errors of the infrastructure or of the input, never of a test.

A message says what happened, where, and what to do.  The docstring of a class is its default
message.  Words of a host become one line without control characters here, since every error about
a host passes through this module.
"""

from .text import to_single_line

#: Maximum characters of a cause or a hint.
_MAX_CHARS = 4000


class NosejobsError(Exception):
    """An error occurred."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class UsageError(NosejobsError):
    """The input is invalid."""


class InvalidHostSpec(UsageError):
    """A host spec is invalid."""


class InvalidMetadata(UsageError):
    """The metadata of a test is invalid."""


class InvalidConfig(UsageError):
    """A nosejobs.toml is invalid."""


class HostError(NosejobsError):
    """A host failed."""

    def __init__(self, host: str, cause: str, hint: str = "") -> None:
        self.host = host
        self.cause = cause = to_single_line(cause, _MAX_CHARS)
        self.hint = hint = to_single_line(hint, _MAX_CHARS)
        super().__init__(f"host {host}: {cause}" + (f"\n  try: {hint}" if hint else ""))


class HostOpenError(HostError):
    """A host cannot be opened."""


class HostLost(HostError):
    """A host was lost while it ran tests."""


class JobRefused(NosejobsError):
    """A host's queue refused a request."""

    def __init__(self, host: str, kind: str, message: str, hint: str = "") -> None:
        self.host = host
        self.kind = to_single_line(kind)
        message, hint = to_single_line(message, _MAX_CHARS), to_single_line(hint, _MAX_CHARS)
        super().__init__(f"host {host}: {message}" + (f"\n  try: {hint}" if hint else ""))
