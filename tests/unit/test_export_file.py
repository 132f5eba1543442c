"""A file of results that cannot be written leaves one line, and nothing under its name."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.errors import EvalWorkerError
from worker.export import Format, write_file


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let every write beyond this size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", [Format.CSV, Format.PARQUET])
def test_a_missing_folder_is_named(tmp_path: Path, form: Format) -> None:
    path = tmp_path / "none" / "results"
    with pytest.raises(EvalWorkerError) as caught:
        write_file([], path, form)
    assert str(caught.value) == (
        f"cannot write {path}: there is no folder {path.parent}; mkdir -p makes it"
    )
    assert not path.parent.exists()


@pytest.mark.parametrize("form", [Format.CSV, Format.PARQUET])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, form: Format) -> None:
    path = tmp_path / "results"
    path.write_text("earlier")
    with files_limited_to(10), pytest.raises(EvalWorkerError) as caught:
        write_file([], path, form)
    assert str(caught.value) == f"cannot write {path}: File too large"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("results", "earlier")
    ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/full", "No space left on device"),
        ("/proc/results", "No such file or directory"),
        ("/dev/null/results", "Not a directory"),
    ],
)
def test_a_place_that_takes_no_file_is_named_with_the_systems_reason(
    path: str, reason: str
) -> None:
    with pytest.raises(EvalWorkerError) as caught:
        write_file([], Path(path), Format.CSV)
    assert str(caught.value) == f"cannot write {path}: {reason}"
