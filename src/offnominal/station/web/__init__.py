"""HTTP: the guard, the routes and the pages."""

from offnominal.station.web.app import create_app

__all__ = ["create_app"]
