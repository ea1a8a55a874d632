"""The invisible mark: it changes little, is found after what videos go through, and nowhere else."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from standins import ASTRONAUT, SHARED, grid_clip, needs_grid

from moditalker import cli
from moditalker.features.face.tracker import FaceTracker
from moditalker.media import Frame, VideoReader, VideoWriter, plain_info
from moditalker.provenance import mark
from moditalker.provenance.mark import Detector, embed
from moditalker.provenance.verify import verify

FPS, COUNT, SIZE = 25, 100, 288


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Four seconds of a portrait that drifts, its mouth darkening: image, mask, landmarks of each frame."""
    picture = np.asarray(Image.open(ASTRONAUT).convert("RGB"))[0:340, 50:390]
    (face,) = FaceTracker().detect(picture)
    points = face.landmarks
    middle, eyes = points[48:68, :2].mean(0), np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    away = np.hypot((x - middle[0]) / 0.75, y - middle[1]) / eyes
    mask, lips = np.clip(6 - 8 * away, 0, 1), np.exp(-20 * away**2)
    noise = np.random.default_rng(0)
    frames = []
    for i in range(COUNT):
        speaking = 1 - 0.3 * lips * (0.5 + 0.5 * np.sin(0.9 * i))
        image = picture * speaking[..., None] + noise.normal(0, 2, picture.shape)
        left, top = round(20 + 12 * np.sin(i / 15)), round(25 + 9 * np.cos(i / 11))
        window = slice(top, top + SIZE), slice(left, left + SIZE)
        moved = points - np.array([left, top, 0], np.float32)
        frames.append((image.clip(0, 255).astype(np.uint8)[window], mask[window].astype(np.float32), moved))
    return frames


@pytest.fixture(scope="module")
def marked(clip) -> list[np.ndarray]:
    return [embed(image, mask, points, i / FPS) for i, (image, mask, points) in enumerate(clip)]


