"""The paths of a job's files below the folder of a host's queue.

Pure: names only, no I/O.
"""

import os


def contents_path(folder: str) -> str:
    """Return the folder of the store of builds and tests."""
    return os.path.join(folder, "contents")


def code_path(folder: str, digest: str = "") -> str:
    """Return the folder of the unpacked code of ``digest``; without a digest, the parent of all."""
    return os.path.join(folder, "code", digest) if digest else os.path.join(folder, "code")


def workspace_path(folder: str, attempt: str = "") -> str:
    """Return the workspace of an attempt; without an attempt, the parent of all."""
    return os.path.join(folder, "work", attempt) if attempt else os.path.join(folder, "work")


def kept_marker_path(folder: str, attempt: str) -> str:
    """Return the marker file of a kept workspace; it lies beside it, where tests do not write."""
    return workspace_path(folder, attempt) + ".kept"


def outputs_path(folder: str, attempt: str, test: int, number: int) -> str:
    """Return the folder into which a test wrote artifacts in its attempt ``number``."""
    return os.path.join(workspace_path(folder, attempt), "outputs", outputs_name(test, number))


def outputs_name(test: int, number: int) -> str:
    """Return the folder name of a test's attempt ``number``, in workspace and package."""
    return "%d" % test if number == 1 else "%d.attempt-%d" % (test, number)


def logs_path(folder: str) -> str:
    """Return the folder of the logs of all attempts."""
    return os.path.join(folder, "logs")


def log_path(folder: str, attempt: str) -> str:
    """Return the log of an attempt: lines of the install command and of the tests."""
    return os.path.join(logs_path(folder), attempt + ".log")


def host_facts_path(folder: str, attempt: str) -> str:
    """Return the file with the host's facts at the start of an attempt, since a package must not
    change.
    """
    return os.path.join(logs_path(folder), attempt + ".host")


def packages_path(folder: str) -> str:
    """Return the folder of the packages."""
    return os.path.join(folder, "packages")


def package_path(folder: str, job: str) -> str:
    """Return the result package of a job."""
    return os.path.join(packages_path(folder), job + ".zip")
