"""`moditalker prepare`: what is kept of videos and why the rest is not; kills, dying workers, bad files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from skimage import data

from moditalker import cli
from moditalker.config import load
from moditalker.data import dataset as preparing
from moditalker.data import worker as working
from moditalker.data.dataset import prepare
from moditalker.data.shards import add_sample, open_dataset, shard_writer
from moditalker.data.split import Split
from moditalker.data.videos import Job, Record, at_rate, find_videos, unique
from moditalker.data.worker import Sound, Worker, save_json
from moditalker.errors import UserError
from moditalker.geometry.align import align, transform
from moditalker.jobs.files import claimed
from moditalker.jobs.pool import Outcome, Start
from moditalker.media import AudioReader, Frame
from moditalker.weights.named import ASSETS

CONFIG = load("tiny")
SIZE = 256


def speech(seconds: float) -> np.ndarray:
    """The package's own spoken sentence, again and again."""
    return np.resize(AudioReader(ASSETS / "demo_speech.flac").read(), round(16_000 * seconds))


def shot(kind: str, frames: int) -> Iterable[np.ndarray]:
    """Frames (256, 256, 3) of the astronaut drifting, mirrored, far away, twice, or of none."""
    picture = data.astronaut()[0:320, 60:380]
    for i in range(frames):
        down = 50 - abs(i % 100 - 50)
        frame = picture[down : down + SIZE, 20 : 20 + SIZE]
        if kind == "mirrored":
            frame = frame[:, ::-1]
        if kind == "empty":
            frame = np.full_like(frame, 90)
        if kind in ("far", "two"):
            canvas = np.full_like(frame, 90)
            small = frame[::2, ::2] if kind == "two" else frame[::6, ::6]
            for x in (0, 128) if kind == "two" else (100,):
                canvas[64 : 64 + len(small), x : x + len(small)] = small
            frame = canvas
        yield np.ascontiguousarray(frame)


