"""Figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The metrics of one station, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.inspections = Counter("offnominal_inspections", "Inspections stored.", ("line", "verdict"), registry=self.registry)
        self.refused = Counter("offnominal_refused", "Images refused, by reason.", ("reason",), registry=self.registry)
        self.duration = Histogram(
            "offnominal_inspection_seconds",
            "Time from the start of an inspection to its result.",
            ("line",),
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.pending = Gauge("offnominal_pending", "Images that are not yet answered.", registry=self.registry)
        self.ready = Gauge("offnominal_ready", "1 if the station can inspect, otherwise 0.", registry=self.registry)
        self.disk_free = Gauge("offnominal_disk_free_bytes", "Free space on the disk of the images.", registry=self.registry)
        self.drift = Gauge("offnominal_drift_warning", "1 while the drift monitor warns.", ("line",), registry=self.registry)
