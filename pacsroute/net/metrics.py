"""Prometheus metrics of an app; they need the extra ``metrics``.

The values of labels are names in the standard, or lanes of the app; any other value that a peer
sends or a handler returns is counted as ``other``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from pacsroute import uids
from pacsroute.dimse.commands import Command
from pacsroute.errors import AssociationAborted
from pacsroute.framework.base import BaseApp
from pacsroute.framework.observer import Observer
from pacsroute.framework.peer import PeerView
from pacsroute.framework.work import WorkQueue
from pacsroute.status import KNOWN, Status
from pacsroute.upper_layer.pdu import AssociateRJ
from pacsroute.upper_layer.rejections import reason_of

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_OTHER = "other"
_LANES = {
    "waiting": "Jobs of a lane that wait.",
    "running": "Jobs of a lane that are under way.",
    "failed": "Jobs of a lane that were given up.",
    "oldest_seconds": "Age of the oldest job of a lane that waits.",
}


class Metrics(Observer):
    """Counts what an app does.

    If ``PROMETHEUS_MULTIPROC_DIR`` is set, the numbers are the sums over all processes that share
    this folder.

    Parameters
    ----------
    app : App
        The app to observe.

    Examples
    --------
    >>> from pacsroute import App
    >>> app = App()
    >>> metrics = Metrics(app)
    >>> with app.test_client() as client:
    ...     status = client.echo()
    >>> b'category="Success",command="C-ECHO"' in metrics.render()
    True
    """

    def __init__(self, app: BaseApp) -> None:
        self._app = app
        self._registry = CollectorRegistry()
        make = self._make
        self._accepted = make(Counter, "associations_accepted", "Associations accepted.")
        self._rejected = make(Counter, "associations_rejected", "Associations rejected.", "reason")
        self._ended = make(
            Counter, "associations_ended", "Associations released, aborted, or lost.", "how"
        )
        self._open = make(Gauge, "associations_open", "Associations accepted that have not ended.")
        self._requests = make(
            Counter,
            "requests",
            "Requests answered, by final status.",
            *("command", "sop_class", "category", "status"),
        )
        self._durations = make(
            Histogram,
            "request_duration_seconds",
            "Time from a request, with its data set, to its final response.",
            "command",
        )
        self._in_flight = make(
            Gauge, "requests_in_flight", "Requests that are being answered.", "command"
        )
        self._received = make(
            Counter, "received_bytes", "Length of the data sets of requests.", "command"
        )
        self._sent = make(Counter, "sent_bytes", "Length of the data sets sent.", "command")
        self._sub_operations = make(
            Counter,
            "sub_operations",
            "Instances sent by C-GET and C-MOVE, by the peer's status.",
            *("command", "category"),
        )
        self._quarantined = make(
            Counter, "archive_quarantined", "Instances that an archive has set aside.", "reason"
        )
        self._delivered = make(
            Counter,
            "jobs_delivered",
            "Instances of the queue that destinations have taken, by their status.",
            *("lane", "category"),
        )
        self._spool = make(Gauge, "spool_bytes", "Length of the data sets in files of the spool.")
        app.observe(self)

    def _make(self, kind: Any, name: str, purpose: str, *labels: str) -> Any:
        """Return a metric, or a cached function that returns its children, which is faster."""
        options: dict[type, dict[str, Any]] = {
            Gauge: {"multiprocess_mode": "livesum"},
            Histogram: {"buckets": _SECONDS},
        }
        metric = kind(
            f"pacsroute_{name}",
            purpose,
            labels,
            registry=self._registry,
            **options.get(kind, {}),
        )
        return cache(metric.labels) if labels else metric

    def accepted(self, association: PeerView) -> None:
        """Count it."""
        self._accepted.inc()
        self._open.inc()

    def rejected(self, association: PeerView, answer: AssociateRJ) -> None:
        """Count it by reason."""
        self._rejected(reason_of(answer) or _OTHER).inc()

    def ended(self, association: PeerView, error: AssociationAborted | None) -> None:
        """Count it by how it ended."""
        how = "released" if error is None else "lost" if error.source is None else "aborted"
        self._ended(how).inc()
        self._open.dec()

    def began(self, peer: PeerView, command: str, sop_class: str, size: int | None) -> None:
        """Count it as in flight, and its bytes."""
        self._in_flight(command).inc()
        if size:
            self._received(command).inc(size)
            self._spool.set(self._app.room.used)

    def answered(
        self, peer: PeerView, command: str, sop_class: str, status: Status | None, seconds: float
    ) -> None:
        """Count it by status."""
        name = uids.name(sop_class)
        category, code = "Unanswered", ""
        if status is not None:
            category = status.category
            code = f"0x{status.code:04X}" if status.code in KNOWN else _OTHER
        self._requests(command, _OTHER if name == sop_class else name, category, code).inc()
        self._durations(command).observe(seconds)
        self._in_flight(command).dec()

    def sub_operation(self, command: str, status: Status) -> None:
        """Count it by category."""
        self._sub_operations(command, status.category).inc()

    def quarantined(self, reason: str) -> None:
        """Count it by reason."""
        self._quarantined(reason).inc()

    def delivered(self, lane: str, category: str) -> None:
        """Count it by destination."""
        self._delivered(lane, category).inc()

    def sent(self, peer: PeerView, command: Command, size: int) -> None:
        """Count the bytes."""
        self._sent(command.name).inc(size)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' format, including the app's own."""
        self._spool.set(self._app.room.used)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            shared = CollectorRegistry()
            MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
            counted = generate_latest(shared)
        else:
            counted = generate_latest(self._registry) + generate_latest(REGISTRY)
        return counted + self._lanes() + self._gauges()

    def _lanes(self) -> bytes:
        """Return the state of the queue's lanes, which all processes share."""
        work = self._app.work_under_way
        if work is None:
            return b""
        return _rendered(_Lanes(work))

    def _gauges(self) -> bytes:
        return _rendered(_Gauges(self._app))


def _rendered(collector: Collector) -> bytes:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


class _Gauges(Collector):
    """Asks the app and its blueprints for their gauges at each scrape."""

    def __init__(self, app: BaseApp) -> None:
        self._app = app

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return a family for each name."""
        families: dict[str, GaugeMetricFamily] = {}
        for one in self._app.measured():
            name = f"pacsroute_{one.name}"
            family = GaugeMetricFamily(name, one.purpose, labels=[one.label])
            families.setdefault(name, family).add_metric([one.of], one.value)
        return families.values()


class _Lanes(Collector):
    """Reads the lanes of a queue from its database at each scrape."""

    def __init__(self, work: WorkQueue) -> None:
        self._work = work

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return a family of gauges for each number."""
        families = [
            GaugeMetricFamily(f"pacsroute_jobs_{name}", purpose, labels=["lane"])
            for name, purpose in _LANES.items()
        ]
        for lane in self._work.lanes():
            oldest = lane.oldest if lane.oldest is not None and lane.waiting else 0.0
            values = (lane.waiting, lane.running, lane.failed, oldest)
            for family, value in zip(families, values, strict=True):
                family.add_metric([lane.name], value)
        return families
