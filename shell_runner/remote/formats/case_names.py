"""Names of cases without the path of the tree, which differs from host to host and run to run.

Programs make names from ``$0``.  This module must not know slots or formats.
"""

import os
import re
from typing import Optional

from ..protocol.model import ParsedOutput


def remove_tree_path(parsed: Optional[ParsedOutput], root: str) -> Optional[ParsedOutput]:
    """Return ``parsed`` with paths below ``root`` in names and groups made relative to it."""
    if parsed is None:  # before paths are resolved, which takes a tenth of the time of a short test
        return None
    roots = [path for path in {root, os.path.realpath(root)} if len(path) > 1]
    if not any(path in case.name or path in case.group for case in parsed.cases for path in roots):
        return parsed
    # The path must not be the middle of a longer one.
    choices = "|".join(re.escape(path) for path in sorted(roots, key=len, reverse=True))
    pattern = re.compile(r"(?<![\w./-])(?:%s)(/+|(?![\w.-]))" % choices)

    def shorten(text: str) -> str:
        return pattern.sub(lambda match: "" if match.group(1) else ".", text)

    cases = [
        case._replace(name=shorten(case.name), group=shorten(case.group)) for case in parsed.cases
    ]
    return parsed._replace(cases=cases)
