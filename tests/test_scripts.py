"""The scripts in benchmarks/ start, and leave when they are told to."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # as where a script is run
    assert callable(runpy.run_path(str(path))["main"])


def test_what_is_half_made_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = runpy.run_path(str(BENCHMARKS / "ablations.py"))["train"]
    monkeypatch.setitem(train.__globals__, "fit", lambda *_: {"error": 1.0})
    train(None, None, tmp_path)
    monkeypatch.setitem(train.__globals__, "fit", lambda *_: None)
    with pytest.raises(SystemExit, match="stopped"):
        train(None, None, tmp_path)
