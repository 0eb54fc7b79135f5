"""The parser of one program's output: chooses readers of formats and merges what they return.

This module must not know pipes, slots or verdicts.  No format is loaded for a program that prints
nothing and writes no file.
"""

import fnmatch
import importlib
import os
import sys
from types import ModuleType
from typing import Any, List, Optional, Tuple

from ..protocol import model
from ..protocol.model import ParsedOutput, parsed_output_from_row

#: Files of the outputs directory that are read.
_MAX_FILES = 1000
#: Prefix of the names of plug-ins' modules; they can look themselves up by it.
_PLUGIN_MODULE_PREFIX = "nosejobs_format_"
#: Name of the file that ``$XML_OUTPUT_FILE`` names.
_XML_OUTPUT_NAME = "test.xml"


class SessionFormats:
    """The formats of a session, loaded when the first program prints something.

    ``formats``: pairs of name and source; the source of a built-in format is empty.
    """

    def __init__(self, formats: Tuple[Tuple[str, str], ...]) -> None:
        self._formats = formats
        self._modules: Optional[List[ModuleType]] = None

    @property
    def modules(self) -> List[ModuleType]:
        """The modules of the formats, in the order in which they are tried."""
        if self._modules is None:
            self._modules = [_load_format(name, source) for name, source in self._formats]
        return self._modules

    def new_parser(self, output_format: str) -> "OutputParser":
        """Return a parser for one program.

        ``output_format``: name of the format that the program is known to write, or empty.
        """
        return OutputParser(self, output_format)


def _load_format(name: str, source: str) -> ModuleType:
    if not source:
        return importlib.import_module("." + name, __package__)
    _register_model()
    module_name = _PLUGIN_MODULE_PREFIX + name
    module = sys.modules[module_name] = ModuleType(module_name)
    exec(compile(source, "<format %s>" % name, "exec"), module.__dict__)
    return module


def _register_model() -> None:
    """Let a plug-in's module import Case and ParsedOutput by the controller's name on a host."""
    package = model.__package__ or ""
    sys.modules.setdefault("shell_runner.remote.protocol", sys.modules[package])
    sys.modules.setdefault("shell_runner.remote.protocol.model", model)


class OutputParser:
    """Parses the output of one program."""

    def __init__(self, formats: SessionFormats, output_format: str) -> None:
        self._formats = formats
        self._output_format = output_format
        self._readers: Optional[List[Any]] = None
        self._problem = ""

    def feed(self, data: bytes) -> None:
        """Pass the next bytes of standard output to all readers that have not refused."""
        if self._readers is None:
            self._readers = self._call_guarded(self._make_readers) or []
        for reader in self._readers:
            self._call_guarded(_feed, reader, data)
        if self._readers:
            self._readers = self._call_guarded(self._remaining_readers) or []

    def _remaining_readers(self) -> List[Any]:
        return [reader for reader in self._readers or () if not reader.refused]

    def _make_readers(self) -> List[Any]:
        modules = [module for module in self._formats.modules if hasattr(module, "Reader")]
        if self._output_format:
            modules = [module for module in modules if self._output_format == module.NAME]
        return [module.Reader(forced=bool(self._output_format)) for module in modules]

    def _call_guarded(self, call: Any, *arguments: Any) -> Any:
        """Return the result of ``call``, or None if it raises.

        A reader that raises (a plug-in's, or a bug) makes the test an error; the slot goes on.
        """
        try:
            return call(*arguments)
        except Exception as error:
            self._readers = []
            self._problem = "the reader of its output failed: %r" % error
            return None

    def close(self, folder: str, names: List[str]) -> Optional[ParsedOutput]:
        """Return the cases of the output and of the files, or None if no format is recognized.

        ``names``: the files in ``folder``, the program's outputs directory.
        """
        outputs: List[ParsedOutput] = []
        if self._output_format and self._readers is None:
            self.feed(b"")
        for reader in self._readers or ():
            parsed = self._call_guarded(_close, reader)
            if parsed is not None:
                outputs.append(parsed)
                break
        if names:
            outputs += self._call_guarded(self._read_files, folder, names) or []
        if self._problem:
            outputs.append(ParsedOutput(self._output_format or "unknown", [], self._problem))
        return _merge(outputs) if outputs else None

    def _read_files(self, folder: str, names: List[str]) -> List[ParsedOutput]:
        outputs = []
        for name in sorted(names)[:_MAX_FILES]:
            for module in self._formats.modules:
                patterns = getattr(module, "PATTERNS", ())
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    parsed = self._read_file(module, os.path.join(folder, name))
                    if parsed is not None:
                        outputs.append(parsed)
                        break
        return outputs

    def _read_file(self, module: Any, path: str) -> Optional[ParsedOutput]:
        if os.path.islink(path) or not os.path.isfile(path):
            return self._report_unread(path, "is a link or not a regular file")
        parsed: Optional[ParsedOutput] = self._call_guarded(_read, module, path)
        return parsed or self._report_unread(path, "is not JUnit XML")

    def _report_unread(self, path: str, reason: str) -> Optional[ParsedOutput]:
        """Return a problem if ``path`` is $XML_OUTPUT_FILE; other files need not be reports."""
        if os.path.basename(path) != _XML_OUTPUT_NAME or self._problem:
            return None
        return ParsedOutput("junit", [], "$XML_OUTPUT_FILE %s" % reason)


# A plug-in's reader may lack an attribute, so even the lookups are guarded.


def _feed(reader: Any, data: bytes) -> None:
    reader.feed(data)


def _close(reader: Any) -> Optional[ParsedOutput]:
    return _validate(reader.close())


def _read(module: Any, path: str) -> Optional[ParsedOutput]:
    return _validate(module.read_file(path))


def _validate(parsed: Any) -> Optional[ParsedOutput]:
    return None if parsed is None else parsed_output_from_row(parsed)


def _merge(outputs: List[ParsedOutput]) -> ParsedOutput:
    """Return the sum: a program may print TAP and write JUnit XML, and all of its cases count."""
    if len(outputs) == 1:
        return outputs[0]
    are_all_skipped = all(parsed.skip_all is not None for parsed in outputs)
    return ParsedOutput(
        "+".join(dict.fromkeys(parsed.format for parsed in outputs)),
        [case for parsed in outputs for case in parsed.cases],
        "; ".join(parsed.problem for parsed in outputs if parsed.problem),
        outputs[0].skip_all if are_all_skipped else None,
    )