def film(
    path: Path,
    shots: list[tuple[str, int]],
    fps: int = 25,
    sound: np.ndarray | None = None,
    stamps: list[int] | None = None,
) -> Path:
    """Write shots with PyAV alone: lossless pictures, lossless sound; stamps: of frames, in ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        track = None
        if sound is not None:
            track = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        number = 0
        for kind, count in shots:
            for image in shot(kind, count):
                native = av.VideoFrame.from_ndarray(image, format="rgb24")
                native.pts = stamps[number] if stamps else round(1000 * number / fps)
                native.time_base = Fraction(1, 1000)
                container.mux(stream.encode(native))
                number += 1
        container.mux(stream.encode(None))
        if track is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(
                (sound[None] * 32767).astype(np.int16), format="s16", layout="mono"
            )
            block.sample_rate = 16_000
            container.mux(track.encode(block))
            container.mux(track.encode(None))
    return path


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(CONFIG, tmp_path_factory.mktemp("parts"))


def job(path: Path) -> Job:
    return Job(path, path.name, path.stem, "s1", "train")


def done(worker: Worker, path: Path) -> tuple[Record, list[Any]]:
    """A video through a worker: its record, and its samples."""
    record = worker(job(path))
    assert json.loads((worker.parts / f"{path.stem}.json").read_text()) == asdict(record)
    samples = open_dataset(worker.parts) if record.samples else []
    kept = [sample for sample in samples if sample.video == path.name]
    assert [sample.name for sample in kept] == record.samples
    return record, kept


# ----------------------------------------------------------------------------------------- a video's samples


def test_shots_become_samples_and_the_rest_is_named(tmp_path, worker):
    shots = [("face", 30), ("mirrored", 35), ("empty", 20), ("face", 10), ("empty", 10), ("mirrored", 26)]
    sound = speech(5.24)
    record, samples = done(worker, film(tmp_path / "cuts.mkv", shots, sound=sound))
    assert [(sample.about["start"], sample.about["frames"]) for sample in samples] == [
        (0.0, 30),
        (1.2, 35),
        (4.2, 26),
    ]
    assert [(d["from"], d["to"], d["why"]) for d in record.dropped] == [
        (2.6, 3.4, "no face"),
        (3.4, 3.8, "shorter than 1 s"),
        (3.8, 4.2, "no face"),
    ]
    assert (record.seconds, record.kept_seconds, record.error) == (5.24, 3.64, "")
    for sample in samples:
        start, frames = round(25 * sample.about["start"]), sample.about["frames"]
        expected = np.pad(sound[640 * start : 640 * (start + frames)], (0, 640))[: 640 * frames]
        np.testing.assert_allclose(sample["audio"], expected, atol=2e-4)
        crops, points = sample["crops"], sample["points"]
        assert (crops.shape, crops.dtype) == ((frames, 128, 128, 3), np.uint8)
        carried = transform(points, align(points, CONFIG.crop))[5:-5]  # smoothed over this stretch alone
        np.testing.assert_allclose(carried, sample["landmarks"][5:-5], atol=1.0)
        eyes = [sample["landmarks"][:, low : low + 6, :2].mean((0, 1)) for low in (36, 42)]
        assert np.linalg.norm(eyes[1] - eyes[0]) == pytest.approx(CONFIG.crop.eye_distance, rel=0.1)


@pytest.mark.parametrize(
    ("shots", "fps", "why"),
    [
        ([("empty", 30)], 25, "no face"),
        ([("far", 30)], 25, "the face is too small: its eyes must be 21 pixels apart or more"),
        ([("two", 30)], 25, "another face as large"),
        ([("face", 20)], 25, "shorter than 1 s"),
        ([("face", 30)], 15, "15 frames a second; at least 20 are needed"),
    ],
)
def test_what_is_of_no_use(tmp_path, worker, shots, fps, why):
    record, samples = done(worker, film(tmp_path / "bad.mkv", shots, fps))
    assert not samples
    assert record.kept_seconds == 0
    assert why in [record.error, *(stretch["why"] for stretch in record.dropped)]
    assert not (worker.parts / "bad.tar").exists()


def test_a_picture_that_hangs_ends_a_sample(tmp_path, worker):
    stamps = [40 * i for i in range(30)] + [40 * i + 1200 for i in range(30, 60)]
    record, samples = done(worker, film(tmp_path / "hangs.mkv", [("face", 60)], stamps=stamps))
    assert [sample.about["frames"] for sample in samples] == [35, 29]
    assert "the picture stands still" in {stretch["why"] for stretch in record.dropped}


def test_time_stamps_that_would_take_for_ever(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(working, "MAX_STANDING", 10)
    record, samples = done(worker, film(tmp_path / "ages.mkv", [("face", 2)], stamps=[0, 500_000]))
    assert not samples
    assert "stands still for an hour" in record.error


def test_long_shots_are_cut_and_silence_is_no_speech(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(working, "MAX_FRAMES", 30)
    path = film(tmp_path / "long.mkv", [("face", 62)], sound=np.zeros(40_000, np.float32))
    record, samples = done(worker, path)
    assert [sample.about["frames"] for sample in samples] == [30, 30]
    assert record.dropped == [{"from": 2.4, "to": 2.48, "why": "shorter than 1 s"}]
    assert not any("audio" in sample for sample in samples)


@pytest.mark.parametrize("rate", ["25", "24", "24000/1001", "30000/1001", "30", "50", "60", "20"])
def test_frames_at_25_hz_are_the_nearest(rate):
    times = [Fraction(round(1000 * i / Fraction(rate)), 1000) for i in range(90)]  # ms, as .mkv holds them
    ends = [*times[1:], times[-1] + 1 / Fraction(rate)]
    blank = np.zeros((1, 1, 3), np.uint8)
    frames = [
        Frame(i, time, end - time, blank) for i, (time, end) in enumerate(zip(times, ends, strict=True))
    ]
    chosen = [frame.index for frame in at_rate(frames)]
    assert abs(len(chosen) - 25 * float(ends[-1])) <= 0.51
    seen = np.array(times, float)
    for number, index in enumerate(chosen):
        assert abs(seen[index] - number / 25) <= np.abs(seen - number / 25).min() + 1e-9
    if rate == "25":
        assert chosen == list(range(90))


def test_sound_is_taken_in_stretches(tmp_path):
    film(tmp_path / "a.mkv", [("face", 100)], sound=speech(4.0))
    whole = np.pad(AudioReader(tmp_path / "a.mkv").read(), (0, 64_000))
    sound = Sound(tmp_path / "a.mkv")
    for first, count in ((0, 10), (10, 5), (30, 40), (70, 1), (95, 30), (130, 5)):
        np.testing.assert_array_equal(sound.take(first, count), whole[640 * first : 640 * (first + count)])
    assert len(sound.held) < 64_000


# -------------------------------------------------------------------------------------- many videos, workers


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_finding_videos(tmp_path):
    names = ("s1/a.mp4", "s1/a.MOV", "x_y/b.avi", "x/y_b.avi", "WDA_Jo_1_000.mp4", "n.txt", "s1/.c.mp4")
    jobs = {found.video: found for found in find_videos(touch(tmp_path, *names))}
    assert sorted(jobs) == ["WDA_Jo_1_000.mp4", "s1/a.MOV", "s1/a.mp4", "x/y_b.avi", "x_y/b.avi"]
    assert (jobs["s1/a.mp4"].speaker, jobs["WDA_Jo_1_000.mp4"].speaker) == ("s1", "WDA_Jo")
    assert len({found.key for found in jobs.values()}) == 5
    assert all(found.key.replace("-", "").replace("_", "").isalnum() for found in jobs.values())
    (tmp_path / "split.json").write_text('{"val": ["x_y/b.mp4"], "train": ["s1/a.mp4"]}')
    split = Split(tmp_path / "split.json")
    parts = {found.video: found.split for found in find_videos(tmp_path, split)}
    assert parts == {"s1/a.MOV": "train", "s1/a.mp4": "train", "x_y/b.avi": "val"}
    for folder in (tmp_path / "none", touch(tmp_path / "text", "a.txt")):
        with pytest.raises(UserError, match="no video"):
            find_videos(folder)


def test_videos_behind_links(tmp_path):
    touch(tmp_path, "elsewhere/b.mp4", "in/s2/a.mp4")
    (tmp_path / "in" / "s1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "s2")
    (tmp_path / "in" / "s2" / "round").symlink_to(tmp_path / "in")
    assert [found.video for found in find_videos(tmp_path / "in")] == ["s1/b.mp4", "s2/a.mp4"]


def test_names_that_are_no_text(tmp_path):
    strange = os.fsdecode(b"\xff.mp4")
    one, other = (Job(tmp_path / name, name, "-", "s1", "") for name in (strange, "a.mp4"))
    assert unique(one) != unique(other)


def beside(start: Start[Job, Record], items: list[Job], *_: Any) -> Iterator[Outcome[Job, Record]]:
    """In place of `work`: videos end in another order than they began, in this process."""
    function = start()
    for item in sorted(items, key=lambda item: hashlib.sha256(item.video.encode()).digest()):
        yield Outcome(item, function(item))


class Fake:
    """A worker without networks; a video's name says what happens to it."""

    def __init__(self, config: Any, parts: Path) -> None:
        self.parts = parts

    def __call__(self, found: Job) -> Record:
        if "dies" in found.video:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2 if "slow" in found.video else 0)
        record = Record.of(found)
        if "bad" in found.video:
            record.error = "it is bad"
        else:
            record.samples, record.seconds, record.kept_seconds = [f"{found.key}_000000"], 2.0, 2.0
            seed = int(hashlib.sha256(found.video.encode()).hexdigest()[:8], 16)
            noise = np.random.default_rng(seed).integers(0, 256, 100_000).astype(np.uint8)
            with shard_writer(self.parts / f"{found.key}.tar") as shard:
                about = {"speaker": found.speaker, "video": found.video, "split": found.split}
                add_sample(shard, record.samples[0], about, {"crops": noise})
        save_json(self.parts / f"{found.key}.json", asdict(record))
        return record


