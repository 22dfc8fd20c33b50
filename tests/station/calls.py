"""Requests that several tests send, and checks of what is answered."""

from __future__ import annotations

import httpx


def post(
    client: httpx.Client, line: str, image: bytes, *, name: str = "part.png", key: str | None = None, **fields: str
) -> httpx.Response:
    """Send a part."""
    headers = {} if key is None else {b"Idempotency-Key": key.encode()}
    return client.post(f"/api/lines/{line}/inspections", files={"image": (name, image)}, data=fields, headers=headers)


def is_problem(answer: httpx.Response, status: int) -> bool:
    """Whether an answer is an error of this status, as RFC 9457 and the API describe it."""
    assert answer.status_code == status, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["detail"]
    assert "Traceback" not in problem["detail"]
    assert "retry-after" in answer.headers or status not in (429, 503)
    return True
