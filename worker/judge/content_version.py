"""Name versions by their content, so that the same content has the same version everywhere."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid5


def content_version(owner_id: str, content: Any) -> str:
    """Return the id of the version of `owner_id` with this content, which JSON can hold."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return str(uuid5(UUID(owner_id), text))
