"""Run the gateway alone."""

from __future__ import annotations

import contextlib
import threading

from worker.app import TICK_SECONDS, ending_on_signals
from worker.cli.context import (
    MigrateFirst,
    configure,
    freeze_imports,
    ready_database,
    warn_of_unknown_variables,
)
from worker.cli.migrate import migrate_database
from worker.gateway.server import serving_gateway
from worker.health import gateway_operations, operations_server
from worker.metrics import Metrics


def gateway(migrate_first: MigrateFirst = False) -> None:
    settings = configure()
    warn_of_unknown_variables()
    if migrate_first:
        migrate_database(settings)
    ending = threading.Event()
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(ready_database(settings)))
        metrics = Metrics()
        metrics.register_database(database, max_in_flight=settings.max_in_flight)
        stack.enter_context(ending_on_signals(ending))
        stack.enter_context(operations_server(settings, gateway_operations(database, metrics)))
        stack.enter_context(serving_gateway(settings, database, observe=metrics.on_gateway_request))
        freeze_imports()
        while not ending.wait(TICK_SECONDS):
            pass  # signals are handled between two waits