class Cured(Fake):
    """The same where nobody dies."""

    def __call__(self, found: Job) -> Record:
        return super().__call__(replace(found, video=found.video.replace("dies", "lives")))


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def by_video(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {record["video"]: record for record in report["videos"]}


def test_shards_are_the_same_in_whatever_order_videos_end(tmp_path, monkeypatch):
    videos = touch(tmp_path / "in", *(f"s{i % 3}/{i}.mp4" for i in range(9)), "s1/bad.mp4")
    (tmp_path / "split.json").write_text('{"val": ["2.mp4", "5.mp4"], "train": "rest"}')
    made = {}
    for name in ("one", "other"):
        if name == "other":
            monkeypatch.setattr(preparing, "work", lambda *given: reversed([*beside(*given)]))
        else:
            monkeypatch.setattr(preparing, "work", beside)
        split = Split(tmp_path / "split.json")
        made[name] = prepare(videos, tmp_path / name, CONFIG, split, shard_bytes=250_000, worker=Fake)
    assert shards(tmp_path / "one") == shards(tmp_path / "other")
    assert made["one"] == made["other"] == json.loads((tmp_path / "one" / "report.json").read_text())
    assert list(shards(tmp_path / "one")) == [*(f"train-00000{i}.tar" for i in range(3)), "val-000000.tar"]
    assert made["one"]["totals"] == {
        "videos": 10,
        "samples": 9,
        "seconds": 18.0,
        "kept_seconds": 18.0,
        "offsets_corrected": 0,
        "dropped_seconds": {},
        "unusable": 1,
        "failed": 0,
    }
    assert by_video(made["one"])["s1/bad.mp4"]["error"] == "it is bad"
    assert {path.suffix for path in (tmp_path / "one").iterdir()} == {".tar", ".json"}


def test_killed_at_any_time_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "work", beside)
    names = [f"s{i % 2}/{i:02d}slow.mp4" for i in range(12)]
    videos = touch(tmp_path / "in", *names)
    whole = prepare(videos, tmp_path / "whole", CONFIG, shard_bytes=250_000, worker=Fake)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_prepare import CONFIG, Fake, beside, prepare, preparing\n"
        "preparing.work = beside\n"
        f"videos, out = Path({str(videos)!r}), Path({str(tmp_path / 'out')!r})\n"
        "prepare(videos, out, CONFIG, shard_bytes=250_000, worker=Fake)"
    )
    seen = 0
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            while process.poll() is None and len(finished(tmp_path / "out")) < seen + 4:
                time.sleep(0.01)
            process.kill()
        before, seen = seen, len(finished(tmp_path / "out"))
        assert before < seen < len(names)
    calls: list[tuple[int, int]] = []
    report = prepare(
        videos,
        tmp_path / "out",
        CONFIG,
        shard_bytes=250_000,
        worker=Fake,
        progress=lambda *call: calls.append(call),
    )
    assert calls[0][0] >= seen  # what was finished is not done again
    assert calls[-1] == (12, 12)
    assert report == whole
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")
    assert len(open_dataset(tmp_path / "out")) == 12


