"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from groot_jax.serving.batching import Search

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Seconds: a sentence of a small model takes some milliseconds, a batch on a busy CPU seconds.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; each server has its own."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        """`waiting`: sentences that wait now."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "groot_requests",
            "HTTP requests, by path and status",
            ("path", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "groot_request_seconds",
            "Seconds from the first byte of a request for labels to its answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.sentences = Counter(
            "groot_sentences",
            "Sentences by outcome: labeled, or bad",
            ("outcome",),
            registry=self.registry,
        )
        self.batch = Histogram(
            "groot_batch_sentences",
            "Sentences of a search",
            buckets=_SENTENCES,
            registry=self.registry,
        )
        self.padding = Counter(
            "groot_padding_rows",
            "Rows of batches that held no sentence",
            registry=self.registry,
        )
        self.search = Histogram(
            "groot_search_seconds",
            "Seconds of a search",
            buckets=_SECONDS,
            registry=self.registry,
        )
        Gauge(
            "groot_waiting_sentences",
            "Sentences that no search has taken yet",
            registry=self.registry,
        ).set_function(waiting)
        ProcessCollector(registry=self.registry)

    def count(self, search: Search) -> None:
        """Counts a search."""
        self.batch.observe(search.sentences)
        self.padding.inc(search.rows - search.sentences)
        self.search.observe(search.seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self.registry)
