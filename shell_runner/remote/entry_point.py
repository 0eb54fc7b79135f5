"""The command lines that start a program of ``__main__.py``.

Stays beside ``__main__.py``, which it finds by its own path.  Must not import other modules of
this package.
"""

import os
import sys
from typing import List

#: The package's name in code that was sent to a host.
PACKAGE = "nosejobs_host"
#: What the agent as one file takes in front of a program's name: its own arguments are the agent's.
ZIPAPP_OPTION = "--program"


def command(name: str, *arguments: str) -> List[str]:
    """Return the command that runs the program ``name`` with the code of this process."""
    folder = os.path.dirname(os.path.abspath(__file__))
    script = os.path.join(folder, "__main__.py")
    if os.path.isfile(script):
        return _python(script, name, *arguments)
    return _python(os.path.dirname(folder), ZIPAPP_OPTION, name, *arguments)


def command_of(code: str, name: str, *arguments: str) -> List[str]:
    """Return the command that runs the program ``name`` with the code in the folder ``code``.

    Raises FileNotFoundError if that folder holds no code.
    """
    script = os.path.join(code, PACKAGE, "__main__.py")
    os.stat(script)
    return _python(script, name, *arguments)


def _python(*words: str) -> List[str]:
    return [sys.executable, "-I", "-S", *words]
