"""From a thread to the coroutine that waits; executors and their futures cost as much as a read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

Told = TypeVar("Told")


class Telling(Generic[Told]):
    """Made and awaited on the event loop; told once, by a thread, a result or an error."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Told] = self._loop.create_future()

    def __await__(self) -> Generator[Any, None, Told]:
        return self._future.__await__()

    def is_wanted(self) -> bool:
        """False once who waited has gone."""
        return not self._future.cancelled()

    def tell(self, told: Told | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._tell, told)

    def _tell(self, told: Told | Exception) -> None:
        if self._future.done():
            return
        if isinstance(told, Exception):
            self._future.set_exception(told)
        else:
            self._future.set_result(told)
