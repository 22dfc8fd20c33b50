"""The OpenAPI document: errors as problems, public operations, files, and an example of every value."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from offnominal.station.web.guard import COOKIE, is_public
from offnominal.station.web.problems import MEDIA_TYPE, Problem

Json = dict[str, Any]
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
PROMISE = "At most 1 % of good parts are flagged, on average over draws of the training images."
#: Property or parameter -> an example, where the schema has none.
EXAMPLES: Json = {
    "added_by": "anna", "by": "anna", "centre": 0.012, "changed": 2, "comment": "after the new lamp", "csrf": None,
    "digest": DIGEST, "error": None, "false_alarms": 3, "good": 240, "high": 0.036,
    "id": "01a22e4f905d2ef2a1838bd859692d9b", "image_sha256": DIGEST, "images": 400,
    "inspections": ["01a22e4f905d2ef2a1838bd859692d9b"], "last_event": 1042, "learned": 4, "line": "cells",
    "lot": "2026-48", "low": 0.003, "lower": 0.0, "message": None, "model": DIGEST, "n": 120, "name": "anna", "next": None,
    "ng": 2, "not_replayed": 0, "ok": 118, "p_value": 0.01, "parent": None, "password": "correct horse battery",
    "path": "/srv/camera-1/A-0042.png", "problem": None, "problems": [], "progress": 0.4, "promise": PROMISE,
    "rate": 0.0125, "replayed": 200, "score": 7.5, "secret": "Zk3v0Qm1…", "sentence": "3 of 240 good parts were flagged.",
    "serial": "A-0042", "share": 0.017, "size": 3870173, "sources": ["/srv/camera-1"], "stated": 0.01, "threshold": 5.31,
    "threshold_after": 5.4, "threshold_before": 5.31, "token": "offnominal_Zk3v0Qm1…", "unchanged": 198, "unreadable": 0,
    "unreviewed": 1, "upper": 0.04, "wrong_after": 0, "wrong_before": 2,
}  # fmt: skip
#: End of a path -> media types of its answer, where it is a file or a stream.
FILES = {
    "/metrics": ("text/plain",),
    "/models/{digest}": ("application/octet-stream",),
    "/events": ("text/event-stream",),
    "/receipt": ("image/jpeg",),
    "/picture": ("image/png", "image/jpeg", "image/bmp", "image/webp"),
    "/{kind}": ("image/png", "image/jpeg", "image/bmp", "image/webp", "image/tiff", "application/octet-stream"),
}
#: The request of the Open Inference Protocol, which the route reads itself: its tensors may follow the JSON.
INFERENCE: Json = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array"}}},
            "example": {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo…"]}]},
        }
    },
}

INFERRED: Json = {
    "model_name": "cells",
    "model_version": DIGEST,
    "outputs": [{"name": "score", "datatype": "FP32", "shape": [1], "data": [7.5]}],
}


def document(app: FastAPI) -> Json:
    """The OpenAPI document of the application."""
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    found["security"] = [{"token": []}, {"session": []}]
    components["schemas"]["Problem"] = Problem.model_json_schema()
    for path, operation in _operations(found):
        _complete(path, operation)
    for schema in components["schemas"].values():
        for name, value in schema.get("properties", {}).items():
            _illustrate(name, value, value)
    return found


def _operations(found: Json) -> Iterator[tuple[str, Json]]:
    for path, operations in found["paths"].items():
        for operation in operations.values():
            yield path, operation


def _complete(path: str, operation: Json) -> None:
    if is_public(path):
        operation["security"] = []
    for status, answer in operation["responses"].items():
        if MEDIA_TYPE in answer.get("content", {}):
            problem = {
                "type": "about:blank",
                "title": HTTPStatus(int(status)).phrase,
                "status": int(status),
                "detail": "what, where, what to do",
            }
            answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": problem}}
    for end, types in FILES.items():
        if path.endswith(end) and "200" in operation["responses"]:
            operation["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}} for kind in types}
    if path.endswith("/infer"):
        operation["requestBody"] = INFERENCE
        operation["responses"]["200"]["content"] = {"application/json": {"schema": {"type": "object"}, "example": INFERRED}}
    for parameter in operation.get("parameters", []):
        _illustrate(parameter["name"], parameter["schema"], parameter)


def _illustrate(name: str, schema: Json, target: Json) -> None:
    """Add the example of a name to a property (`examples`) or a parameter (`example`), unless its schema has one."""
    if name not in EXAMPLES or any(key in schema for key in ("examples", "enum", "const", "$ref")):
        return
    value = 7 if schema.get("type") == "integer" and not isinstance(EXAMPLES[name], int) else EXAMPLES[name]
    if target is schema:
        schema["examples"] = [value]
    else:
        target["example"] = value
