"""Infrastructure errors: trouble with a host or with our own input, never with a test.

The docstring of a class is its default message.  Each names what happened, where,
and what to do.
"""


class NosejobsError(Exception):
    """Something went wrong."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class UsageError(NosejobsError):
    """The input cannot be used as it is."""


class InvalidHostSpec(UsageError):
    """A host spec cannot be understood."""


class InvalidMetadata(UsageError):
    """The metadata of a test cannot be understood."""


class InvalidConfig(UsageError):
    """nosejobs.toml cannot be understood."""


class HostError(NosejobsError):
    """A host cannot do its part."""

    def __init__(self, host: str, cause: str, hint: str = "") -> None:
        self.host = host
        self.cause = cause
        self.hint = hint
        super().__init__(f"host {host}: {cause}" + (f"\n  try: {hint}" if hint else ""))


class HostOpenError(HostError):
    """A host cannot be opened."""


class HostLost(HostError):
    """A host was lost while it had work."""


class JobRefused(NosejobsError):
    """A host's queue refuses a request."""

    def __init__(self, host: str, kind: str, message: str, hint: str = "") -> None:
        self.host = host
        self.kind = kind
        super().__init__(f"host {host}: {message}" + (f"\n  try: {hint}" if hint else ""))
