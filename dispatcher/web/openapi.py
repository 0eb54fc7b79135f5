"""The OpenAPI document of the API: ``python -m dispatcher.web.openapi > docs/openapi.json``."""

from __future__ import annotations

import json

from .server import create_routes


def document_text() -> str:
    """Return the document as JSON with sorted keys."""
    document = create_routes().openapi()
    # The document describes version 1 of the API, whatever the version of the program is.
    document["info"]["version"] = "1"
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(document_text(), end="")
