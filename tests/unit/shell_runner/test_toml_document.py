"""Tests of documents from untrusted TOML: limits, and the line of each key."""

import contextlib
import time
import tomllib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shell_runner.errors import InvalidConfig
from shell_runner.toml_document import MAX_CHARS, MAX_DEPTH, Path, parse_document

TEXT = (
    '''\
# a comment with [brackets] and = signs
top = 1
[build]
command = """
output = "not a key"
[neither] = this
"""
output = 'a\\b' # = here
inputs = [
    "x]", # and a [comment]
    'y',
]
[stages.unit]
environment = { A = "1", "B C".d = '=' }
needs.a.b = 1
when = 1979-05-27 07:32:00Z

  [ "stages" . 'a.b' ]   # quoted
"\\u0041\\"" = 1
quotes = """a"" b\\""" c"""""
[[list]]
x = [[1, 2], [{ deep = 1 }]]
[[list]]
y = '''
    ""
    """''
"""
)
WHERE: dict[Path, int] = {
    ("top",): 2, ("build",): 3, ("build", "command"): 4, ("build", "output"): 8,
    ("build", "inputs"): 9, ("stages",): 13, ("stages", "unit"): 13,
    ("stages", "unit", "environment"): 14, ("stages", "unit", "environment", "A"): 14,
    ("stages", "unit", "environment", "B C"): 14, ("stages", "unit", "environment", "B C", "d"): 14,
    ("stages", "unit", "needs"): 15, ("stages", "unit", "needs", "a"): 15,
    ("stages", "unit", "needs", "a", "b"): 15, ("stages", "unit", "when"): 16,
    ("stages", "a.b"): 18, ("stages", "a.b", 'A"'): 19, ("stages", "a.b", "quotes"): 20,
    ("list",): 21, ("list", "x"): 22, ("list", "x", "deep"): 22, ("list", "y"): 24,
}  # fmt: skip


def no_id(value: object) -> str:
    """Return an empty id: the values are too large for the name of a test."""
    return "value"


def keys(value: Any, path: Path = ()) -> set[Path]:
    """Return all paths of the data; elements of lists have no number."""
    if isinstance(value, list):
        return {found for each in value for found in keys(each, path)}
    if not isinstance(value, dict):
        return set()
    below = {found for key, each in value.items() for found in keys(each, (*path, key))}
    return below | {(*path, key) for key in value}


def test_lines_of_keys() -> None:
    assert parse_document("f", TEXT).lines == WHERE
    assert keys(tomllib.loads(TEXT)) == set(WHERE)


def test_lines_are_those_of_an_editor_with_any_line_ends() -> None:
    assert parse_document("f", TEXT.replace("\n", "\r\n")).lines == WHERE


WORDS = st.text(st.sampled_from("ab.=[]{}#,'\"\\ \t\n-1é\u2028"), max_size=6)
VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), WORDS),
    lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(WORDS, each, max_size=3)),
    max_leaves=5,
)


