"""The OpenAPI document is complete, true, and the role of every route is decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from offnominal.station.accounts import ROLES
from station.calls import post
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, Server, image_bytes

#: Operation -> the least role. A new route without a line here fails.
ALL, VIEWER, OPERATOR, ENGINEER, ADMIN = "all", *ROLES
DECIDED = {
    "GET /healthz": ALL,
    "GET /readyz": ALL,
    "GET /metrics": ALL,
    "POST /api/login": ALL,
    "POST /api/first": ALL,
    "POST /api/logout": VIEWER,
    "GET /api/me": VIEWER,
    "GET /api/users": ADMIN,
    "POST /api/users": ADMIN,
    "PATCH /api/users/{name}": ADMIN,
    "GET /api/tokens": ADMIN,
    "POST /api/tokens": ADMIN,
    "DELETE /api/tokens/{name}": ADMIN,
    "GET /api/lines": VIEWER,
    "POST /api/lines": ENGINEER,
    "GET /api/lines/{line}": VIEWER,
    "GET /api/lines/{line}/models": VIEWER,
    "POST /api/lines/{line}/models": ENGINEER,
    "GET /api/lines/{line}/models/{digest}": ENGINEER,
    "POST /api/lines/{line}/models/{digest}/activate": ENGINEER,
    "POST /api/lines/{line}/rollback": ENGINEER,
    "POST /api/lines/{line}/drift/reset": ENGINEER,
    "POST /api/lines/{line}/inspections": OPERATOR,
    "GET /api/lines/{line}/inspections": VIEWER,
    "GET /api/inspections": VIEWER,
    "GET /api/inspections/{id}": VIEWER,
    "GET /api/inspections/{id}/receipt": VIEWER,
    "GET /api/inspections/{id}/picture": VIEWER,
    "GET /api/inspections/{id}/{kind}": VIEWER,
    "POST /api/inspections/{id}/reviews": OPERATOR,
    "GET /api/lines/{line}/events": VIEWER,
    "GET /api/lines/{line}/teach": VIEWER,
    "POST /api/lines/{line}/candidates": ENGINEER,
    "GET /api/candidates/{id}": VIEWER,
    "POST /api/candidates/{id}/activate": ENGINEER,
    "POST /api/candidates/{id}/dismiss": ENGINEER,
    "GET /api/lines/{line}/counts": VIEWER,
    "GET /api/lines/{line}/statistics": VIEWER,
    "GET /api/export.csv": VIEWER,
    "GET /api/report.zip": VIEWER,
    "GET /v2": VIEWER,
    "GET /v2/health/live": VIEWER,
    "GET /v2/health/ready": VIEWER,
    "GET /v2/models/{name}": VIEWER,
    "GET /v2/models/{name}/ready": VIEWER,
    "POST /v2/models/{name}/infer": OPERATOR,
}
#: Not in the document, and why: an older address.
HIDDEN = {"POST /api/lines/{line}/models/rollback": ENGINEER}


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Iterator[Server]:
    with server(station_folder()) as started:
        with started.client() as client:
            post(client, LINE, image_bytes(150, bad=True), serial="A", lot="L")
        yield started


@pytest.fixture(scope="module")
def document(running: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(running.url + "/openapi.json", trust_env=False).json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, described in document["paths"].items()
        for method, operation in described.items()
    }


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/components/schemas/")
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def example(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A value that a schema describes, from its examples."""
    schema = resolved(document, schema)
    if "examples" in schema:
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    if "anyOf" in schema:
        return example(document, schema["anyOf"][0])
    if schema.get("type") == "object":
        return {name: example(document, value) for name, value in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [example(document, schema["items"])]
    return {"boolean": True, "integer": 1, "number": 1.0}.get(schema.get("type", ""), "2026-11-30T14:05:00Z")


def body(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """What to send so that only the role can be refused."""
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        name = "model" if "models" in operation["operationId"] else "image"
        return {"files": {name: b"nothing"}}
    if "application/json" in content:
        given = content["application/json"]
        return {"json": given["example"] if "example" in given else example(document, given["schema"])}
    return {}


def test_every_route_has_a_decided_role(document: dict[str, Any]) -> None:
    assert set(operations(document)) == set(DECIDED)


@pytest.mark.parametrize("role", [None, "wrong", *ROLES])
@pytest.mark.parametrize("operation", [*DECIDED, *HIDDEN])
def test_the_role_decides(running: Server, document: dict[str, Any], operation: str, role: str | None) -> None:
    method, path = operation.split(" ")
    least = {**DECIDED, **HIDDEN}[operation]
    filled = path.replace("{line}", LINE).replace("{name}", LINE if path.startswith("/v2") else "nobody")
    filled = filled.replace("{digest}", "0" * 64).replace("{id}", "7").replace("{kind}", "image")
    sent = body(document, operations(document).get(operation, {}))
    secret = running.home.tokens.get(role or "", "wrong")
    headers = {} if role is None else {"Authorization": f"Bearer {secret}"}
    with (
        httpx.Client(base_url=running.url, headers=headers, timeout=60, trust_env=False) as client,
        client.stream(method, filled, **sent) as answer,
    ):
        if least == ALL:
            assert answer.status_code != 500
        elif role not in ROLES:
            assert answer.status_code == 401
        elif ROLES.index(role) < ROLES.index(least):
            assert answer.status_code == 403
        else:
            assert answer.status_code not in (401, 403, 405, 500), answer.read()


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(names)) == len(names)
    for name, operation in operations(document).items():
        assert operation["description"].rstrip().endswith((".", "sent.")), name
        least = DECIDED[name]
        assert (operation.get("security") == []) == (least == ALL), name
        if least in (OPERATOR, ENGINEER, ADMIN):
            assert f"Role: {least}." in operation["description"], name
        for parameter in operation.get("parameters", []):
            described = parameter["schema"]
            clear = any(key in parameter for key in ("example", "description")) or "enum" in str(described)
            assert clear, (name, parameter)
        if name.split(" ")[0] in ("POST", "PATCH") and "requestBody" in operation:
            assert operation["requestBody"]["content"], name


def test_every_answer_is_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert len(good) == 1, name
        if good != ["204"]:
            assert operation["responses"][good[0]]["content"], name
        if DECIDED[name] != ALL or "/api/" in name:
            assert {"401", "403", "404", "413", "422", "429", "503"} <= set(operation["responses"]), name
        for status, answer in operation["responses"].items():
            if status >= "400" and "/api/" in name:
                (content,) = answer["content"].items()
                assert content[0] == "application/problem+json"
                assert content[1]["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert content[1]["example"]["title"] == HTTPStatus(int(status)).phrase


def test_every_value_has_an_example(document: dict[str, Any]) -> None:
    def clear(schema: dict[str, Any]) -> bool:
        if any(key in schema for key in ("$ref", "examples", "enum", "const", "default")):
            return True
        if "anyOf" in schema:
            return any(clear(one) for one in schema["anyOf"] if one.get("type") != "null")
        if schema.get("type") == "array":
            return clear(schema["items"])
        return schema.get("type") == "boolean" or schema.get("format") == "date-time" or "contentMediaType" in schema

    unclear = [
        f"{name}.{key}"
        for name, schema in document["components"]["schemas"].items()
        for key, value in schema.get("properties", {}).items()
        if not clear(value)
    ]
    assert unclear == []


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        assert resolved(document, {"$ref": reference})


def matches(document: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    """Whether a JSON value is what a schema describes: types, enums, required and unknown keys."""
    schema = resolved(document, schema)
    if "anyOf" in schema:
        return any(matches(document, one, value) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds: dict[str, Any] = {"null": type(None), "string": str, "boolean": bool, "array": list, "object": dict, "integer": int}
    if isinstance(value, bool) != (schema["type"] == "boolean"):
        return False
    if not isinstance(value, kinds.get(schema["type"], (int, float))):
        return False
    if schema["type"] == "array":
        return all(matches(document, schema["items"], one) for one in value)
    if schema["type"] == "object" and "properties" in schema:
        known = schema["properties"]
        required = set(schema.get("required", []))
        return required <= set(value) <= set(known) and all(matches(document, known[key], one) for key, one in value.items())
    return True


def test_answers_are_what_the_document_says(running: Server, document: dict[str, Any]) -> None:
    checked = 0
    with running.client("admin") as client:
        id = client.get("/api/inspections").json()["items"][0]["id"]
        for name, operation in operations(document).items():
            method, path = name.split(" ")
            if method != "GET" or path.endswith("/events"):
                continue
            filled = path.replace("{line}", LINE).replace("{name}", LINE).replace("{id}", id).replace("{kind}", "heat")
            answer = client.get(filled.replace("{digest}", client.get(f"/api/lines/{LINE}").json()["model"]["digest"]))
            if "candidates" in path:
                assert answer.status_code == 422  # an identifier of an inspection is none of a candidate
                continue
            assert answer.status_code == 200, (name, answer.text)
            content = operation["responses"]["200"]["content"]
            kind = answer.headers["content-type"].split(";")[0]
            assert kind in content, name
            if kind == "application/json":
                assert matches(document, content[kind]["schema"], answer.json()), (name, answer.text[:500])
            checked += 1
    assert checked >= 20
