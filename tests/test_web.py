"""What is behind the page: worker processes, visitors and their files, words and drawings, no way out."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from standin_task import preparing
from standins import ASTRONAUT

from moditalker.errors import UserError
from moditalker.media import AudioReader, probe, tts
from moditalker.serve import views
from moditalker.serve.guard import Doorkeeper, own_address
from moditalker.serve.studio import Job, Limits, Studio
from moditalker.serve.tasks import Made, Order, Seen
from moditalker.serve.worker import Stopped, Worker
from moditalker.talker.options import Options


def never() -> bool:
    return False


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(preparing, "done")
    worker.prepared()
    yield worker
    worker.close()


def test_a_worker_answers_reports_and_lives_on(worker):
    told = []
    assert worker(lambda *what: told.append(what), never, 60, order="anything") == "done"
    assert told == [("began", 1, 2)]
    first = worker(silent, never, 60, order="pid")
    with pytest.raises(UserError, match="a mistake"):
        worker(silent, never, 60, order="mistake")
    with pytest.raises(UserError, match="not your fault"):
        worker(silent, never, 60, order="bug")
    assert worker(silent, never, 60, order="pid") == first != os.getpid()


@pytest.mark.parametrize(
    ("order", "seconds", "stop", "error", "says"),
    [
        ("crash", 60, never, UserError, "export it again"),
        ("sleep", 0.2, never, UserError, "took more than 0.2 s"),
        ("sleep", 60, lambda: True, Stopped, None),
    ],
)
def test_after_an_end_the_next_task_finds_a_fresh_process(order, seconds, stop, error, says, worker):
    before = worker(silent, never, 60, order="pid")
    with pytest.raises(error, match=says):
        worker(silent, stop, seconds, order=order)
    assert worker(silent, never, 60, order="pid") != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_what_cannot_be_prepared_is_told():
    worker = Worker(preparing, "fail")
    with pytest.raises(UserError, match="no such weights"):
        worker.prepared()
    worker.close()


def test_no_way_out_of_the_machine():
    code = """
