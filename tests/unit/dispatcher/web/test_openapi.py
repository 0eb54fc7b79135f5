"""The API is what docs/openapi.json says."""

import json
from pathlib import Path
from typing import Any

from dispatcher.web.openapi import text

FILE = Path(__file__).parents[4] / "docs" / "openapi.json"
AGAIN = "make it again: python -m dispatcher.web.openapi > docs/openapi.json"


def shape(document: dict[str, Any]) -> dict[str, Any]:
    """What programs rely on; how it is spelled differs between versions of the libraries."""
    found: dict[str, Any] = {}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            parameters = [(p["in"], p["name"], p["required"]) for p in told.get("parameters", [])]
            body = json.dumps(told.get("requestBody", {}), sort_keys=True)
            found[f"{method} {path}"] = (
                told["operationId"], sorted(parameters), sorted(told["responses"]), body
            )  # fmt: skip
    for name, schema in document["components"]["schemas"].items():
        found[name] = (sorted(schema.get("properties", {})), sorted(schema.get("required", [])))
    return found


def test_the_document_is_that_of_the_program() -> None:
    wanted, found = shape(json.loads(text())), shape(json.loads(FILE.read_text()))
    assert found == wanted, AGAIN


def test_every_operation_is_named_once_and_explained() -> None:
    methods = [
        told for each in json.loads(text())["paths"].values() for told in each.values()
    ]  # fmt: skip
    names = [told["operationId"] for told in methods]
    assert len(set(names)) == len(names) > 20
    assert all(told["description"] for told in methods)
