"""Contact sheets: which pixels they show."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from conftest import write_video
from PIL import Image
from skimage import data

from moditalker.evaluate.observe import Observed, observe
from moditalker.evaluate.pairs import Pair, write_pairs
from moditalker.features.face.tracker import FaceTracker

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "sheets.py"), run_name="sheets")
PORTRAIT = data.astronaut()[0:240, 100:340]


def test_sheets_show_the_videos_own_pixels() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 200, 200, 3)).astype(np.uint8)
    landmarks = np.zeros((12, 68, 3))
    landmarks[:, 36:42, 0], landmarks[:, 42:48, 0] = 80, 120
    landmarks[:, 48:, :2] = 100, 130
    clip = Observed(frames, 25.0, landmarks, np.zeros(0, np.float32))
    still = Observed(frames[:1], 25.0, landmarks[:1], np.zeros(0, np.float32), picture=True)
    shown = SCRIPT["Shown"]
    sheet = np.asarray(SCRIPT["mouth_sheet"]("x", [shown("real", still), shown("made", clip)]))
    expected = frames[0, 130 - 48 : 130 + 48, 100 - 48 : 100 + 48]  # 2.4 eye distances
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (96, 96, 3))[:, :, 0]
    places = np.argwhere((windows[:, :, 0, 0] == expected[0, 0]).all(-1))
    assert sum(np.array_equal(windows[y, x], expected) for y, x in places) >= 6  # the picture in each column


def test_a_sheet_for_each_face_with_all_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(PORTRAIT).save(tmp_path / "face.png")
    video = tmp_path / "made.mkv"
    write_video(video, np.stack([np.roll(PORTRAIT, i // 4, axis=1) for i in range(10)]))
    rows = []
    for name in ("one", "two"):
        pairs = [Pair("a", video, face=tmp_path / "face.png"), Pair("b", tmp_path / "none.mp4", video)]
        write_pairs(tmp_path / f"{name}.jsonl", pairs)
        rows += ["--row", f"{name}={tmp_path / name}.jsonl"]
    main = SCRIPT["main"]
    main([*rows, "--out", str(tmp_path / "sheets")])
    with Image.open(tmp_path / "sheets" / "a.jpg") as sheet:
        unit = observe(video, FaceTracker(), recode=False).landmarks[0, [36, 45], 0] @ [-1, 1]
        assert sheet.height > 3 * 3 * unit  # three rows, enlarged three times
    assert "b: " in capsys.readouterr().out  # its video is missing, the other sheet is made
    assert not (tmp_path / "sheets" / "b.jpg").exists()
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
