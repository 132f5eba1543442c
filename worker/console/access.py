"""Decide who a request comes from, and whether they may act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.requests import Request

from worker.config import Settings
from worker.console.people import People, Person, Role
from worker.console.sessions import Sessions

COOKIE = "evalworker_console"
MAX_NAME_LENGTH = 200  # characters of a name that a proxy sends


@dataclass(frozen=True, slots=True)
class Visitor:
    """The person behind a request; `may_act` is false for viewers, and in read-only mode."""

    name: str
    may_act: bool
    signed_in: bool  # by a cookie, which they can give back


class Access:
    """Knows people by the header of a trusted proxy or by the cookie of a session.

    Without keys and proxy, everybody who reaches the port is a local operator.
    """

    def __init__(
        self,
        people: People,
        *,
        read_only: bool = False,
        proxy_header: str | None = None,
        proxies: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self.people = people
        self.sessions = Sessions(people)
        self.read_only = read_only
        self._proxy_header = proxy_header
        self._proxies = proxies
        self.is_local = not people and proxy_header is None

    @classmethod
    def from_settings(cls, settings: Settings) -> Access:
        """Read the keys; raises `ConfigurationError`."""
        secret, header = settings.console_keys, settings.console_proxy_header
        setting = secret.get_secret_value() if secret else None
        return cls(
            People(setting, with_proxy=header is not None),
            read_only=settings.console_read_only,
            proxy_header=header,
            proxies=settings.console_proxy_networks,
        )

    def visitor(self, request: Request) -> Visitor | None:
        """Return who asks; None if they have to sign in first."""
        if self.is_local:
            return Visitor("local", not self.read_only, signed_in=False)
        if (person := self._named_by_proxy(request)) is not None:
            return self._as_visitor(person, signed_in=False)
        person = self.sessions.person(request.cookies.get(COOKIE, ""))
        return None if person is None else self._as_visitor(person, signed_in=True)

    def is_proxy(self, request: Request) -> bool:
        """Return whether a request comes from a trusted proxy."""
        if request.client is None:
            return False
        try:
            address = ip_address(request.client.host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._proxies)

    def _named_by_proxy(self, request: Request) -> Person | None:
        """Return the person that a trusted proxy names; whoever has no entry is a viewer."""
        if self._proxy_header is None or not self.is_proxy(request):
            return None
        names = request.headers.getlist(self._proxy_header)
        if len(names) != 1 or not (name := names[0].strip()) or len(name) > MAX_NAME_LENGTH:
            return None
        return self.people.by_name().get(name) or Person(name, Role.VIEWER)

    def _as_visitor(self, person: Person, *, signed_in: bool) -> Visitor:
        may_act = person.role is Role.OPERATOR and not self.read_only
        return Visitor(person.name, may_act, signed_in)
