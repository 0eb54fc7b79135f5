"""Where the things of a job lie below the folder of a host's queue.

Owns names of files and nothing else: no I/O.
"""

import os


def contents(folder: str) -> str:
    """The store of builds and tests."""
    return os.path.join(folder, "contents")


def code(folder: str, digest: str = "") -> str:
    """The code of one digest, unpacked; without one: where all of it is."""
    return os.path.join(folder, "code", digest) if digest else os.path.join(folder, "code")


def work(folder: str, attempt: str = "") -> str:
    """The workspace of an attempt; without one: where all of them are."""
    return os.path.join(folder, "work", attempt) if attempt else os.path.join(folder, "work")


def kept(folder: str, attempt: str) -> str:
    """Is there if the workspace of an attempt is to stay; beside it, where tests do not write."""
    return work(folder, attempt) + ".kept"


def outputs(folder: str, attempt: str, test: int, number: int) -> str:
    """What a test wrote for us, at the first try or a later one."""
    return os.path.join(work(folder, attempt), "outputs", outputs_name(test, number))


def outputs_name(test: int, number: int) -> str:
    """A folder for each try of a test, in the workspace and in the package."""
    return "%d" % test if number == 1 else "%d.attempt-%d" % (test, number)


def logs(folder: str) -> str:
    """Where the logs of all attempts are."""
    return os.path.join(folder, "logs")


def log(folder: str, attempt: str) -> str:
    """What the install command and the tests of an attempt print, as lines."""
    return os.path.join(logs(folder), attempt + ".log")


def host(folder: str, attempt: str) -> str:
    """What the host said of itself when the attempt began: the package must not change later."""
    return os.path.join(logs(folder), attempt + ".host")


def packages(folder: str) -> str:
    """Where the packages are."""
    return os.path.join(folder, "packages")


def package(folder: str, job: str) -> str:
    """The result package of a job."""
    return os.path.join(packages(folder), job + ".zip")