def finished(out: Path) -> set[str]:
    """Videos that a killed run has finished: in a shard, or in a part of their own."""
    parts = {path.stem for path in (out / "parts").glob("*.json")}
    try:
        report = json.loads((out / "report.json").read_text())
    except OSError:
        return parts
    return parts | {sample.removesuffix("_000000") for r in report["videos"] for sample in r["samples"]}


def test_workers_that_die(tmp_path, monkeypatch):
    videos = touch(tmp_path / "in", "a/1.mp4", "a/2dies.mp4", "a/3.mp4", "a/4.mp4")
    report = prepare(videos, tmp_path / "out", CONFIG, workers=2, worker=Fake)
    monkeypatch.setattr(preparing, "work", beside)
    assert (report["totals"]["samples"], report["totals"]["failed"]) == (3, 1)
    lost = by_video(report)["a/2dies.mp4"]
    assert lost["failed"]
    assert "workers died" in lost["error"]
    touch(tmp_path / "in", "a/5.mp4")
    calls: list[tuple[int, int]] = []
    report = prepare(
        videos, tmp_path / "out", CONFIG, worker=Cured, progress=lambda *call: calls.append(call)
    )
    assert calls == [(3, 5), (4, 5), (5, 5)]  # the one that failed and the new one
    assert (report["totals"]["samples"], report["totals"]["failed"]) == (5, 0)
    assert len({sample.name for sample in open_dataset(tmp_path / "out")}) == 5


class Stillborn(Fake):
    """A worker that dies before it is ready."""

    def __init__(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_nothing_counts_as_finished_when_all_workers_die(tmp_path):
    videos = touch(tmp_path / "in", "a/1dies.mp4", "a/2dies.mp4")
    with pytest.raises(UserError, match="workers die while they start"):
        prepare(videos, tmp_path / "out", CONFIG, workers=2, worker=Stillborn)
    assert not finished(tmp_path / "out")
    report = prepare(videos, tmp_path / "out", CONFIG, workers=2, worker=Fake)
    assert report["totals"] | {"videos": 2, "samples": 0, "failed": 2} == report["totals"]
    assert not shards(tmp_path / "out")
    report = prepare(videos, tmp_path / "out", CONFIG, worker=Cured)
    assert report["totals"] | {"videos": 2, "samples": 2, "failed": 0} == report["totals"]


def test_a_changed_video_that_gave_nothing_is_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "work", beside)
    videos = touch(tmp_path / "in", "a/1.mp4", "a/bad.mp4")
    prepare(videos, tmp_path / "out", CONFIG, worker=Fake)
    again: list[tuple[int, int]] = []
    prepare(videos, tmp_path / "out", CONFIG, worker=Fake, progress=lambda *call: again.append(call))
    assert again == [(2, 2)]
    (tmp_path / "in" / "a" / "bad.mp4").write_bytes(b"another")
    prepare(videos, tmp_path / "out", CONFIG, worker=Fake, progress=lambda *call: again.append(call))
    assert again[1:] == [(1, 2), (2, 2)]


