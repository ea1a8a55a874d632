"""The notebook in examples/ runs from top to bottom, in a kernel of its own, as a reader runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "talking.ipynb"
nbformat = pytest.importorskip("nbformat", reason="the extra dev is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra dev is not installed")


def test_the_notebook_is_kept_without_what_it_printed():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type != "stream" or output.name == "stdout"
    ]
    text = "".join(output.text for output in printed if output.output_type == "stream")
    assert "115 frames" in text
    assert "(115, 68, 3)" in text
    assert sum(output.output_type != "stream" for output in printed) == 3  # a picture and two videos
    assert {path.name for path in tmp_path.rglob("*.mp4")} == {"talking.mp4", "louder.mp4"}
