"""Let people sign in with their key, and out again."""

from __future__ import annotations

from starlette.responses import Response

from worker.console.access import COOKIE, Access
from worker.console.sessions import SESSION_SECONDS
from worker.console.visit import Visit


def ask(visit: Visit, access: Access, *, target: str, status: int, wrong: bool = False) -> Response:
    """Show the form; `target` is the page to go to afterwards."""
    return visit.page(
        "sign_in.html", status=status, target=target, wrong=wrong, takes_keys=bool(access.people)
    )


def sign_in(visit: Visit, access: Access) -> Response:
    """Give a cookie for a key, and go to the page that was asked for."""
    target = _local_path(visit.form.text("target"))
    person = access.people.find(visit.form.text("key") or "")
    if person is None:
        return ask(visit, access, target=target, status=401, wrong=True)
    response = visit.redirect(f"{visit.links.prefix}{target}")
    response.set_cookie(
        COOKIE,
        access.sessions.token(person),
        max_age=SESSION_SECONDS,
        path=visit.cookie_path,
        secure=visit.is_https,
        httponly=True,
        samesite="lax",  # a shared link to a page must find the session
    )
    return response


def sign_out(visit: Visit) -> Response:
    response = visit.redirect(visit.links.to())
    response.delete_cookie(COOKIE, path=visit.cookie_path)
    return response


def _local_path(target: str | None) -> str:
    """Return a path of the console itself: a target elsewhere would help phishing."""
    if target is None or not target.startswith("/") or target[1:2] in ("/", "\\"):
        return "/"
    return target
