"""The plot of the benchmarks, and the error if it cannot be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cost_plot
from benchmarks.measurement import Curve, Figure


def test_each_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs the extra `bench`")
    curve = Curve("an input", {10: 1.0, 100: 1.1})
    cost_plot.draw([Figure("one", "another", 1, 2, curve=curve)], tmp_path / "images" / "cost.png")
    assert (tmp_path / "images" / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_matplotlib_is_reported_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost_plot, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[bench\]'"):
        cost_plot.check()
