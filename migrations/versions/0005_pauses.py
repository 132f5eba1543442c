"""Give pauses a table of their own; until now a pause was a gate that opened in the year 9000."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = {"postgresql": "timestamptz", "sqlite": "TEXT"}
NEVER = {"postgresql": "'9000-01-01 00:00:00+00'", "sqlite": "'9000-01-01 00:00:00.000000+00:00'"}

TABLE = """
CREATE TABLE eval_pauses (
    judge_id TEXT NOT NULL PRIMARY KEY,
    reason TEXT NOT NULL,
    paused_at {time} NOT NULL
)
"""
# A pause was called 'pause', or 'pause:<judge id>'.
FROM_GATES = """
INSERT INTO eval_pauses (judge_id, reason, paused_at)
SELECT substr(scope, 7), reason, closed_at FROM eval_gates
WHERE scope = 'pause' OR scope LIKE 'pause:%'
"""
DELETE_FROM_GATES = "DELETE FROM eval_gates WHERE scope = 'pause' OR scope LIKE 'pause:%'"
TO_GATES = """
INSERT INTO eval_gates (scope, opens_at, failures, reason, closed_at)
SELECT CASE judge_id WHEN '' THEN 'pause' ELSE 'pause:' || judge_id END, {never}, 0, reason,
    paused_at
FROM eval_pauses
"""


def upgrade() -> None:
    op.execute(TABLE.format(time=TIME[op.get_context().dialect.name]))
    _execute_verbatim(FROM_GATES)
    _execute_verbatim(DELETE_FROM_GATES)


def downgrade() -> None:
    _execute_verbatim(TO_GATES.format(never=NEVER[op.get_context().dialect.name]))
    op.execute("DROP TABLE eval_pauses")


def _execute_verbatim(statement: str) -> None:
    """Execute a statement in which a colon does not begin a parameter."""
    op.execute(statement.replace(":", r"\:"))
