"""The command lines that start a program of ``__main__.py``.

Must be in the folder of ``__main__.py``: the path is derived from the one of this file.  Must not
import other modules of this package.
"""

import os
import sys
from typing import List

#: Name of the package in the code that is sent to a host.
PACKAGE = "nosejobs_host"
#: Option of the single-file agent in front of a program's name; without it, all arguments are
#: those of the agent.
ZIPAPP_OPTION = "--program"


def build_command(name: str, *arguments: str) -> List[str]:
    """Return the command that runs the program ``name`` with the code of this process."""
    folder = os.path.dirname(os.path.abspath(__file__))
    script = os.path.join(folder, "__main__.py")
    if os.path.isfile(script):
        return _build_python_command(script, name, *arguments)
    return _build_python_command(os.path.dirname(folder), ZIPAPP_OPTION, name, *arguments)


def build_command_for(code: str, name: str, *arguments: str) -> List[str]:
    """Return the command that runs the program ``name`` with the code in the folder ``code``.

    Raises FileNotFoundError if that folder holds no code.
    """
    script = os.path.join(code, PACKAGE, "__main__.py")
    os.stat(script)
    return _build_python_command(script, name, *arguments)


def _build_python_command(*arguments: str) -> List[str]:
    return [sys.executable, "-I", "-S", *arguments]
