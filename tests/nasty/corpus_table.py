"""The table of all nasty programs for docs/nasty.md.

Must not depend on how the programs are run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.nasty import corpus
from tests.nasty.corpus import NastyProgram

#: Programs that have no room for a comment.
_DESCRIPTIONS = {
    "crlf.sh": "A shebang that ends in a CR",
    "empty": "An empty file",
    "foreign": "A binary of another machine",
    "interpreter_folder.sh": "A folder as interpreter",
    "no_interpreter.sh": "An interpreter that is not there",
}
_SECTIONS = (
    ("Processes", corpus.PROCESSES, "all places"),
    ("Output", corpus.OUTPUT, "all places"),
    ("Files", corpus.FILES, "all places"),
    ("Names of files", corpus.NAMES, "all places"),
    ("Exit statuses", corpus.EXITS, "all places"),
    ("Signals", corpus.SIGNALS, "all places"),
    ("Large and odd results", (*corpus.RESULTS, *corpus.CASES), "all places, with artifacts"),
    ("Links and mounts for directories", corpus.DIRECTORIES, "all places, in namespaces"),
    ("Floods of output", corpus.FLOODS, "here, with the memory measured"),
    ("A full file system", (corpus.FULL,), "here, in namespaces"),
    ("The host", (corpus.KILL_HOST,), "here"),
    (
        "The host",
        (corpus.KILL_ALL,),
        "in namespaces, over agents; [locally](isolation.md) it ends pytest itself",
    ),
)
_HEADER = "| what the program does | outcome | words | leftovers |\n| --- | --- | --- | --- |"


def describe_program(program: NastyProgram) -> str:
    """Return the comment at the head of a program, without its full stop."""
    for line in (corpus.PROGRAMS / program.file).read_text(errors="replace").splitlines():
        if line.startswith(("# ", "/* ")):
            return line.strip("#/* ").rstrip(".")
    return _DESCRIPTIONS.get(program.file, program.file)


def build_corpus_table() -> str:
    """Return the section of docs/nasty.md with every program and its outcome."""
    parts, last = [], ""
    for title, programs, where in _SECTIONS:
        if title != last:
            parts.append(f"### {title}\n")
        last = title
        parts.append(f"Runs: {where}.\n\n{_HEADER}")
        parts[-1] += "".join(f"\n{row}" for row in _build_rows(programs)) + "\n"
    return "\n".join(parts)


def _build_rows(programs: Iterable[NastyProgram]) -> Iterator[str]:
    """Yield a row for each file and outcome, with the names under which the file runs."""
    names: dict[tuple[str, str, str, str], list[str]] = {}
    for program in programs:
        key = program.file, program.outcome, program.message, program.leftovers
        names.setdefault(key, []).append(program.id if program.name else "")
    for (file, outcome, message, leftovers), ids in names.items():
        listed = ", ".join(f"`` {_escape(name)} ``" for name in ids if name)
        description = f"{describe_program(NastyProgram(file, outcome))} (`{file}`)"
        if any(each.heavy and each.file == file for each in corpus.TOGETHER):
            description += ", on `popen` hosts only"
        if listed:
            description += f", as {listed}"
        cells = (description, outcome, _quote(message), _quote(leftovers))
        yield f"| {' | '.join(cells)} |"


def _quote(text: str) -> str:
    return f"`{_escape(text)}`" if text else ""


def _escape(text: str) -> str:
    shortened = text if len(text) < 60 else f"{text[:20]}...({len(text)} characters)"
    return shortened.replace("|", "\\|")
