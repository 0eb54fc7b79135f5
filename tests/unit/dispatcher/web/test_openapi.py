"""Tests that docs/openapi.json describes the API."""

import json
from pathlib import Path
from typing import Any

from dispatcher.web.openapi import document_text

FILE = Path(__file__).parents[4] / "docs" / "openapi.json"
REGENERATE = "generate it again: python -m dispatcher.web.openapi > docs/openapi.json"


def extract_contract(document: dict[str, Any]) -> dict[str, Any]:
    """Return the part on which clients rely; the rest depends on versions of libraries."""
    contract: dict[str, Any] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = [
                (p["in"], p["name"], p["required"]) for p in operation.get("parameters", [])
            ]
            body = json.dumps(operation.get("requestBody", {}), sort_keys=True)
            contract[f"{method} {path}"] = (
                operation["operationId"], sorted(parameters), sorted(operation["responses"]), body
            )  # fmt: skip
    for name, schema in document["components"]["schemas"].items():
        contract[name] = (sorted(schema.get("properties", {})), sorted(schema.get("required", [])))
    return contract


def test_the_document_is_that_of_the_program() -> None:
    wanted, documented = (
        extract_contract(json.loads(document_text())),
        extract_contract(json.loads(FILE.read_text())),
    )
    assert documented == wanted, REGENERATE


def test_every_operation_is_named_once_and_explained() -> None:
    methods = [
        operation
        for path in json.loads(document_text())["paths"].values()
        for operation in path.values()
    ]  # fmt: skip
    names = [operation["operationId"] for operation in methods]
    assert len(set(names)) == len(names) > 20
    assert all(operation["description"] for operation in methods)


def test_every_error_is_a_problem_with_its_media_type() -> None:
    document = json.loads(document_text())
    for path, methods in document["paths"].items():
        for operation in methods.values():
            errors = {s: r for s, r in operation["responses"].items() if s >= "400"}
            assert {"400", "403", "404", "408", "409", "413", "421", "422", "500", "503"} <= set(
                errors
            )
            for status, response in errors.items():
                content = {"schema": {"$ref": "#/components/schemas/Problem"}}
                assert response["content"] == {"application/problem+json": content}, (path, status)