def escaped(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + quoted.replace("\n", "\\n").replace("\t", "\\t") + '"'


def string(text: str, draw: st.DrawFn) -> str:
    """Return a strategy for the four forms of a TOML string."""
    ways = [escaped(text), f'"""\n{escaped(text)[1:-1]}"""']
    if "'" not in text:
        ways.append(f"'''\n{text}'''")
        ways += [f"'{text}'"] * ("\n" not in text)
    return draw(st.sampled_from(ways))


def written(value: Any, draw: st.DrawFn) -> str:
    space = draw(st.sampled_from(["", " ", "\t"]))
    if isinstance(value, dict):
        pairs = (f"{escaped(k)}{space}={space}{written(v, draw)}" for k, v in value.items())
        return "{" + space + f"{space},".join(pairs) + space + "}"
    if isinstance(value, list):
        gap = draw(st.sampled_from(["", "\n", " # ] \" ''' {\n"]))
        return f"[{gap}" + f"{gap},".join(written(each, draw) for each in value) + f"{gap}]"
    return string(value, draw) if isinstance(value, str) else str(value).lower()


@st.composite
def texts(draw: st.DrawFn) -> str:
    lines = []
    for name, table in draw(
        st.dictionaries(WORDS, st.dictionaries(WORDS, VALUES, max_size=3), max_size=3)
    ).items():
        lines.append(f"[{escaped(name)}] # x")
        lines += [f"{escaped(key)} = {written(value, draw)}" for key, value in table.items()]
    return "\n".join(lines)


@settings(max_examples=40)
@given(texts())
def test_all_keys_that_tomllib_reads_have_a_line(text: str) -> None:
    doc = parse_document("f", text)
    assert doc.data == tomllib.loads(text)
    assert keys(doc.data) == set(doc.lines)
    lines = text.split("\n")
    for path, line in doc.lines.items():
        assert escaped(path[-1]) in lines[line - 1]


@given(st.text(st.sampled_from("ab.=[]{}#,'\"\\ \n-1"), max_size=30))
@example("a = '''x''''''")
@example('a = """\\"""')
@example("a = [1 2]")
@example("[[a]\nb=1")
def test_every_text_that_tomllib_accepts_is_scanned(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(InvalidConfig, match=r"^f:\d+: "):
            parse_document("f", text)
    else:
        assert keys(data) == set(parse_document("f", text).lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1\nb = \n", "f:2: Invalid value"),
        ("a = 1\n\na = 2\n", "f:3: Cannot overwrite a value"),
        ("a = [\n1,\n", "f:3: Invalid value"),
        ("a = '\x00'", "f:1: Found invalid character '\\x00'"),
        ("\na = " + "9" * 5000 + "\nb = 1\n", "f:2: a number has too many digits"),
        ("x = 1\na = " + "[" * 100_000, f"f:2: a key or a value is nested more than {MAX_DEPTH}"),
        ("a = " + "{b=" * 80_000, "f:1: a key or a value is nested more than"),
        (".".join("a" * 100_000) + " = 1", "f:1: a key or a value is nested more than"),
        ("[" + ".".join("a" * 100_000) + "]", "f:1: a key or a value is nested more than"),
        ("a" * (MAX_CHARS + 1), "f: too large"),
        ("\ufeff= 1", "f:1: Invalid statement"),
    ],
    ids=no_id,
)  # fmt: skip
def test_a_text_that_is_no_toml_is_refused_by_line(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_document("f", text)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_bytes_that_are_no_text_are_refused_by_line() -> None:
    with pytest.raises(InvalidConfig, match=r"^f:3: not UTF-8"):
        parse_document("f", b"a = 1\n# \xc3\xa9\n# \xff\n")
    assert parse_document("f", "# é\na = 'é'".encode()).data == {"a": "é"}


@pytest.mark.parametrize(
    "text",
    [
        "a = '" + "x" * (MAX_CHARS - 6) + "'",
        '"' * (MAX_CHARS - 1),
        'a = """' + '"a' * (MAX_CHARS // 2 - 8),
        "a = [" + "1," * (MAX_CHARS // 2 - 8),
        " \t#" * (MAX_CHARS // 3),
        "\n" * MAX_CHARS,
        "a = 0x" + "f" * (MAX_CHARS - 7),
    ],
    ids=no_id,
)
def test_a_text_as_large_as_it_may_be_takes_linear_time(text: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidConfig):
        parse_document("f", text)
    assert time.process_time() - began < 3


def test_a_missing_key_has_the_line_of_its_table() -> None:
    doc = parse_document("f", "\n[a]\nb.c = 1\n")
    lines = [doc.line(path) for path in (["a", "x"], ["a", "b", "c"], ["a", "b", "z"], ["q"], [])]
    assert lines == [2, 3, 3, 1, 1]
