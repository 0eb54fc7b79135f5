"""The messages of a slot to its pool.

Responsible for their check: a test can write to the socket of its slot (by ptrace(2) or
pidfd_getfd(2)), and what it writes must cost the slot alone.  Pure.
"""

import json
import os
import re
from typing import Any, List, NamedTuple, Optional, Sequence

from ..protocol.frames import is_sendable
from ..protocol.model import Test, are_numbers, execution_from_row

#: Name of the folder of the artifacts of a test, beside the directory of its slot.
_ARTIFACTS_FOLDER = re.compile(r"[0-9]+(\.[0-9]+)?-artifacts-[0-9]+-[0-9]+\Z")
#: Bytes around a message in a frame to the controller.
_FRAME_OVERHEAD = 16


class SlotMessage(NamedTuple):
    """One message from a slot."""

    kind: str
    test: Test
    #: The fields after the kind; empty if the kind is ``done``.
    values: Sequence[Any] = ()
    #: The JSON of the Execution if the kind is ``done``.
    row: bytes = b""


#: The test of a message that concerns no single test.
NO_TEST = Test(-1, "")


class InvalidMessageError(ValueError):
    """A slot has sent what no slot sends; the slot cannot be trusted any more."""


def parse_slot_message(text: bytes, running: Optional[Test], folder: str) -> SlotMessage:
    """Return a message of a slot.

    ``running`` is the test that the slot runs, ``folder`` that of its session.  The messages
    ``retired``, ``returned`` and ``recalled`` have no test.  Raises InvalidMessageError.
    """
    try:
        decoded = text.decode("ascii")
        if not is_sendable(decoded, _FRAME_OVERHEAD):
            raise InvalidMessageError("too large for a controller")
        message = json.loads(decoded)
        if not isinstance(message, list) or not message:
            raise InvalidMessageError("not a list that begins with a name")
        return _parse(message, text, running, folder)
    except InvalidMessageError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise InvalidMessageError("not a message: %s" % error) from None
    except RecursionError:
        raise InvalidMessageError("nested too deeply") from None


def _parse(message: List[Any], text: bytes, running: Optional[Test], folder: str) -> SlotMessage:
    kind, values = message[0], message[1:]
    if kind in ("returned", "recalled"):
        (numbers,) = values
        _require(isinstance(numbers, list) and all(type(number) is int for number in numbers))
        return SlotMessage(kind, NO_TEST, values)
    if kind == "retired":
        _require(not values)
        return SlotMessage(kind, NO_TEST)
    if running is None:
        raise InvalidMessageError("no test is running")
    if kind == "done":
        (row,) = values
        execution = execution_from_row(row)
        _require((execution.id, execution.attempt) == (running.id, running.attempt))
        _require(text.startswith(b'["done",') and text.endswith(b"]"))
        return SlotMessage(kind, running, row=text[8:-1])
    number, value = values[:2]
    _require(type(number) is int and number == running.id)
    if kind == "artifacts":
        _check_artifacts(value, values[2], folder)
    else:
        is_valid = isinstance(value, str) if kind == "line" else are_numbers([value])
        _require(kind in ("line", "running") and is_valid and len(values) == 2)
    return SlotMessage(kind, running, values)


def _check_artifacts(path: Any, files: Any, folder: str) -> None:
    """Check that the artifacts are in the folder of the session, which is removed afterwards."""
    parent, name = os.path.split(path)
    _require(parent == folder and _ARTIFACTS_FOLDER.match(name) is not None)
    for file, size in files:
        _require(isinstance(file, str) and type(size) is int and size >= 0)
        _require("\0" not in file and not file.startswith("/") and ".." not in file.split("/"))


def _require(condition: bool) -> None:
    if not condition:
        raise InvalidMessageError("a value is not allowed")
