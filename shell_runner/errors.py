"""Errors of the infrastructure or of the input, never of a test.

A message says what happened, where, and what to do.  The docstring of a class is its default
message.
"""


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
        self.cause = cause
        self.hint = hint
        super().__init__(f"host {host}: {cause}" + (f"\n  try: {hint}" if hint else ""))


class HostOpenError(HostError):
    """A host cannot be opened."""


class HostLost(HostError):
    """A host was lost while it ran tests."""


class JobRefused(NosejobsError):
    """A host's queue refused a request."""

    def __init__(self, host: str, kind: str, message: str, hint: str = "") -> None:
        self.host = host
        self.kind = kind
        super().__init__(f"host {host}: {message}" + (f"\n  try: {hint}" if hint else ""))
