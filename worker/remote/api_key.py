"""Hold the key of the judge API: read it again from its file, and note whether the API takes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from worker.config import API_KEY_NAMES, KEY_FILE_NAME, Settings
from worker.errors import ConfigurationError
from worker.remote.deadline import clock

log = structlog.get_logger("evalworker")

MAX_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class KeyRefusal:
    """The API does not take the key. `count` is that of refusals in a row; a swarm is one."""

    reason: str
    since: datetime
    count: int


class ApiKey:
    """A key, and the file that it comes from, if any. Thread-safe.

    Args:
        key: The key, where it does not come from a file.
        file: Read when this is made, and again by `reload`.
        on_key: Called with each key, so that logs can hide it.

    Raises `ConfigurationError` where there is no usable key.
    """

    def __init__(
        self,
        key: str = "",
        *,
        file: Path | None = None,
        on_key: Callable[[str], None] = lambda _key: None,
    ) -> None:
        self._file = file
        self._on_key = on_key
        self._lock = threading.Lock()
        self._problem: str | None = None  # of the file, as it was logged
        self._refusal: KeyRefusal | None = None
        self._refused_at = float("-inf")
        self.current = _checked(key) if file is None else _read(file)
        self.used = [self.current]  # all keys so far; none of them may be shown
        on_key(self.current)

    @property
    def refusal(self) -> KeyRefusal | None:
        """Why the API does not take the current key; None while it does, as far as is known."""
        return self._refusal

    def reload(self) -> bool:
        """Read the file again; returns whether the key has changed.

        The old key is kept while the file has none, which is logged once.
        """
        if self._file is None:
            return False
        try:
            key = _read(self._file)
        except ConfigurationError as error:
            self._log_problem(str(error))
            return False
        with self._lock:
            self._problem = None
            if key == self.current:
                return False
            self.current = key
            self.used.append(key)
            self._refusal = None
        self._on_key(key)
        log.info("api_key.changed", file=str(self._file))
        return True

    def note_refused(self, key: str, reason: str, *, sent_at: float) -> None:
        """Note that the API refused this key; `sent_at` is the request's time by `clock`."""
        with self._lock:
            if key != self.current:
                return
            before = self._refusal
            if before is None:
                self._refusal = KeyRefusal(reason, datetime.now(UTC), 1)
            elif sent_at > self._refused_at:
                self._refusal = KeyRefusal(reason, before.since, before.count + 1)
            self._refused_at = clock()

    def note_accepted(self, key: str) -> None:
        """Note that the API did what it was asked with this key."""
        if self._refusal is not None and key == self.current:
            self._refusal = None

    def _log_problem(self, problem: str) -> None:
        with self._lock:
            is_new, self._problem = problem != self._problem, problem
        if is_new:
            log.warning("api_key.file_unusable", reason=f"{problem}; the old key is still used")


def key_of(settings: Settings, *, on_key: Callable[[str], None] = lambda _key: None) -> ApiKey:
    """Make the key that the settings give. Raises `ConfigurationError` where they give none."""
    if settings.api_key_file is not None:
        return ApiKey(file=settings.api_key_file, on_key=on_key)
    if settings.api_key is None:
        others = " or ".join((*API_KEY_NAMES[1:], KEY_FILE_NAME))
        raise ConfigurationError([f"{API_KEY_NAMES[0]} is not set (nor {others})"])
    return ApiKey(settings.api_key.get_secret_value(), on_key=on_key)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigurationError([f"{KEY_FILE_NAME}={file}: cannot be read: {words}"]) from None
    key = content.decode("latin-1").strip()  # what is not ASCII is refused below
    if not key:
        raise ConfigurationError([f"{KEY_FILE_NAME}={file}: is empty; write the key into it"])
    if len(key.splitlines()) > 1:
        raise ConfigurationError([f"{KEY_FILE_NAME}={file}: must have the key alone, on one line"])
    return _checked(key)


def _checked(given: str) -> str:
    key = given.strip()
    if not (key and key.isascii() and key.isprintable()):
        # The message does not quote it: even a malformed key is secret.
        raise ConfigurationError(["the API key is empty, or has characters that no header carries"])
    return key
