"""Make and check the cookies by which a signed-in person is known again."""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from worker.console.people import People, Person

SESSION_SECONDS = 12 * 3600
PURPOSE = "evalworker console session 1"  # signed, so that no other signature passes for it


class Sessions:
    """Sessions that are kept nowhere: a cookie has a name, an end, and a signature of both.

    The secret of a signature is the hash of the person's own key. So every replica with the same
    keys accepts the cookie, and it ends when the key is removed or replaced.
    """

    def __init__(self, people: People, *, clock: Callable[[], float] = time.time) -> None:
        self._people = people
        self._clock = clock

    def token(self, person: Person) -> str:
        """Return the value of the cookie of a person who has shown their key."""
        ends_at = int(self._clock()) + SESSION_SECONDS
        name = urlsafe_b64encode(person.name.encode()).decode()
        return f"{name}.{ends_at}.{_signature(person.digest or b'', person.name, ends_at)}"

    def person(self, token: str) -> Person | None:
        """Return whose cookie this is; None if it is not ours, too old, or its key is gone."""
        try:
            name, ends, signature = token.split(".")
            ends_at = int(ends)
            person = self._people.by_name().get(urlsafe_b64decode(name).decode())
        except ValueError:
            return None
        if person is None or not person.digest or ends_at < self._clock():
            return None
        expected = _signature(person.digest, person.name, ends_at).encode()
        return person if hmac.compare_digest(expected, signature.encode()) else None


def _signature(secret: bytes, name: str, ends_at: int) -> str:
    signed = f"{PURPOSE}\n{name}\n{ends_at}".encode()
    return hmac.new(secret, signed, hashlib.sha256).hexdigest()
