"""``python -m dispatcher.web.openapi > docs/openapi.json``: the API as a document."""

from __future__ import annotations

import json

from .app import bare


def text() -> str:
    """The document, always in the same order."""
    found = bare().openapi()
    # It describes version 1 of the API, in whatever version of the program.
    found["info"]["version"] = "1"
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(text(), end="")
