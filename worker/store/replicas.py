"""Record which replicas of the worker live, and what each of them cannot do.

A replica writes its own row every few seconds. The row of one that has died expires: nobody counts
it from then on, and any other replica deletes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.store.rows import read_rows, select_rows
from worker.store.sql_functions import later, now
from worker.store.tables import replicas
from worker.store.transaction import Transaction

EXPIRE_SECONDS = 30.0  # after which a replica that wrote nothing counts as dead


class TroubledReplica(NamedTuple):
    """A replica that lives, and the reasons why it cannot do a part of its work."""

    holder: str
    key_refused_at: datetime | None
    key_error: str | None
    send_failed_at: datetime | None
    send_error: str | None


def record_alive(
    tx: Transaction, holder: str, *, key_error: str | None, send_error: str | None
) -> None:
    """Write the row of a replica: that it lives, and its troubles; None where it has none."""
    tx.execute(_DELETE_EXPIRED)
    _upsert(
        tx,
        holder,
        key_refused_at=_since(replicas.c.key_refused_at, key_error),
        key_error=key_error,
        send_failed_at=_since(replicas.c.send_failed_at, send_error),
        send_error=send_error,
    )


def record_key_refused(tx: Transaction, holder: str, reason: str) -> bool:
    """Record that the API refused the key of a replica.

    Returns whether another replica lives whose key was not refused.
    """
    since = _since(replicas.c.key_refused_at, reason)
    _upsert(tx, holder, key_refused_at=since, key_error=reason)
    return is_another_accepted(tx, holder)


def _since(column: sa.Column[datetime], error: str | None) -> sa.ColumnElement[datetime] | None:
    """Build the time of the first of several errors in a row."""
    return None if error is None else sa.func.coalesce(column, now())


def is_another_accepted(tx: Transaction, holder: str) -> bool:
    """Return whether another replica lives whose key was not refused."""
    return tx.execute(_ANOTHER, {"but": holder}).first() is not None


def record_ended(tx: Transaction, holder: str) -> None:
    """Delete the row of a replica that ends."""
    tx.execute(sa.delete(replicas).where(replicas.c.holder == holder))


def list_troubled(connection: sa.Connection) -> list[TroubledReplica]:
    """Return the living replicas that cannot do a part of their work."""
    in_trouble = sa.or_(replicas.c.key_error.isnot(None), replicas.c.send_error.isnot(None))
    chosen = select_rows(TroubledReplica, replicas).where(_LIVES, in_trouble)
    return read_rows(connection, TroubledReplica, chosen.order_by(replicas.c.holder))


_LIVES = replicas.c.expires_at > now()
_DELETE_EXPIRED = sa.delete(replicas).where(replicas.c.expires_at <= now())
_ANOTHER = sa.select(1).where(
    replicas.c.holder != sa.bindparam("but"), _LIVES, replicas.c.key_error.is_(None)
)


def _upsert(tx: Transaction, holder: str, **values: Any) -> None:
    """Insert the row of a replica, or update it; it expires later from now on."""
    tx.execute(
        tx.insert(replicas)
        .values(holder=holder, started_at=now(), expires_at=now())
        .on_conflict_do_nothing(index_elements=["holder"])
    )
    tx.execute(
        sa.update(replicas)
        .where(replicas.c.holder == holder)
        .values(expires_at=later(sa.literal(EXPIRE_SECONDS)), **values)
    )
