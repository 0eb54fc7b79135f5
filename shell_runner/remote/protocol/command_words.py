"""The words of the command that runs a test: wrapper, interpreter, program and arguments.

Pure.  A host starts these words, and reports show them.
"""

import re
from typing import List

from .model import Test

_PLACEHOLDER = re.compile(r"\{(file|root)\}")


def expand_placeholders(word: str, file: str, root: str) -> str:
    """Return ``word`` with ``{file}`` replaced by the program's path and ``{root}`` by the root."""
    values = {"file": file, "root": root}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], word)


def build_command(test: Test, file: str, root: str) -> List[str]:
    """Return all words of the command, the file to execute first.

    ``file``: path of the program.  ``root``: path of the root of the tree, to which the path of a
    wrapper is relative.  A wrapper without ``{file}`` gets it as its last word.
    """
    args = [expand_placeholders(word, file, root) for word in test.args]
    if not test.run:
        return [*test.argv, file, *args]
    words = [expand_placeholders(word, file, root) for word in test.run]
    if "/" in words[0] and not words[0].startswith("/"):
        words[0] = "%s/%s" % (root, words[0][2:] if words[0].startswith("./") else words[0])
    has_file = any("{file}" in word for word in test.run)
    return [*words, *([] if has_file else [file]), *args]
