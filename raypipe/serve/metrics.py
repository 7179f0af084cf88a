"""What Prometheus is told at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from raypipe.serve.batching import Batch

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "raypipe_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "raypipe_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.in_flight = Gauge("raypipe_requests_in_flight", "Requests being answered.", registry=registry)
        self.queries = Counter("raypipe_queries", "Queries of requests.", ["kind"], registry=registry)
        self.batches = Histogram(
            "raypipe_batch_requests", "Requests of one batch.", ["what"], registry=registry, buckets=SIZES
        )
        self.batch_cost = Histogram(
            "raypipe_batch_cost",
            "Tokens (encoder) or queries (search) of one batch.",
            ["what"],
            registry=registry,
            buckets=TOKENS,
        )
        self.batch_seconds = Histogram(
            "raypipe_batch_seconds", "Work on one batch.", ["what"], registry=registry, buckets=SECONDS
        )
        self.halved = Counter(
            "raypipe_batches_halved", "Batches that the memory did not take whole.", ["what"], registry=registry
        )
        self.index = Gauge(
            "raypipe_index_info", "1, of the index that is served.", ["version", "type", "rows"], registry=registry
        )
        self.annotations = Gauge(
            "raypipe_annotations_info", "1, of the annotations that are served.", ["version"], registry=registry
        )
        self.taken_up = Counter("raypipe_versions_taken_up", "New versions of the atlas taken up.", registry=registry)
        self.refused = Counter(
            "raypipe_versions_refused", "Attempts to take up a version that failed.", registry=registry
        )

    def waiting(self, what: str, count: Callable[[], float]) -> None:
        """Report `count()` as what waits for `what`."""
        Gauge(f"raypipe_{what}_waiting", f"Cost of what waits for the {what}.", registry=self.registry).set_function(
            count
        )

    def batch(self, what: str) -> Callable[[Batch], None]:
        """Takes notes of batches."""
        requests, cost = self.batches.labels(what), self.batch_cost.labels(what)
        seconds, halved = self.batch_seconds.labels(what), self.halved.labels(what)

        def note(batch: Batch) -> None:
            requests.observe(batch.requests)
            cost.observe(batch.cost)
            seconds.observe(batch.seconds)
            if batch.halved:
                halved.inc()

        return note

    def text(self) -> bytes:
        """In Prometheus's own format."""
        return generate_latest(self.registry)
