"""What the service's workers do with real files and networks, and live sessions by WebSocket."""

from __future__ import annotations

import io
import json
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from standins import ASTRONAUT

pytest.importorskip("fastapi", reason="no FastAPI: pip install 'moditalker[serve]'")
import uvicorn
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from moditalker.errors import UserError
from moditalker.jobs import pool
from moditalker.media import SAMPLE_RATE, AudioReader, probe
from moditalker.serve import tasks
from moditalker.serve.api import application
from moditalker.serve.limits import Limits
from moditalker.serve.orders import Inspection, Upload, VideoJob
from moditalker.serve.server import listening
from moditalker.serve.service import Service
from moditalker.talker.options import Options
from moditalker.weights.named import ASSETS, MODELS

ID = "0123456789abcdefghijkl"


@pytest.fixture(scope="module", autouse=True)
def at_home() -> Iterator[None]:
    """Workers are functions here: this process keeps its connections and its priority."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "start_worker", lambda: None)
        yield


@pytest.fixture(scope="module")
def look() -> Any:
    return tasks.face_worker()


@pytest.fixture(scope="module")
def make(shipped) -> Any:
    return tasks.video_worker([str(shipped)], "cpu")


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory) -> Path:
    with Image.open(ASTRONAUT) as picture:
        one = np.asarray(picture)[:256, 100:356]
    path = tmp_path_factory.mktemp("faces") / f"{ID}"
    Image.fromarray(np.hstack([one, one[:, ::-1]])).save(path, "png")
    return path


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_faces_are_found_and_shown(look, two_faces, tmp_path):
    seen = look(Inspection(Upload(two_faces, "we.png"), tmp_path / "out.jpg"))
    assert (len(seen.faces), seen.still, seen.width, seen.height) == (2, True, 512, 256)
    assert seen.faces[0][0] < 256 < seen.faces[1][0]
    assert size(tmp_path / "out.jpg") == (512, 256)
    json.dumps(vars(seen))


def test_mistakes_name_the_visitors_file_and_no_folder(look, make, shipped, tmp_path, two_faces):
    text = tmp_path / ID
    text.write_text("no video")
    with pytest.raises(UserError, match=r"^mine\.mp4: cannot be read") as told:
        look(Inspection(Upload(text, "mine.mp4"), tmp_path / "out.jpg"))
    assert str(tmp_path) not in str(told.value)
    long = write_wav(tmp_path / "x", np.zeros(3 * SAMPLE_RATE))
    with pytest.raises(UserError, match=r"^long\.wav: 3\.0 s of sound; at most 2 s"):
        look(Inspection(Upload(long, "long.wav"), most=2))
    order = VideoJob(
        Upload(two_faces, "a.png"),
        tmp_path / "try",
        Upload(text.rename(tmp_path / "other"), "b.wav"),
        model=str(shipped),
    )
    with pytest.raises(UserError, match=r"^b\.wav: "):
        make(order)


def test_a_picture_speaks(make, shipped, two_faces, speech_wav, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(pool, "_told", lambda *step: told.append(step))
    audio = tmp_path / "abc"
    audio.write_bytes(speech_wav.read_bytes())
    options = Options(choose=(400.0, 120.0))
    order = VideoJob(
        Upload(two_faces, "we.png"), tmp_path / "try", Upload(audio, "v.wav"), "", "", str(shipped), options
    )
    make(order)
    assert probe(tmp_path / "try" / "talking.mp4").frames == 26
    assert size(tmp_path / "try" / "newest.jpg") == (512, 256)
    report = json.loads((tmp_path / "try" / "report.json").read_text())
    assert report["frames"] == 26
    assert len(report["lip_opening"]) >= 26
    assert report["preset"] == "small"
    assert str(tmp_path) not in json.dumps(report)
    assert told[0][0] == "face"
    assert told[-1] == ("video", 26, 26)


def test_a_video_is_shown_beside_its_source(make, shipped, face_video, speech_wav, tmp_path):
    given = Upload(face_video, "me.mkv"), Upload(speech_wav, "v.wav")
    make(VideoJob(given[0], tmp_path / "try", given[1], model=str(shipped), compare=True))
    made, source = (probe(tmp_path / "try" / name) for name in ("talking.mp4", "source.mp4"))
    assert made.frames == source.frames
    make(VideoJob(given[0], tmp_path / "plain", given[1], model=str(shipped)))
    assert not (tmp_path / "plain" / "source.mp4").exists()


def test_another_model_and_another_head(make, shipped, two_faces, speech_wav, tmp_path):
    other = shutil.copytree(shipped, tmp_path / "other")
    (poses := tmp_path / "poses.csv").write_text("yaw,pitch,roll\n" + "0,0,0\n" * 10 + "8,0,0\n" * 30)
    given = Upload(two_faces, "we.png"), tmp_path / "try", Upload(speech_wav, "v.wav")
    make(VideoJob(*given, model=str(other), head=Upload(poses, "nod.csv")))
    assert json.loads((tmp_path / "try" / "report.json").read_text())["preset"] == "other"
    poses.write_text("yaw,pitch\n1,2\n")
    with pytest.raises(UserError, match=r"^nod\.csv: ") as told:
        make(VideoJob(*given, model=str(shipped), head=Upload(poses, "nod.csv")))
    assert str(tmp_path) not in str(told.value)


# --------------------------------------------------------------------------------------------- live


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Service]]:
    if not (MODELS / "live" / "atom.safetensors").is_file():
        pytest.skip("the preset live is not here")
    limits = Limits(rate=1e6, live_seconds=20)
    service = Service(tmp_path_factory.mktemp("service"), limits=limits)
    with listening("127.0.0.1", None) as opened:
        app = application(service, "127.0.0.1")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        service.looker.ready()
        while not server.started:
            time.sleep(0.01)
        yield f"127.0.0.1:{opened.getsockname()[1]}", service
        server.should_exit = True
        thread.join(60)
        service.close()


@pytest.fixture(scope="module")
def face(server) -> str:
    number: str = server[1].add_file("", "face", "a.png", 1, io.BytesIO(ASTRONAUT.read_bytes()))
    return number


def listen(socket: Any) -> tuple[list[tuple[float, bytes]], list[dict[str, Any]]]:
    """Frames and words until the end."""
    frames, words = list[tuple[float, bytes]](), list[dict[str, Any]]()
    with suppress(ConnectionClosedError):  # after what is wrong was told
        for message in socket:
            if isinstance(message, bytes):
                frames.append((*struct.unpack("<d", message[:8]), message[8:]))
            else:
                words.append(json.loads(message))
    return frames, words


def test_a_face_speaks_while_it_is_spoken_to(server, face):
    sound = (AudioReader(ASSETS / "demo_speech.flac").read(2.5) * 32767).astype("<i2").tobytes()
    with connect(f"ws://{server[0]}/live?face={face}&deadline=3&seed=1", open_timeout=60) as socket:
        ready = json.loads(socket.recv(timeout=120))
        assert ready["type"] == "ready"
        assert (ready["width"], ready["height"], ready["fps"]) == (512, 512, 25)

        def speak() -> None:
            begun, step = time.monotonic(), SAMPLE_RATE // 10 * 2
            for number in range(0, len(sound), step):
                time.sleep(max(0, begun + number / 2 / SAMPLE_RATE - time.monotonic()))
                socket.send(sound[number : number + step])
            socket.send('{"type": "end"}')

        speaker = threading.Thread(target=speak)
        speaker.start()
        frames, words = listen(socket)
        speaker.join()
    assert words[-1]["type"] == "end"
    assert words[-1]["frames"] == len(frames) > 20
    assert words[-1]["frames"] + words[-1]["dropped"] == 63
    times = [when for when, _ in frames]
    assert times == sorted(times)
    pictures = [np.asarray(Image.open(io.BytesIO(picture))).astype(int) for _, picture in frames]
    assert pictures[0].shape == (512, 512, 3)
    assert np.abs(pictures[0] - pictures[len(pictures) // 2]).max() > 30  # it moves


def test_the_live_place_is_free_again_when_a_visitor_leaves(server, face):
    address = f"ws://{server[0]}/live?face={face}"
    with connect(address, open_timeout=60) as socket:
        assert json.loads(socket.recv(timeout=120))["type"] == "ready"
        with connect(address) as other:
            _, words = listen(other)
            assert words == [
                {"type": "error", "error": "all live sessions are taken (1); try again in some minutes"}
            ]
        socket.send(bytes(3200))
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with connect(address) as socket:
            if json.loads(socket.recv(timeout=120))["type"] == "ready":
                break
        time.sleep(0.2)
    else:
        raise AssertionError("the place is still taken")
    assert server[1].sessions.pool.deaths == 0  # it is the same worker


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "face: is missing"),
        ("face=AAAAAAAAAAAAAAAAAAAAAA", "there is no such file any more"),
        ("face={face}&rate=1", "rate '1': input should be greater than or equal to 8000"),
        ("face={face}&deadline=0.1", "deadline '0.1': input should be greater"),
        ("face={face}&choose=best", "choose best: largest, speaker"),
        ("face={face}&colour=red", "colour: is no field"),
    ],
)
def test_live_sessions_that_cannot_be_had(query, says, server, face):
    with connect(f"ws://{server[0]}/live?{query.format(face=face)}") as socket:
        _, words = listen(socket)
    assert [word["type"] for word in words] == ["error"]
    assert says in words[0]["error"]


def test_live_sessions_of_other_sites_are_refused(server, face):
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{server[0]}/live?face={face}", additional_headers={"origin": "https://evil.example"})
