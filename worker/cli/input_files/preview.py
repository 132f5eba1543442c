"""Describe what would be enqueued from a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.cli.input_files.check import CheckedFile
from worker.cli.input_files.columns import listed
from worker.cli.input_files.input_file import InputFile
from worker.cli.input_files.selection import Selection
from worker.domain.phrases import quantity

_SHOWN_CHARACTERS = 500  # of an input


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be enqueued, and in how many batches."""

    file: InputFile
    checked: CheckedFile
    selection: Selection
    batch_size: int

    @property
    def batches(self) -> int:
        """The number of batches that are needed; very long inputs need more."""
        return math.ceil(self.checked.inputs / self.batch_size)

    def lines(self) -> Iterator[str]:
        """Yield what `--dry-run` prints."""
        checked = self.checked
        yield f"{self.file.name}: {self.file.description}"
        yield from checked.notes
        yield f"taken: {', '.join(self._taken())}"
        if self.selection.kept:
            yield f"kept as metadata: {listed(self.selection.kept)}"
        if checked.left_out:
            yield f"left out: {listed(checked.left_out)}"
        inputs, batches = quantity(checked.inputs, "input"), quantity(self.batches, "batch")
        yield f"{inputs} in at least {batches} of at most {self.batch_size}; nothing was enqueued"
        yield "the first one:" if len(checked.examples) == 1 else "the first ones:"
        for example in checked.examples:
            text = json.dumps(example, ensure_ascii=False)
            cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
            yield f"  {cut}"

    def _taken(self) -> Iterator[str]:
        for name, column in self.checked.taken.items():
            yield name if name == column else f"{name} from {column}"
        for name in self.selection.constants:
            yield f"{name}, the same for all"

    def document(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        return {
            "file": self.file.name,
            "format": self.file.description,
            "inputs": self.checked.inputs,
            "batches": self.batches,
            "taken": self.checked.taken,
            "set": dict(self.selection.constants),
            "metadata": list(self.selection.kept),
            "left_out": self.checked.left_out,
            "notes": self.checked.notes,
            "first": self.checked.examples,
        }