import socket, threading
from moditalker.serve.guard import stay_local
stay_local()
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
socket.create_connection(("localhost", server.getsockname()[1])).close()
for act in (
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        act()
    except PermissionError as error:
        assert "nothing is fetched" in str(error)
    else:
        raise SystemExit("there is a way out")
print("none")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "none\n", done.stderr


def test_only_addresses_of_this_machine_are_listened_on():
    assert own_address("127.0.0.1") == own_address("localhost") == "127.0.0.1"
    assert own_address("0.0.0.0") == "0.0.0.0"
    for host in ("", "no-such-host.invalid", "198.51.100.7", "x" * 70 + ".a"):
        with pytest.raises(UserError, match=f"--host {host}: is no address of this machine"):
            own_address(host)


def test_an_own_address_may_be_spoken_to():
    code = """
import socket
from moditalker.serve.guard import stay_local
stay_local("198.51.100.7")
sender = socket.socket(type=socket.SOCK_DGRAM)
for address in ("198.51.100.7", "198.51.100.8"):
    try:
        sender.sendto(b"", (address, 9))
    except PermissionError as error:
        assert "nothing is fetched" in str(error)
        print(address)
    except OSError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "198.51.100.8\n", done.stderr


@pytest.mark.parametrize(
    ("name", "method", "host", "origin", "status"),
    [
        ("127.0.0.1", "GET", "127.0.0.1:7860", None, 200),
        ("127.0.0.1", "GET", "localhost:7860", None, 200),
        ("127.0.0.1", "GET", "[::1]:7860", None, 200),
        ("box", "GET", "Box:7860", None, 200),
        ("talk.example", "POST", "talk.example", "https://talk.example", 200),
        ("127.0.0.1", "GET", "evil.example:7860", None, 403),
        ("127.0.0.1", "GET", "127.0.0.1.evil.example", None, 403),
        ("127.0.0.1", "GET", "[::1", None, 403),
        ("127.0.0.1", "POST", "127.0.0.1:7860", None, 200),
        ("127.0.0.1", "POST", "127.0.0.1:7860", "http://127.0.0.1:7860", 200),
        ("127.0.0.1", "POST", "127.0.0.1:7860", "https://evil.example", 403),
        ("127.0.0.1", "POST", "127.0.0.1:7860", "null", 403),
        (None, "GET", "talk.example", "https://evil.example", 200),
        (None, "POST", "talk.example", "https://talk.example", 200),
        (None, "POST", "talk.example", None, 200),
        (None, "POST", "talk.example", "https://evil.example", 403),
    ],
)
def test_other_sites_are_refused(name, method, host, origin, status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        told.append(message)

    told = []
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "http", "method": method, "path": "/upload", "headers": headers}
    asyncio.run(Doorkeeper(app, name)(scope, None, send))
    assert told[0]["status"] == status
    assert dict(told[0]["headers"])[b"x-content-type-options"] == b"nosniff"


# ------------------------------------------------------------------------------------------ the studio


@pytest.fixture(scope="module")
def studio(shipped) -> Iterator[Studio]:
    studio = Studio(shipped, limits=Limits(seconds=2, characters=20, waiting=3))
    studio.ready()
    yield studio
    studio.close()
    assert not studio.root.exists()


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory) -> Path:
    one = np.asarray(Image.open(ASTRONAUT))[:256, 100:356]
    path = tmp_path_factory.mktemp("faces") / "two.png"
    Image.fromarray(np.hstack([one, one[:, ::-1]])).save(path)
    return path


def given(studio: Studio, path: Path) -> Path:
    """A file as if it had been uploaded."""
    (folder := studio.root / "upload").mkdir(exist_ok=True)
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def test_a_visit(studio, two_faces, speech_wav):
    face, audio = given(studio, two_faces), given(studio, speech_wav)
    seen = studio.look("a", face)
    assert len(seen.faces) == 2
    assert seen.still
    visitor = studio.visitor("a")
    assert visitor.choice() == "largest"
    visitor.chosen = 1
    assert 256 < visitor.choice()[0] < 512
    assert studio.listen("a", audio) == pytest.approx(1.02)
    job = studio.make("a", Order(visitor.speaking(), audio, options=Options(choose=visitor.choice())))
    made = job.future.result(120)
    assert probe(made.video).frames == 26
    assert made.source is None
    assert len(made.opening) >= 26
    assert job.stage == "video"
    assert job.done == 26
    assert oct(studio.root.stat().st_mode & 0o777) == "0o700"

    studio.look("b", face)
    studio.leave("a")
    assert not made.video.exists()
    assert not audio.exists()
    assert face.exists()  # b gave it too
    studio.leave("b")
    assert not face.exists()
    assert two_faces.exists()


def test_a_video_is_shown_with_its_source(studio, face_video, speech_wav):
    face, audio = given(studio, face_video), given(studio, speech_wav)
    assert not studio.look("a", face).still
    made = studio.make("a", Order(face, audio)).future.result(120)
    assert made.source is not None
    assert probe(made.source).frames == probe(made.video).frames == made.told["frames"]
    studio.leave("a")


def test_what_comes_along_is_lent_as_a_copy(studio):
    copy = studio.borrow("a", ASTRONAUT)
    studio.look("a", copy)
    studio.leave("a")
    assert not copy.exists()
    assert ASTRONAUT.exists()


def test_mistakes_name_the_file_and_no_folder(studio, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(UserError, match=r"^text\.mp4: cannot be read"):
        studio.look("c", given(studio, text))
    with pytest.raises(UserError, match="there is no face yet"):
        studio.visitor("c").speaking()
    long = given(studio, write_wav(tmp_path / "long.wav", np.zeros(3 * 16_000)))
    with pytest.raises(UserError, match=r"^long\.wav: 3\.0 s of sound; at most 2 s"):
        studio.listen("c", long)
    with pytest.raises(UserError, match="21 characters; at most 20"):
        studio.make("c", Order(text, text="x" * 21))
    error = studio.make("c", Order(given(studio, ASTRONAUT), long)).future.exception(60)
    assert isinstance(error, UserError)
    assert "at most 2 s" in str(error)
    assert [path.suffix for path in studio.visitor("c").folder.iterdir()] == []
    studio.leave("c")


def test_cancelling_one_that_waits_and_one_that_runs(studio, two_faces, speech_wav):
    face, audio = given(studio, two_faces), given(studio, speech_wav)
    order = Order(face, audio)
    running, waiting = studio.make("a", order), studio.make("b", order)
    while not running.stage:
        time.sleep(0.01)
    assert studio.before(waiting) == 1
    for session in "ba":
        studio.cancel(session)
    with pytest.raises(Stopped):
        running.future.result(60)
    assert running.cancelled
    assert waiting.cancelled
    assert not running.folder.exists()
    for session in "ab":
        studio.leave(session)


def test_the_queue_has_an_end(studio, two_faces):
    order = Order(given(studio, two_faces), text="long enough")
    for number in range(studio.limits.waiting + 1):
        studio.make(f"v{number}", order)
    with pytest.raises(UserError, match="videos wait already"):
        studio.make("one more", order)
    for session in ("one more", *(f"v{number}" for number in range(studio.limits.waiting + 1))):
        studio.leave(session)


def test_old_files_are_swept_and_those_in_use_are_not(shipped, tmp_path):
    studio = Studio(shipped, limits=Limits(keeping=1.0))
    stale = given(studio, ASTRONAUT)
    visitor = studio.visitor("a")
    until = time.monotonic() + 60
    while stale.exists() and time.monotonic() < until:
        studio.visitor("a")
        time.sleep(0.1)
    assert not stale.exists()
    assert visitor.folder.exists()
    while visitor.folder.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not visitor.folder.exists()
    studio.close()


def test_a_video_that_took_longer_than_files_are_kept_may_still_be_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("moditalker.serve.studio.Worker", lambda *_: Mock(return_value="made"))
    studio = Studio(limits=Limits(keeping=1000.0))
    visitor = studio.visitor("a")
    monkeypatch.setattr(studio._maker, "side_effect", lambda *_, **__: setattr(visitor, "active", 0.0))
    studio.make("a", Order(tmp_path / "f.png")).future.result(60)
    assert time.monotonic() - visitor.active < 60
    studio.close()


# ------------------------------------------------------------------------------------------ what is said


def test_a_mistake_begins_with_a_capital_and_a_files_name_with_its_own_letter():
    assert ">There is no face yet; give one<" in views.alert("there is no face yet; give one")
    assert ">junk.mp4: is empty<" in views.alert("junk.mp4: is empty")


def test_progress_tells_stage_place_and_time():
    job = Job(Path("x"))
    assert "Waiting: 2 videos are made before yours." in views.progress(job, 2)
    assert "Waiting: 1 video is made before yours." in views.headline(job, 1)
    assert job.left is None
    job.report("speech", 0, 10)
    job.report("video", 0, 100)
    job.since -= 30
    job.report("video", 25, 100)
    assert job.left == pytest.approx(90, abs=1)
    tree = ElementTree.fromstring(f"<div>{views.progress(job, 0)}</div>")
    assert [item.get("class") for item in tree.iter("li")] == ["done", "done", "now"]
    assert next(tree.iter("progress")).get("value") == "0.250"
    assert "frame 25 of 100, 1:30 left" in "".join(tree.itertext())


def test_texts_of_visitors_are_escaped(tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    for html in (views.alert(evil), views.note(evil)):
        assert "<img" not in html
        assert html.count("&quot;") == 2
    made = Made(tmp_path / f"{evil}.mp4", tmp_path / f"{evil}.mp4", tmp_path, tmp_path, [0.0], {})
    assert not re.search(r"<img|\"alert", views.stage(made, tmp_path))


def test_the_curve_is_a_drawing_to_scale():
    tree = ElementTree.fromstring(views.curve([0.0, 0.24, 0.0, 0.12]))
    points = next(tree.iter("polyline")).get("points").split()
    x, y = np.array([point.split(",") for point in points], float).T
    assert x.tolist() == pytest.approx([0, 333.3, 666.7, 1000])
    assert (140 - y).tolist() == pytest.approx([0, 0.94 * 140, 0, 0.47 * 140], abs=0.1)
    assert views.curve([]).startswith("<figure")


def test_faces_are_drawn_and_clicked(tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "x.jpg")
    seen = Seen(tmp_path / "x.jpg", 0.5, [(100, 100, 200, 220), (500, 80, 700, 300)], 0.0, True, 1)
    drawn = np.asarray(views.draw_faces(seen, 1)).astype(int)
    green, white = (np.abs(drawn - colour).sum(-1) < 30 for colour in (views.CHOSEN, views.OTHER))
    assert green[:, 240:].any()
    assert not green[:, :200].any()
    assert white[:, :120].any()
    assert [views.nearest(seen, *place) for place in ((75, 80), (0, 0), (300, 100), (399, 199))] == [
        0,
        0,
        1,
        1,
    ]
    assert [views.face_name(n, 3) for n in range(3)] == ["Face 1 (left)", "Face 2", "Face 3 (right)"]


# ------------------------------------------------------------------------------------------ typed text


@pytest.mark.skipif(not tts.available(), reason="no espeak-ng on this system")
def test_text_is_spoken_and_never_obeyed(tmp_path):
    assert tts.voices()[tts.DEFAULT_VOICE] == "English (America)"
    seconds = []
    for number, text in enumerate(("One.", "--version -w /dev/null; $(reboot) `x` one two three four")):
        tts.speak(text, out := tmp_path / f"{number}.wav")
        seconds.append(AudioReader(out).seconds)
    assert seconds[1] > 2 * seconds[0] > 0
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UserError, match="no word"):
        tts.speak(" .?! ", tmp_path / "x.wav")
    with pytest.raises(UserError, match="no voice '-w'"):
        tts.speak("one", tmp_path / "x.wav", voice="-w")
    with pytest.raises(UserError, match="5001 characters"):
        tts.speak("x" * 5001, tmp_path / "x.wav")


def test_without_espeak_there_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not tts.available()
    with pytest.raises(UserError, match="apt install espeak-ng"):
        tts.speak("one", tmp_path / "x.wav")
