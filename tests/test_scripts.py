"""The scripts in benchmarks/ start, and leave when they are told to."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
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


def test_the_page_of_results_gets_a_benchmarks_figures_and_keeps_the_rest(tmp_path: Path) -> None:
    script, page = BENCHMARKS.parent / "tools" / "write_results.py", tmp_path / "results.md"
    figures = {
        "real": {"seam": {"median": 1.0}, "psnr": {"median": "inf"}},
        "self": {"seam": {"median": 0.9961}},
    }
    about = {"model": "tiny", "clips": ["a", "b"], "seconds": 3.0, "away": 1.0}
    (tmp_path / "benchmark.json").write_text(json.dumps({"about": about, "sets": figures}))
    shipped = BENCHMARKS.parent / "docs" / "results.md"
    page.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path / "benchmark.json"), str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    once = page.read_text(encoding="utf-8")
    assert "| `psnr` | inf |  |\n| `seam` | 1 | 0.996 |\n" in once
    assert "Medians over 2 clips of 3 s, model `tiny`" in once
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert page.read_text(encoding="utf-8") == once
    before, after = shipped.read_text(encoding="utf-8").split("<!-- written", 1)
    assert once.startswith(before)
    assert once.endswith(after.split("<!-- end -->", 1)[1])
    page.write_text("no marks", encoding="utf-8")
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0
