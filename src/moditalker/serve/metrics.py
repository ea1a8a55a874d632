"""Metrics of a service for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moditalker.serve.service import Service

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The content of GET /metrics."""

    def __init__(self, service: Service) -> None:
        self.service, self.registry = service, CollectorRegistry()
        self.registry.register(self)
        self.seconds = Histogram(
            "moditalker_request_seconds",
            "Seconds until an answer begins.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        service = self.service
        jobs = CounterMetricFamily("moditalker_jobs", "Jobs that ended since the start.", labels=["state"])
        for state, count in service.ended.items():
            jobs.add_metric([state], count)
        deaths = CounterMetricFamily("moditalker_worker_deaths", "Workers that died.", labels=["pool"])
        deaths.add_metric(["look"], service.looker.deaths)
        deaths.add_metric(["make"], service.maker.deaths)
        yield from (jobs, deaths)
        for name, text, value in (
            ("jobs_open", "Jobs that wait or are being done.", service.waiting),
            ("disk_bytes", "Bytes of all files.", service.used),
            ("ready", "1 if videos can be made.", int(service.maker.up)),
        ):
            yield GaugeMetricFamily(f"moditalker_{name}", text, value=value)

    def text(self) -> bytes:
        """The values in the format of Prometheus."""
        return generate_latest(self.registry)


class Meter:
    """ASGI middleware that measures each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                labels = scope["method"] if route != "none" else "none", route, message["status"]
                self.metrics.seconds.labels(*labels).observe(time.perf_counter() - begun)
            await send(message)

        await self.app(scope, receive, sending)