def test_folders_that_hold_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "work", beside)
    videos = touch(tmp_path / "in", "a/1.mp4")
    prepare(videos, tmp_path / "out", CONFIG, worker=Fake)
    with pytest.raises(UserError, match="other settings"):
        prepare(videos, tmp_path / "out", load("paper"), worker=Fake)
    with pytest.raises(UserError, match=r"no report\.json"):
        prepare(videos, touch(tmp_path / "tars", "x.tar"), CONFIG, worker=Fake)
    for content in ("", "[]", "{}", '{"settings": {}, "videos": [{"a": 1}]}'):
        (touch(tmp_path / "other") / "report.json").parent.mkdir(exist_ok=True)
        (tmp_path / "other" / "report.json").write_text(content)
        with pytest.raises(UserError, match="not a report"):
            prepare(videos, tmp_path / "other", CONFIG, worker=Fake)
        assert (tmp_path / "other" / "report.json").read_text() == content


def test_files_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "work", beside)
    videos = touch(tmp_path / "in", "a/1.mp4")
    touch(tmp_path / "other", "parts/my_thesis.txt")
    with pytest.raises(UserError, match="parts, but no report"):
        prepare(videos, tmp_path / "other", CONFIG, worker=Fake)
    assert [path.name for path in (tmp_path / "other" / "parts").iterdir()] == ["my_thesis.txt"]
    prepare(videos, tmp_path / "out", CONFIG, worker=Fake)
    touch(
        tmp_path / "out", "parts/mine/a.txt", "mine.part", ".train-000000.tar.77.part", ".report.json.77.part"
    )
    prepare(videos, tmp_path / "out", CONFIG, worker=Fake)
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert left == {"data-000000.tar", "report.json", "mine.part", "parts", "parts/mine", "parts/mine/a.txt"}


def test_a_folder_is_one_run_s(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "work", beside)
    videos = touch(tmp_path / "in", "a/1.mp4")
    with claimed(tmp_path / "out"), pytest.raises(UserError, match="another run is at work in it"):
        prepare(videos, tmp_path / "out", CONFIG, worker=Fake)
    with pytest.raises(UserError, match="cannot be a folder"):
        prepare(videos, videos / "a" / "1.mp4", CONFIG, worker=Fake)


def test_a_dataset_has_one_split(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "work", beside)
    videos, path = touch(tmp_path / "in", "a/1.mp4", "b/2.mp4"), tmp_path / "split.json"

    def split(text: str) -> Split:
        path.write_text(text)
        return Split(path)

    prepare(videos, tmp_path / "plain", CONFIG, worker=Fake)
    for text in ('{"val": ["a/"], "train": "rest"}', '{"val": ["a/"]}'):
        with pytest.raises(UserError, match="another split"):
            prepare(videos, tmp_path / "plain", CONFIG, split(text), worker=Fake)
    prepare(videos, tmp_path / "parted", CONFIG, split('{"val": ["a/"], "train": "rest"}'), worker=Fake)
    with pytest.raises(UserError, match="another split"):
        prepare(videos, tmp_path / "parted", CONFIG, worker=Fake)
    touch(tmp_path / "in", "c/3.mp4")  # a split may grow with its videos
    prepare(videos, tmp_path / "parted", CONFIG, split('{"val": ["a/", "c/"], "train": "rest"}'), worker=Fake)
    parts = {sample.video: sample.split for sample in open_dataset(tmp_path / "parted")}
    assert parts == {"a/1.mp4": "val", "b/2.mp4": "train", "c/3.mp4": "val"}


