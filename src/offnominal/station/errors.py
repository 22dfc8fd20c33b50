"""Errors of the station, with the HTTP status that each maps to in `web.problems`.

StationError
├── NotFoundError          404: no such line, inspection, model version, user or file
├── ConflictError          409: the name or key is taken, or the state does not allow it
├── UnauthenticatedError   401: no valid session or token
├── ForbiddenError         403: the role does not suffice
├── TooLargeError          413: more bytes than the station accepts
├── TooManyRequestsError   429: the client exceeds its rate
└── UnavailableError       503: the queue is full, the database is away, the disk is full, or no model is ready
"""

from __future__ import annotations

from offnominal.errors import OffnominalError


class StationError(OffnominalError):
    """Base class of errors of the station."""


class NotFoundError(StationError):
    """The thing that was named does not exist."""


class ConflictError(StationError):
    """A name is taken, or the current state does not allow the request."""


class UnauthenticatedError(StationError):
    """The request has no valid session or token."""


class ForbiddenError(StationError):
    """The role of the caller does not suffice."""


class TooLargeError(StationError):
    """The request has more bytes than the station accepts."""


class TooManyRequestsError(StationError):
    """The client sends more requests than its rate allows."""


class UnavailableError(StationError):
    """The station cannot serve the request now; the client should try again.

    Attributes
    ----------
    retry_after
        Seconds after which a new attempt makes sense.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
