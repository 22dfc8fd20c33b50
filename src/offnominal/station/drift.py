"""The drift monitor of a line, rebuilt from its stored inspections."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from offnominal.detector import Detector
from offnominal.monitoring.drift_monitor import DriftMonitor
from offnominal.station.tables import Event, Inspection, Line, ModelVersion

#: Latest inspections from which a monitor is rebuilt.
MOST = 20_000
RESET = "drift.reset"


def monitor_of(session: Session, line: Line, version: ModelVersion, detector: Detector) -> DriftMonitor | None:
    """The monitor after all inspections by this version since the last reset; None if the model cannot be monitored."""
    if detector.model.appearance is None:
        return None
    monitor = DriftMonitor(detector.model, None)
    reset = session.scalar(select(func.max(Event.id)).where(Event.line == line.name, Event.kind == RESET))
    since = session.scalar(select(Event.at).where(Event.id == reset)) if reset is not None else None
    rows = (
        select(Inspection.id, Inspection.serial, Inspection.image_name, Inspection.appearance)
        .where(Inspection.line_id == line.id, Inspection.model_version_id == version.id, Inspection.error.is_(None))
        .order_by(Inspection.id.desc())
        .limit(MOST)
    )
    if since is not None:
        rows = rows.where(Inspection.judged_at > since)
    stored = [row for row in reversed(session.execute(rows).all()) if row.appearance]
    if stored:
        names = [row.serial or row.image_name for row in stored]
        monitor.update(names, np.array([row.appearance for row in stored], dtype=np.float32))
    return monitor


def public_drift(monitor: DriftMonitor | None) -> dict[str, Any]:
    """The state of a monitor as the HTTP API shows it."""
    if monitor is None:
        return {"monitored": False, "warning": False, "message": None, "images": 0}
    result = monitor.result()
    message = None
    if result["warning"]:
        since = result["since"]
        message = (
            f"Since about part {since['path']}, images differ from the training images: {result['change']}. "
            "The stated false-alarm rate no longer holds. Check light, lens, camera and product."
        )
    return {"monitored": True, "warning": result["warning"], "message": message, "images": result["images"]}