def test_what_a_run_without_a_split_has_begun_is_done_again_with_one(tmp_path, monkeypatch):
    def stopped(start: Start[Job, Record], items: list[Job], *_: Any) -> Iterator[Outcome[Job, Record]]:
        yield from beside(start, items)
        raise KeyboardInterrupt

    videos = touch(tmp_path / "in", "a/1.mp4", "b/2.mp4")
    (tmp_path / "split.json").write_text('{"val": ["a/"], "train": "rest"}')
    monkeypatch.setattr(preparing, "work", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(videos, tmp_path / "out", CONFIG, worker=Fake)
    monkeypatch.setattr(preparing, "work", beside)
    prepare(videos, tmp_path / "out", CONFIG, Split(tmp_path / "split.json"), worker=Fake)
    parts = {sample.video: sample.split for sample in open_dataset(tmp_path / "out")}
    assert parts == {"a/1.mp4": "val", "b/2.mp4": "train"}


def test_a_video_that_vanishes_is_a_failed_record(tmp_path, monkeypatch, worker):
    def vanishing(start: Start[Job, Record], items: list[Job], *_: Any) -> Iterator[Outcome[Job, Record]]:
        for item in items:
            item.path.unlink()
            yield Outcome(item, error="no worker came back")

    monkeypatch.setattr(preparing, "work", vanishing)
    report = prepare(touch(tmp_path / "in", "a/1.mp4"), tmp_path / "out", CONFIG, worker=Fake)
    assert report["totals"]["failed"] == 1
    record = worker(job(tmp_path / "gone.mp4"))
    assert record.failed
    assert record.error


def test_a_full_disk_is_named(tmp_path, worker, monkeypatch):
    @contextmanager
    def full(path: Path) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(working, "shard_writer", full)
    with pytest.raises(UserError, match="no space is left on its disk"):
        worker(job(film(tmp_path / "one.mkv", [("face", 2)])))


# ----------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return command


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    film(folder / "ann" / "one.mkv", [("face", 36)], 30, sound=speech(1.2))
    film(folder / "ann" / "two.mkv", [("mirrored", 30)], sound=speech(1.2))
    film(folder / "bob" / "mute.mkv", [("face", 30)])
    film(folder / "bob" / "empty.mkv", [("empty", 10)])
    (folder / "bob" / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


def test_from_videos_to_training(tmp_path, corpus, run):
    code, out, _ = run("prepare", corpus, tmp_path / "dataset", "--workers", 2)
    assert code == 0
    assert "3 samples from 5 videos" in out
    assert "2 videos unusable, 0 failed" in out
    records = by_video(json.loads((tmp_path / "dataset" / "report.json").read_text()))
    assert "cannot be read" in records["bob/broken.mp4"]["error"]
    assert "no second of it" in records["bob/empty.mkv"]["error"]
    samples = {sample.video: sample for sample in open_dataset(tmp_path / "dataset")}
    assert {video: ("audio" in sample) for video, sample in samples.items()} == {
        "ann/one.mkv": True,
        "ann/two.mkv": True,
        "bob/mute.mkv": False,
    }
    assert len(samples["ann/one.mkv"]["crops"]) == 30
    split = tmp_path / "split.json"
    split.write_text('{"train": ["one.mkv", "mute.mkv"], "val": ["two.mkv"]}')
    small = ["dim=16", "heads=2", "head_dim=8", "encoder_layers=1", "decoder_layers=1"]
    settings = [f"--set=autoencoder.{part}" for part in small]
    settings += ["--set=autoencoder_training.steps=2", "--set=autoencoder_training.batch=1"]
    given = ["--data", tmp_path / "dataset", "--split", split, *settings]
    assert run("train", "autoencoder", *given, "--out", tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "autoencoder.safetensors").is_file()
    code, _, err = run("train", "autoencoder", *given, "--out", tmp_path / "n", "--preset", "released")
    assert code == 2
    assert "prepared with crop" in err


def test_mistakes_are_one_sentence(tmp_path, run):
    assert run("prepare", tmp_path / "none", tmp_path / "out")[0] == 2
    code, _, err = run("prepare", tmp_path, tmp_path / "out", "--split", tmp_path / "no.json")
    assert code == 2
    assert "not a split" in err
    assert err.count("moditalker: ") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Ray's own
def test_the_same_on_a_cluster(tmp_path, corpus, run, monkeypatch):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    assert run("prepare", corpus, tmp_path / "there", "--workers", 2, "--cluster", "local")[0] == 0
    monkeypatch.setattr(preparing, "work", beside)
    prepare(corpus, tmp_path / "here", CONFIG)
    assert shards(tmp_path / "here") == shards(tmp_path / "there")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("here", "there")]
    assert reports[0] == reports[1]
