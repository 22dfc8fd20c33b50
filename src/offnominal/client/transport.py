"""Sends requests to a station, repeats those that may be repeated, and names what went wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from offnominal.errors import InputError, OffnominalError

#: Answers after which a request that may be repeated is sent again.
REPEATED = (429, 502, 503, 504)
#: Seconds before the first repetition and the longest between two, unless the station says how long to wait.
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
#: Seconds without a sign of life after which a stream of events is opened anew; the station sends one every 10.
SILENCE = 30.0


class ApiError(OffnominalError):
    """The station refuses a request.

    Attributes
    ----------
    status
        HTTP status: 401 for a wrong token, 403 for a role that does not suffice, 404, 409, 413, 422 for wrong input, 429, 503.
    detail
        The reason in one sentence.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{detail} (HTTP {status})")
        self.status, self.detail = status, detail


class UnreachableError(OffnominalError):
    """The station does not answer."""


class Repeats:
    """Waits between the repetitions of one request, up to a total time.

    Examples
    --------
    >>> Repeats(patience=1.0).wait(retry_after="5")
    False
    """

    def __init__(self, patience: float) -> None:
        self._end, self._wait = time.monotonic() + patience, FIRST_WAIT

    def wait(self, retry_after: str | None = None) -> bool:
        """Wait; False at once if that would take longer than the patience."""
        said = float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0
        wait = max(said, self._wait * random.uniform(0.5, 1.0))  # clients that were refused together come back apart
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        if time.monotonic() + wait > self._end:
            return False
        time.sleep(wait)
        return True


class Transport:
    """Sends requests with the token of the client."""

    def __init__(self, url: str, token: str, patience: float, timeout: float, http: httpx.Client | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url[:80]!r}: give the address of the station, such as http://127.0.0.1:8000")
        self._url, self.patience, self._timeout = url.rstrip("/"), patience, timeout
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client() if http is None else http

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def json(self, method: str, path: str, *, repeat: bool = True, **content: Any) -> Any:
        """The JSON that a request is answered with."""
        answer = self.send(method, path, repeat=repeat, **content)
        try:
            return answer.json()
        except ValueError:
            raise ApiError(answer.status_code, f"{self._url}{path}: does not answer JSON; is it a station?") from None

    def send(
        self, method: str, path: str, *, repeat: bool = True, headers: Mapping[str, str] | None = None, **content: Any
    ) -> httpx.Response:
        """Send a request until it is answered. With `repeat=False`, only one that was certainly not done is sent again.

        Raises
        ------
        ApiError
            The station refuses it.
        UnreachableError
            The station does not answer.
        """
        repeats = Repeats(self.patience)
        while True:
            try:
                answer = self._http.request(
                    method, self._url + path, headers={**self._headers, **(headers or {})}, timeout=self._timeout, **content
                )
            except httpx.TransportError as error:
                not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                if not ((repeat or not_sent) and repeats.wait()):
                    raise self._unreachable(error) from None
                continue
            if answer.is_success:
                return answer
            again = answer.status_code in REPEATED and (repeat or answer.status_code == 429)
            if not (again and repeats.wait(answer.headers.get("retry-after"))):
                raise _refused(answer)

    @contextmanager
    def lines(self, path: str, query: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The lines of an answer that goes on. Raises `ApiError` or `UnreachableError`, also while they are read."""
        timeout = httpx.Timeout(self._timeout, read=SILENCE)
        try:
            with self._http.stream("GET", self._url + path, params=query, headers=self._headers, timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                yield answer.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(f"{self._url}: does not answer ({error or type(error).__name__}); is the station running?")


def _refused(answer: httpx.Response) -> ApiError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200] or answer.reason_phrase
    return ApiError(answer.status_code, detail)
