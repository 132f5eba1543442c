"""Name what makes two inputs of different jobs a pair."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Self

CHOICES = "index, request or metadata:KEY"


class PairedBy(StrEnum):
    INDEX = "index"
    REQUEST = "request"
    METADATA = "metadata"


class Pairing(NamedTuple):
    """Inputs are a pair where they have the same index, request, or value in their metadata."""

    by: PairedBy = PairedBy.INDEX
    key: str = ""  # of the metadata

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read index, request or metadata:KEY; raises `ValueError`."""
        name, colon, key = text.partition(":")
        if name == PairedBy.METADATA and key:
            return cls(PairedBy.METADATA, key)
        if colon or name not in (PairedBy.INDEX, PairedBy.REQUEST):
            raise ValueError(f"{text!r} is none of {CHOICES}")
        return cls(PairedBy(name))

    def __str__(self) -> str:
        return f"{self.by}:{self.key}" if self.key else str(self.by)

    @property
    def words(self) -> str:
        """What pairs have in common, as it is named in sentences."""
        return f"metadata {self.key!r}" if self.key else str(self.by)
