"""The program between execnet and a host that is not popen: becomes ssh.

execnet starts it in place of a Python interpreter, with ``-u -c BOOTSTRAP`` behind
our own argument, and speaks to what it becomes.  Owns the command line of ssh and
where its complaints go.  Imports nothing of ours: it is run by its path.
"""

import base64
import contextlib
import json
import os
import re
import shlex
import sys

_OPTIONS = (
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
)

#: Runs on the host in front of execnet's bootstrap; must parse on any Python.
_CHECK = (
    "import sys; sys.version_info < (3, 8) and sys.exit("
    "'nosejobs-needs-python: this is Python ' + sys.version.split()[0]); "
)


#: The first line of the file of complaints: exec keeps the process id.
PID = re.compile(r"nosejobs-pid: (\d+)\n")


def ssh_command(settings: "dict[str, str]", bootstrap: str) -> "list[str]":
    """The ssh that runs ``bootstrap`` with the host's Python."""
    argv = ["ssh", *_OPTIONS]
    if settings["ssh_config"]:
        argv += ["-F", settings["ssh_config"]]
    python = settings["python"] or "python3"
    remote = "exec " + python + " -u -c " + shlex.quote(_CHECK + bootstrap)
    return [*argv, *shlex.split(settings["address"]), remote]


def encode(settings: "dict[str, str | int]") -> str:
    """One word without slashes or spaces: execnet's specs cannot hold them."""
    return base64.urlsafe_b64encode(json.dumps(settings).encode()).decode("ascii")


def main(argv: "list[str]") -> None:
    """``argv``: the encoded settings, then what execnet gives to a Python."""
    settings = json.loads(base64.urlsafe_b64decode(argv[0]))
    errors = os.open(settings["errors"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(errors, 2)
    os.write(2, b"nosejobs-pid: %d\n" % os.getpid())
    with contextlib.suppress(OSError):
        # Ctrl-C in the controller's terminal must reach the controller alone.
        os.setsid()
    command = ssh_command(settings, argv[argv.index("-c") + 1])
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, b"nosejobs-no-ssh: %s\n" % str(error).encode())
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
