"""What the server counts, in Prometheus' text form."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One set for each app, so that several apps can live in a process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "edgetune_requests_total",
            "Answered requests.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "edgetune_request_seconds",
            "Time from a request's header to the last byte of its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "edgetune_batch_images",
            "Images that went through the backbone together.",
            buckets=IMAGES,
            registry=self._registry,
        )
        self._received = self._bytes("edgetune_received_bytes_total", "Bytes of request bodies.")
        self._sent = self._bytes("edgetune_sent_bytes_total", "Bytes of answers' bodies.")
        self.waiting = Gauge("edgetune_queue_images", "Images waiting.", registry=self._registry)

    def _bytes(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self._registry)

    def batch(self, images: int) -> None:
        """Counts a batch."""
        self._batch.observe(images)

    def request(self, endpoint: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Counts an answered request; `endpoint` is one of the app's routes, never a raw path."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    def text(self) -> bytes:
        """All metrics, as /metrics answers them."""
        return generate_latest(self._registry)
