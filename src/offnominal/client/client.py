"""The client."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import httpx

from offnominal.client.answers import (
    Event,
    FileKind,
    Inspection,
    Line,
    ModelVersion,
    Review,
    ReviewedInspection,
    ReviewVerdict,
    Verdict,
    parsed,
)
from offnominal.client.transport import FIRST_WAIT, REPEATED, ApiError, Repeats, Transport, UnreachableError
from offnominal.errors import InputError


class Client:
    """Sends parts to a station and reads its history. Use as a context manager, or call `close`.

    Parameters
    ----------
    url
        Address of the station.
    token
        A token of `offnominal station token`.
    patience
        Seconds for which a request is repeated while the station is full or away.
    timeout
        Seconds to wait for one answer.
    http
        A client of httpx with settings of its own, such as a proxy or certificates.

    Examples
    --------
    >>> with Client("http://127.0.0.1:8000", "offnominal_…") as station:  # doctest: +SKIP
    ...     part = station.inspect("cells", "A-0042.png", serial="A-0042")
    ...     part.verdict, part.score
    ('ng', 7.5)
    """

    def __init__(
        self, url: str, token: str, *, patience: float = 60.0, timeout: float = 60.0, http: httpx.Client | None = None
    ) -> None:
        self._transport = Transport(url, token, patience, timeout, http)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def inspect(
        self,
        line: str,
        image: str | Path | bytes,
        *,
        serial: str | None = None,
        lot: str | None = None,
        taken_at: datetime | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Inspection:
        """Inspect a part.

        Parameters
        ----------
        line
            Name of the line.
        image
            Path or content of the image file.
        serial, lot
            What is known about the part.
        taken_at
            When the image was taken.
        name
            File name to keep. [default: that of the path]
        idempotency_key
            Identifies the part over several calls, such as after a restart of the client. [default: a new one]

        Raises
        ------
        ApiError
            The station refuses the part.
        UnreachableError
            The station does not answer, or is full for longer than `patience`.
        InputError
            The file cannot be read.
        """
        content, given = _content(image)
        fields = {"serial": serial, "lot": lot, "taken_at": None if taken_at is None else taken_at.isoformat()}
        answer = self._transport.json(
            "POST",
            f"/api/lines/{_part(line)}/inspections",
            files={"image": (name or given or "image", content)},
            data=_without_none(fields),
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
        )
        return parsed(Inspection, answer)

    def inspections(
        self,
        line: str | None = None,
        *,
        serial: str | None = None,
        lot: str | None = None,
        verdict: Verdict | None = None,
        review: Literal["ok", "ng", "any", "none"] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: Literal["newest", "oldest"] = "newest",
        page: int = 100,
    ) -> Iterator[Inspection]:
        """Inspections that match, fetched page by page.

        Parameters
        ----------
        line, serial, lot, verdict
            Equal to this.
        review
            Verdict of the latest review; `any` or `none` for parts with and without one.
        since, until
            Judged in this time; `until` is exclusive.
        order
            What comes first.
        page
            Inspections per request, at most 500.
        """
        query: dict[str, Any] = _without_none(
            {
                "line": line, "serial": serial, "lot": lot, "verdict": verdict, "review": review, "order": order, "limit": page,
                "since": None if since is None else since.isoformat(), "until": None if until is None else until.isoformat(),
            }
        )  # fmt: skip
        while True:
            answer = self._transport.json("GET", "/api/inspections", params=query)
            yield from parsed(tuple[Inspection, ...], answer["items"])
            if answer["next"] is None:
                return
            query["after"] = answer["next"]

    def inspection(self, id: str) -> ReviewedInspection:
        """One inspection with its reviews."""
        return parsed(ReviewedInspection, self._transport.json("GET", f"/api/inspections/{_part(id)}"))

    def file(self, id: str, kind: FileKind = "image") -> bytes:
        """A file of an inspection: the image as received, as a browser shows it, its heat map, thumbnail or receipt."""
        return self._transport.send("GET", f"/api/inspections/{_part(id)}/{kind}").content

    def review(self, id: str, verdict: ReviewVerdict, *, defect_class: str | None = None, comment: str = "") -> Review:
        """Review a part; the latest review counts."""
        given = _without_none({"verdict": verdict, "class": defect_class, "comment": comment})
        return parsed(Review, self._transport.json("POST", f"/api/inspections/{_part(id)}/reviews", repeat=False, json=given))

    def lines(self) -> tuple[Line, ...]:
        """All lines."""
        return parsed(tuple[Line, ...], self._transport.json("GET", "/api/lines"))

    def line(self, name: str) -> Line:
        """One line."""
        return parsed(Line, self._transport.json("GET", f"/api/lines/{_part(name)}"))

    def models(self, line: str) -> tuple[ModelVersion, ...]:
        """Model versions of a line, newest first."""
        return parsed(tuple[ModelVersion, ...], self._transport.json("GET", f"/api/lines/{_part(line)}/models"))

    def upload_model(self, line: str, model: str | Path | bytes, comment: str = "") -> ModelVersion:
        """Add a model version; it is checked, not activated. Role: engineer."""
        content, name = _content(model)
        files, data = {"model": (name or "model", content)}, {"comment": comment}
        return parsed(ModelVersion, self._transport.json("POST", f"/api/lines/{_part(line)}/models", files=files, data=data))

    def activate(self, line: str, digest: str) -> ModelVersion:
        """Use a model version from the next image on. Role: engineer."""
        return parsed(ModelVersion, self._transport.json("POST", f"/api/lines/{_part(line)}/models/{_part(digest)}/activate"))

    def roll_back(self, line: str) -> ModelVersion:
        """Return to the model version that was active before. Role: engineer."""
        return parsed(ModelVersion, self._transport.json("POST", f"/api/lines/{_part(line)}/rollback", repeat=False))

    def events(self, line: str, after: int | None = None) -> Generator[Event, None, None]:
        """What happens on a line, as it happens, without end. After a broken connection it goes on where it was.

        Parameters
        ----------
        line
            Name of the line.
        after
            Number of the last event that is known; 0 for the whole history. [default: the latest one]

        Raises
        ------
        ApiError
            The station refuses the request.
        UnreachableError
            The station is away for longer than `patience`.
        """
        last = self.line(line).last_event if after is None else after
        repeats: Repeats | None = None
        while True:
            try:
                with self._transport.lines(f"/api/lines/{_part(line)}/events", {"after": last}) as received:
                    repeats = None
                    for event in _events(received):
                        last = event.number
                        yield event
                time.sleep(FIRST_WAIT)  # the station stops, or something between closed the connection
            except (UnreachableError, ApiError) as error:
                repeats = Repeats(self._transport.patience) if repeats is None else repeats
                if (isinstance(error, ApiError) and error.status not in REPEATED) or not repeats.wait():
                    raise


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """Events of a `text/event-stream`. Notes that the database is away are left out; the station goes on by itself."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value
            continue
        if "data" in fields and "id" in fields and fields.get("event", "message") == "message":
            yield parsed(Event, {"number": int(fields["id"]), **json.loads(fields["data"])})
        fields = {}


def _content(file: str | Path | bytes) -> tuple[bytes, str | None]:
    """Content of a file and its name; read once, so that all repetitions send the same."""
    if isinstance(file, bytes):
        return file, None
    try:
        return Path(file).read_bytes(), Path(file).name
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