@pytest.fixture(scope="module")
def file(marked, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("marked") / "marked.mp4"
    with VideoWriter(path, plain_info(SIZE, SIZE)) as writer:
        for i, image in enumerate(marked):
            writer.write(Frame(i, Fraction(i, FPS), Fraction(1, FPS), image))
    return path


def detect(images, clip, start: int = 0) -> mark.Mark:
    """What the detector says where the landmarks are known; the video begins with frame `start`."""
    detector = Detector()
    for i, image in enumerate(images[start:]):
        detector.add(image, clip[start + i][2], i / FPS)
    return detector.result()


def recoded(source: Path, target: Path, crf: int, scale: float = 1.0) -> Path:
    """Through H.264 again by FFmpeg's own scaler and default preset."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = write.add_stream("libx264", rate=FPS, options={"crf": str(crf)})
        native = read.streams.video[0]
        stream.width, stream.height = (int(n * scale) // 2 * 2 for n in (native.width, native.height))
        stream.pix_fmt = "yuv420p"
        for i, frame in enumerate(read.decode(video=0)):
            smaller = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC")
            smaller.pts, smaller.time_base = i, Fraction(1, FPS)
            write.mux(stream.encode(smaller))
        write.mux(stream.encode(None))
    return target


def test_it_changes_little_and_nothing_outside_the_mask(clip, marked):
    errors = []
    for (image, mask, _), result in zip(clip, marked, strict=True):
        assert np.array_equal(result[mask == 0], image[mask == 0])
        change = result.astype(float) - image
        assert np.abs(change).max() <= 8
        errors.append((change[mask > 0.5] ** 2).mean())
    assert 1 < np.mean(errors) < 1.8  # grey levels squared: PSNR 46 to 48 dB
    assert np.array_equal(embed(*clip[7], 7 / FPS), marked[7])


def test_it_grows_with_the_strength_and_is_absent_without(clip):
    image, mask, points = clip[0]
    assert np.array_equal(embed(image, mask, points, 0.0, 0.0), image)
    assert embed(image, 0 * mask, points, 0.0) is image
    assert embed(image, mask, np.full_like(points, np.nan), 0.0) is image


def test_it_changes_slowly(clip):
    image, mask, points = clip[0]
    first, second = (embed(image, mask, points, i / FPS).astype(float) for i in (1, 2))
    inside = mask > 0.5
    assert np.abs(first - second)[inside].mean() < 0.8  # grey levels


def test_it_is_found_where_it_is_and_not_where_it_is_not(clip, marked):
    found = detect(marked, clip)
    assert found.found
    assert found.chance < 1e-20
    assert found.seconds == pytest.approx(COUNT / FPS, abs=0.1)
    bare = detect([image for image, _, _ in clip], clip)
    assert not bare.found
    assert bare.chance > 1e-3


@pytest.mark.parametrize("start", [1, 13, 33])
def test_it_is_found_where_the_beginning_is_cut_off(clip, marked, start):
    assert detect(marked, clip, start).found


def test_another_key_finds_nothing(clip, marked, monkeypatch):
    monkeypatch.setattr(mark, "KEY", b"another")
    mark._Waves.get.cache_clear()
    try:
        assert not detect(marked, clip).found
    finally:
        mark._Waves.get.cache_clear()


def test_a_longer_video_is_surer(clip, marked):
    assert detect(marked, clip).z > detect(marked[:50], clip).z + 2


@pytest.mark.parametrize(("crf", "scale"), [(28, 1.0), (18, 0.75)])
def test_it_survives_coding_and_scaling(file, tmp_path, crf, scale):
    found = verify(recoded(file, tmp_path / "again.mp4", crf, scale))
    assert found.mark is not None
    assert found.mark.found
    assert found.manifest.state == "absent"
    assert found.synthetic


def test_it_survives_a_copy_into_another_container_and_verify_says_so(file, tmp_path, capsys):
    with av.open(str(file)) as source, av.open(str(tmp_path / "copy.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(SystemExit) as left:
        cli.main(["verify", str(tmp_path / "copy.mkv"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert left.value.code in (None, 0)
    assert (told["synthetic"], told["manifest"]["state"], told["mark"]["found"]) == (True, "absent", True)
    assert told["mark"]["chance"] < 1e-12


def test_no_face_no_mark(tmp_path):
    with VideoWriter(tmp_path / "grey.mp4", plain_info(64, 64)) as writer:
        for i in range(10):
            grey = np.full((64, 64, 3), 90, np.uint8)
            writer.write(Frame(i, Fraction(i, FPS), Fraction(1, FPS), grey))
    found = verify(tmp_path / "grey.mp4")
    assert found.mark == mark.Mark(False, 1.0, 0.0, 0.0)
    assert str(found).splitlines()[-1] == "mark: not found, there is no face"


def test_the_chance_is_a_bound_for_coin_tosses():
    """All 2^12 tosses, for equal, falling and random weights."""
    tosses = np.array(list(itertools.product((-1, 1), repeat=12)))
    for weights in (np.ones(12), 0.7 ** np.arange(12), np.random.default_rng(0).exponential(size=12)):
        sums = tosses @ weights / np.sqrt((weights**2).sum())
        for z in np.linspace(0, 3.4, 35):
            assert (sums > z).mean() <= mark._tail(z)


def test_scores_of_anything_unmarked_are_normal():
    """Whatever moves in a video, to the key it is coin tosses: mean 0, deviation 1."""
    noise, scores = np.random.default_rng(0), []
    for _ in range(12):
        steps = mark._Steps(0.0)
        sway = np.cumsum(noise.normal(size=(90, 3)), 0) @ noise.normal(size=(3, steps.folded.shape[1]))
        for i, heights in enumerate(sway + 0.1 * noise.normal(size=sway.shape)):
            steps.add(heights.astype(np.float32), i / FPS)
        scores.append(steps.scores())
    values = np.concatenate(scores)
    assert abs(values.mean()) < 0.1
    assert values.std() == pytest.approx(1, abs=0.1)


@needs_grid
@pytest.mark.parametrize("name", ["s1/bbaf2n", "s32/bbac1n"])
def test_real_recordings_have_none(name):
    found = verify(grid_clip(name))
    assert found.mark is not None
    assert found.mark.chance > 1e-4
    assert not found.synthetic


@needs_grid
@pytest.mark.slow
def test_of_200_real_recordings_none_has_one():
    clips = sorted((SHARED / "data" / "grid").glob("s*/*.mpg"))[::2][:200]
    assert len(clips) == 200
    found = [verify(clip).mark for clip in clips]
    assert not any(item is None or item.found for item in found)


@needs_grid
def test_a_real_face_keeps_it(tmp_path):
    """A recorded face, with the mark around its mouth, at CRF 28 and 75 %."""
    tracker, reader = FaceTracker(), VideoReader(grid_clip("s32/bbac1n"))
    frames = list(reader)
    faces = list(tracker.track((frame.image for frame in frames), FPS))
    path = tmp_path / "marked.mp4"
    with VideoWriter(path, reader.info) as writer:
        for frame, face in zip(frames, faces, strict=True):
            assert face is not None
            points = face.landmarks
            y, x = np.mgrid[: frame.image.shape[0], : frame.image.shape[1]]
            middle, eyes = points[48:68, :2].mean(0), np.linalg.norm(points[36] - points[45]) * 0.65
            mask = np.clip(6 - 8 * np.hypot(x - middle[0], y - middle[1]) / eyes, 0, 1).astype(np.float32)
            writer.write(frame, embed(frame.image, mask, points, float(frame.time)))
    assert verify(recoded(path, tmp_path / "again.mp4", 28, 0.75)).synthetic
