"""A client of a station. Needs httpx (the extra `serve` has it), neither torch nor a database.

Requests that may be repeated are repeated while the station is full or away, for as long as `patience` says. A part always has
an idempotency key, so a part that was sent twice is inspected once.
"""

from offnominal.client.answers import (
    Drift,
    Event,
    Inspection,
    Line,
    ModelVersion,
    Pose,
    Region,
    Review,
    ReviewedInspection,
)
from offnominal.client.client import Client
from offnominal.client.transport import ApiError, UnreachableError

__all__ = [
    "ApiError",
    "Client",
    "Drift",
    "Event",
    "Inspection",
    "Line",
    "ModelVersion",
    "Pose",
    "Region",
    "Review",
    "ReviewedInspection",
    "UnreachableError",
]
