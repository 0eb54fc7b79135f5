"""Which readers see a program's output, and what they make of it together.

Owns the choice of readers for one test.  Must not know pipes, slots or verdicts.
Nothing is loaded for a program that says nothing and writes no file.
"""

import fnmatch
import importlib
import os
import sys
from types import ModuleType
from typing import Any, List, Optional, Tuple

from ..protocol import model
from ..protocol.model import Parsed, parsed_from_row

#: Files of the outputs directory that are looked at, at most.
_MOST_FILES = 1000


class Formats:
    """The formats of a session: (name, source) each; the source of a built-in is empty."""

    def __init__(self, formats: Tuple[Tuple[str, str], ...]) -> None:
        self._formats = formats
        self._modules: Optional[List[ModuleType]] = None

    @property
    def modules(self) -> List[ModuleType]:
        """Loaded when the first program says something."""
        if self._modules is None:
            self._modules = [_load(name, source) for name, source in self._formats]
        return self._modules

    def readers(self, spoken: str) -> "Readers":
        """The readers for one program, which is known to speak ``spoken``, if not empty."""
        return Readers(self, spoken)


def _load(name: str, source: str) -> ModuleType:
    if not source:
        return importlib.import_module(".formats." + name, __package__)
    _provide_values()
    module = sys.modules[_PLUGIN + name] = ModuleType(_PLUGIN + name)
    exec(compile(source, "<format %s>" % name, "exec"), module.__dict__)
    return module


#: In front of the names of plug-ins' modules; they can look themselves up by it.
_PLUGIN = "nosejobs_format_"


def _provide_values() -> None:
    """A plug-in's module imports Case and Parsed by the same name here and at home."""
    package = __package__ or ""
    sys.modules.setdefault("shell_runner.remote", sys.modules[package])
    sys.modules.setdefault("shell_runner.remote.protocol.model", model)


#: The name of ``$XML_OUTPUT_FILE``.
_ANSWER = "test.xml"


class Readers:
    """What reads the output of one program."""

    def __init__(self, formats: Formats, spoken: str) -> None:
        self._formats = formats
        self._spoken = spoken
        self._readers: Optional[List[Any]] = None
        self._trouble = ""

    def feed(self, data: bytes) -> None:
        """The next bytes of standard output."""
        if self._readers is None:
            self._readers = self._guard(self._make) or []
        for reader in self._readers:
            self._guard(_feed, reader, data)
        if self._readers:
            self._readers = self._guard(self._not_refused) or []

    def _not_refused(self) -> List[Any]:
        return [reader for reader in self._readers or () if not reader.refused]

    def _make(self) -> List[Any]:
        found = [module for module in self._formats.modules if hasattr(module, "Reader")]
        if self._spoken:
            found = [module for module in found if self._spoken == module.NAME]
        return [module.Reader(forced=bool(self._spoken)) for module in found]

    def _guard(self, call: Any, *arguments: Any) -> Any:
        """A reader that fails (a plug-in's, or a bug) is the test's error, not the slot's end."""
        try:
            return call(*arguments)
        except Exception as error:
            self._readers = []
            self._trouble = "the reader of its output failed: %r" % error
            return None

    def close(self, folder: str, names: List[str]) -> Optional[Parsed]:
        """What the output and the files ``names`` in ``folder`` came to; None: no format's."""
        found: List[Parsed] = []
        if self._spoken and self._readers is None:
            self.feed(b"")
        for reader in self._readers or ():
            parsed = self._guard(_close, reader)
            if parsed is not None:
                found.append(parsed)
                break
        if names:
            found += self._guard(self._read_files, folder, names) or []
        if self._trouble:
            found.append(Parsed(self._spoken or "unknown", [], self._trouble))
        return _join(found) if found else None

    def _read_files(self, folder: str, names: List[str]) -> List[Parsed]:
        found = []
        for name in sorted(names)[:_MOST_FILES]:
            for module in self._formats.modules:
                patterns = getattr(module, "PATTERNS", ())
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    parsed = self._read_file(module, os.path.join(folder, name))
                    if parsed is not None:
                        found.append(parsed)
                        break
        return found

    def _read_file(self, module: Any, path: str) -> Optional[Parsed]:
        if os.path.islink(path) or not os.path.isfile(path):
            return self._no_answer(path, "is a link or no file, which is not followed")
        result: Optional[Parsed] = self._guard(_read, module, path)
        return result or self._no_answer(path, "is not JUnit XML")

    def _no_answer(self, path: str, words: str) -> Optional[Parsed]:
        """Other files need not be reports; the one that was asked for must not be overlooked."""
        if os.path.basename(path) != _ANSWER or self._trouble:
            return None
        return Parsed("junit", [], "$XML_OUTPUT_FILE %s" % words)


# A plug-in's reader may lack what it should have: also looking for it is guarded.


def _feed(reader: Any, data: bytes) -> None:
    reader.feed(data)


def _close(reader: Any) -> Optional[Parsed]:
    return _checked(reader.close())


def _read(module: Any, path: str) -> Optional[Parsed]:
    return _checked(module.read_file(path))


def _checked(found: Any) -> Optional[Parsed]:
    return None if found is None else parsed_from_row(found)


def _join(found: List[Parsed]) -> Parsed:
    """A program may print TAP and write JUnit XML: all of its cases count."""
    if len(found) == 1:
        return found[0]
    return Parsed(
        "+".join(dict.fromkeys(each.format for each in found)),
        [case for each in found for case in each.cases],
        "; ".join(each.problem for each in found if each.problem),
        found[0].skip_all if all(each.skip_all is not None for each in found) else None,
    )
