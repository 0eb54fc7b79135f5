"""The stable entry point for other processes, also for those with code of another version.

    python -I -S CODE/nosejobs_host/__main__.py NAME ARGUMENT...

The names of programs and sessions are stable; modules and files may be renamed freely.  Must not
import a module of this package before it is needed: slots are started hundreds of times.
"""

import importlib
import os
import sys
from typing import Any, Dict, List, Optional

#: Module and function of each program; the function takes the list of its arguments.
PROGRAMS = {
    "agent": "agent.main:main",
    "interpreter-shim": "agent.interpreter_shim:main",
    "launch-worker": "jobs.worker:launch",
    "slot": "execution.slot:main",
    "worker": "jobs.worker:main",
}
#: Module and function of each session that a client can open; the function takes a channel.
SESSIONS = {"jobs": "sessions.job_session:main", "live": "sessions.live_session:main"}


class UnknownName(Exception):
    """An error: no program or session has this name."""


def load_program(name: str) -> Any:
    """Return the function that runs the program ``name``; raise UnknownName."""
    return _load(PROGRAMS, "program", name)


def load_session(name: str) -> Any:
    """Return the function that serves the session ``name``; raise UnknownName."""
    return _load(SESSIONS, "session", name)


def _load(table: Dict[str, str], kind: str, name: str) -> Any:
    if name not in table:
        known = ", ".join(sorted(table))
        raise UnknownName("unknown %s %r; use one of: %s" % (kind, name, known))
    module, _, function = table[name].partition(":")
    return getattr(importlib.import_module("%s.%s" % (_import_package(), module)), function)


def _import_package() -> str:
    """Return the name of this package; make it importable if this file runs as a script."""
    if __package__:
        return __package__
    folder = os.path.dirname(os.path.abspath(__file__))
    # Python puts the folder of a script here: our modules would hide standard library modules.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    names: List[str] = []
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, name = os.path.split(folder)
        names.insert(0, name)
    sys.path.insert(0, folder)
    return ".".join(names)


def main(argv: List[str]) -> Optional[int]:
    """Run the program ``argv[0]`` with the other arguments; return its exit status."""
    try:
        run = load_program(argv[0] if argv else "")
    except UnknownName as error:
        sys.stderr.write("nosejobs: %s\n" % error)
        return 2
    status: Optional[int] = run(argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
