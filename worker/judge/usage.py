"""Show tokens, costs, cache hits and failures to Prometheus, as the ledger has them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from worker.judge.engine import Engine

LABELS = ("judge", "evaluator", "model")
COUNTERS = {
    "evaluations": "Evaluations that ended, with a score or without.",
    "failures": "Evaluations that failed.",
    "calls": "Paid calls of models.",
    "cache_hits": "Samples that were known already, and cost nothing.",
    "input_tokens": "Tokens that were sent to models.",
    "output_tokens": "Tokens that models wrote.",
    "cost": "What the calls cost, by the prices of judges.toml.",
}


class UsageCollector(Collector):
    """Read the ledger at each scrape. The counters survive restarts, as the ledger does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        ledger, models = self.engine.ledger, self.engine.definitions.models
        rows = ledger.usage(by=LABELS)
        today = ledger.usage(since=ledger.today(), by=("judge", "model"))
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"evalworker_judge_{name}", text, labels=LABELS)
            for row in rows:
                counter.add_metric([row[label] for label in LABELS], row[name])
            yield counter
        for name, text in COUNTERS.items():
            gauge = GaugeMetricFamily(
                f"evalworker_judge_{name}_today",
                f"Today, in UTC: {text[0].lower()}{text[1:]}",
                labels=("judge", "model"),
            )
            for row in today:
                gauge.add_metric([row["judge"], row["model"]], row[name])
            yield gauge
        budget = GaugeMetricFamily(
            "evalworker_judge_daily_budget", "What a model may cost a day.", labels=["model"]
        )
        waits = GaugeMetricFamily(
            "evalworker_judge_model_waits",
            "Whether calls of a model wait: an outage, a throttle, a spent budget.",
            labels=["model"],
        )
        for alias, model in models.items():
            if model.daily_budget is not None:
                budget.add_metric([alias], model.daily_budget)
            waits.add_metric([alias], float(self.engine.endpoints[alias].waits_for is not None))
        yield from (budget, waits)


def exposition(engine: Engine, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format that a scraper accepts, and its content type."""
    registry = CollectorRegistry()
    registry.register(UsageCollector(engine))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
