"""Runs the web application of a station until a signal stops it."""

from __future__ import annotations

from pathlib import Path
from types import FrameType

import uvicorn

from offnominal.station.station import Station
from offnominal.station.web import create_app

#: Seconds for which requests in progress may go on after a stop signal.
GRACE = 30


class _Server(uvicorn.Server):
    """A server that ends the streams of events when it stops; otherwise it would wait for them."""

    def __init__(self, config: uvicorn.Config, station: Station) -> None:
        super().__init__(config)
        self._station = station

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting, finish what was accepted."""
        self._station.stop_streams()
        super().handle_exit(sig, frame)


def run(root: Path, host: str, port: int) -> None:
    """Serve a station until SIGINT or SIGTERM.

    Raises
    ------
    InputError
        The folder is not a station, or the address cannot be used.
    ConflictError
        Another process runs the station.
    """
    with Station(root) as station:
        config = uvicorn.Config(
            create_app(station),
            host=host,
            port=port,
            access_log=False,
            log_level="info",
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            proxy_headers=station.settings.secure_cookies,  # else a local client could claim any address
        )
        _Server(config, station).run()
