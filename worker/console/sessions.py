"""Make and check the cookies by which a signed-in person is known again."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from worker.console.people import People, Person

SESSION_SECONDS = 12 * 3600


class Sessions:
    """Sessions that are kept nowhere: a cookie has a name, an end, and a signature of both.

    The signature also covers the person's key, so that a session ends when the key is removed or
    replaced. Its secret is made anew by each process: a restart signs everybody out.
    """

    def __init__(self, people: People, *, clock: Callable[[], float] = time.time) -> None:
        self._people = people
        self._clock = clock
        self._secret = secrets.token_bytes(32)

    def token(self, person: Person) -> str:
        """Return the value of the cookie of a person who has shown their key."""
        ends_at = int(self._clock()) + SESSION_SECONDS
        name = urlsafe_b64encode(person.name.encode()).decode()
        return f"{name}.{ends_at}.{self._signature(person, ends_at)}"

    def person(self, token: str) -> Person | None:
        """Return whose cookie this is; None if it is not ours, too old, or its key is gone."""
        try:
            name, ends, signature = token.split(".")
            ends_at = int(ends)
            person = self._people.by_name().get(urlsafe_b64decode(name).decode())
        except ValueError:
            return None
        if person is None or person.digest is None or ends_at < self._clock():
            return None
        expected = self._signature(person, ends_at).encode()
        return person if hmac.compare_digest(expected, signature.encode()) else None

    def _signature(self, person: Person, ends_at: int) -> str:
        signed = f"{person.name}\n{ends_at}\n".encode() + (person.digest or b"")
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()
