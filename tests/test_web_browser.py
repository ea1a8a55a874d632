"""The page in a real browser: what a visitor does, from the first drop to the download."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from skimage import data

from moditalker.media import AudioReader, read_clip, tts
from moditalker.weights.named import ASSETS

pytest.importorskip("gradio", reason="no Gradio: pip install 'moditalker[web]'")
pytest.importorskip("playwright", reason="no Playwright: pip install 'moditalker[dev]'")
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WAIT = 120_000  # ms: how long anything may take on a busy machine
LONGEST, LARGEST = 6, 2  # s of speech, MB: the limits of the server under test

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system"),
]


@dataclass(frozen=True)
class Server:
    url: str
    folder: Path  # that holds the visitors' files

    def files(self) -> set[str]:
        """Names of all files of visitors that hold anything."""
        found = (path for path in self.folder.glob("moditalker-*/**/*") if path.is_file())
        return {str(path.relative_to(self.folder)) for path in found if path.stat().st_size}


def start(folder: Path, *options: object) -> tuple[subprocess.Popen[str], Server]:
    command = [sys.executable, "-m", "moditalker", "web", *map(str, options)]
    environment = os.environ | {"TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line
    return process, Server(address[0], folder)


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    assert process.stdout is not None
    process.stdout.close()
    return code


@pytest.fixture(scope="module")
def server(tmp_path_factory, shipped) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("visitors")
    process, server = start(folder, "--model", shipped, "--max-seconds", LONGEST, "--max-megabytes", LARGEST)
    yield server
    assert stop(process) == 0
    assert not list(folder.glob("moditalker-*"))  # nothing of anybody is left


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    camera = tmp_path_factory.mktemp("camera") / "face.mjpeg"
    Image.fromarray(data.astronaut()[:360, :480]).save(camera, "jpeg")
    flags = [*FLAGS, f"--use-file-for-fake-video-capture={camera}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def visit(browser: Browser, server: Server, width: int = 1280, height: int = 900) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
    page.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page.goto(server.url)
    expect(page.locator("#make")).to_be_visible()
    return page


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    page = visit(browser, server)
    yield page
    page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, speech_wav) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("given")
    one = data.astronaut()[:256, 100:356]
    Image.fromarray(one).save(folder / "one.png")
    Image.fromarray(np.hstack([one, one[:, ::-1]])).save(folder / "two.png")
    Image.new("RGB", (300, 300), "grey").save(folder / "grey.png")
    (folder / "text.mp4").write_text("this is not a video\n" * 20)
    (folder / "large.mp4").write_bytes(bytes(LARGEST * 1_000_000 + 1))
    write_wav(folder / "long.wav", np.zeros((LONGEST + 1) * 16_000))
    sentence = AudioReader(ASSETS / "demo_speech.flac").read()
    write_wav(folder / "sentence.wav", sentence)
    write_wav(folder / "short.wav", sentence[:16_000])
    return {path.name: path for path in folder.iterdir()}


def give(page: Page, what: str, path: Path) -> None:
    page.set_input_files(f"#{what} input[type=file]", str(path))


def make(page: Page) -> None:
    page.locator("#make").click()
    expect(page.locator("video.result")).to_be_visible()


def test_from_two_faces_to_a_download(page, server, files, tmp_path):
    outside = []
    page.on("request", lambda request: outside.append(request.url))
    give(page, "face", files["two.png"])
    expect(page.locator("#picture img")).to_be_visible()
    expect(page.locator("#found")).to_contain_text("2 faces were found")
    expect(page.get_by_label("Face 1 (left)")).to_be_visible()

    picture = page.locator("#picture img").bounding_box()
    assert picture is not None
    page.mouse.click(picture["x"] + 0.75 * picture["width"], picture["y"] + 0.4 * picture["height"])
    expect(page.get_by_label("Face 2 (right)")).to_be_checked()

    give(page, "speech", files["short.wav"])
    expect(page.locator("#heard")).to_contain_text("1.0 seconds of speech")
    make(page)

    page.locator("video.result").evaluate("video => video.play()")
    page.wait_for_function("document.querySelector('video.result').currentTime > 0.2")
    assert page.locator(".pair img").evaluate("image => image.naturalWidth") == 512
    assert page.locator(".curve polyline").get_attribute("points")

    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "talking.mp4")
    clip = read_clip(tmp_path / "talking.mp4")
    assert clip.frames.shape == (25, 256, 512, 3)
    assert len(clip.audio) > 15_000
    given = np.asarray(Image.open(files["two.png"]))
    change = np.abs(clip.frames.astype(int) - given).max(0).max(-1)
    left, right = (change > 40)[:, :256].sum(), (change > 40)[:, 256:].sum()
    assert right > 100 * max(1, left)  # the right face speaks, and only H.264 touched the left one
    with page.expect_download() as download:
        page.locator("#report").click()
    assert json.loads(Path(download.value.path()).read_text())["frames"] == 25

    others = [url for url in outside if not url.startswith((server.url, f"blob:{server.url}", "data:"))]
    assert not others


def test_a_video_plays_beside_its_source(page, files, face_video):
    give(page, "face", face_video)
    expect(page.locator("#found")).to_contain_text("One face was found")
    give(page, "speech", files["short.wav"])
    make(page)
    page.locator("video.result").evaluate("video => video.play()")
    page.wait_for_function("document.querySelector('video.source').currentTime > 0.2")
    lengths = page.locator(".pair video").evaluate_all("videos => videos.map(video => video.duration)")
    assert abs(lengths[0] - lengths[1]) < 0.15


def test_cancel_and_once_more(page, server, files):
    before = server.files()
    give(page, "face", files["one.png"])
    give(page, "speech", files["sentence.wav"])
    expect(page.locator("#heard")).to_contain_text("4.6 seconds")
    page.locator("#make").click()
    expect(page.locator(".stages .now progress")).to_be_visible()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#cancel")).to_be_hidden()
    assert not {name for name in server.files() - before if "talking" in name}  # nor half of one
    page.locator("#speech").get_by_label("Clear").click()
    give(page, "speech", files["short.wav"])
    expect(page.locator("#heard")).to_contain_text("1.0 seconds")
    make(page)


@pytest.mark.parametrize(
    ("what", "name", "where", "says"),
    [
        ("face", "text.mp4", "#found", "text.mp4: cannot be read as picture, video or sound"),
        ("face", "grey.png", "#found", "grey.png: no face was found in the picture"),
        ("face", "large.mp4", "body", "maximum allowed size"),
        ("speech", "long.wav", "#heard", "long.wav: 7.0 s of sound; at most 6 s"),
    ],
)
def test_wrong_files_get_their_sentence(what, name, where, says, page, files):
    give(page, what, files[name])
    expect(page.locator(where)).to_contain_text(says, ignore_case=True)
    assert "/" not in page.locator(where).inner_text() or where == "body"  # nothing of our folders


def test_two_visitors_at_once(browser, server, files):
    before = server.files()
    one, two = visit(browser, server), visit(browser, server)
    for page, speech in ((one, "sentence.wav"), (two, "short.wav")):
        give(page, "face", files["one.png"])
        expect(page.locator("#picture img")).to_be_visible()
        give(page, "speech", files[speech])
        expect(page.locator("#heard")).to_contain_text("seconds of speech")
    one.locator("#make").click()
    expect(one.locator(".stages .now")).to_be_visible()
    two.locator("#make").click()
    expect(two.locator("#status")).to_contain_text("Waiting: 1 video is made before yours.")
    expect(two.locator("video.result")).to_be_visible()
    expect(one.locator("video.result")).to_be_visible()  # it was made first
    lengths = [page.locator("video.result").evaluate("video => video.duration") for page in (one, two)]
    assert abs(lengths[0] - 4.6) < 0.1
    assert abs(lengths[1] - 1.0) < 0.1

    source = two.locator("video.result").get_attribute("src")
    assert source is not None
    assert re.search(r"/[\w-]{32}/[\w-]{22}/talking\.mp4$", source)  # 192 and 128 bits by chance
    one.close()
    two.wait_for_timeout(2000)
    assert two.request.get(server.url + source).ok  # what one leaves behind is not the other's
    two.close()
    until = time.monotonic() + WAIT / 1000
    while server.files() - before and time.monotonic() < until:
        time.sleep(0.2)
    assert not server.files() - before


def test_the_keyboard_is_enough_and_mistakes_are_told(page):
    page.locator("#make").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("There is no face yet")
    seen = set()
    page.locator("body").click(position={"x": 1, "y": 1})
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert {"make", "example-sound", "Picture or video", "Recording"} <= {text.strip() for text in seen}


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_a_phone(width, browser, server):
    page = visit(browser, server, width, 800)
    page.get_by_role("button", name="Options").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#make").bounding_box()["width"] > width / 2 or width > 700
    page.close()


@pytest.mark.skipif(not tts.available(), reason="no espeak-ng on this system")
def test_typed_text_is_spoken(page, files):
    give(page, "face", files["one.png"])
    expect(page.locator("#picture img")).to_be_visible()
    page.get_by_role("tab", name="Text").click()
    page.locator("#text textarea").fill("Yes; $(reboot) -w x --version")
    make(page)


def test_the_example_runs(page):
    page.locator("#example-sound").click()
    expect(page.locator("#found")).to_contain_text("One face was found")
    expect(page.locator("video.result")).to_be_visible()


def test_a_recorded_face(page, files):
    page.get_by_role("tab", name="Camera").click()
    page.locator("#camera").get_by_text("Click to Access Webcam").click()
    button = page.locator("#camera .capture-button")
    expect(button).to_contain_text("Record")
    button.click()
    page.wait_for_timeout(1500)
    button.click()
    expect(page.locator("#found")).to_contain_text("One face was found")
    give(page, "speech", files["short.wav"])
    make(page)


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}", "http://192.0.2.1/x", "../../etc/passwd"])
def test_no_other_file_is_served(path, server):
    path = path.format(root=next(server.folder.glob("moditalker-*")))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}gradio_api/file={path}", timeout=60)
    assert refused.value.code in (400, 403, 404, 500)
    refused.value.close()


def test_headers_keep_the_browser_at_home(server):
    with urllib.request.urlopen(server.url, timeout=60) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        text = answer.read().decode()
    for address in re.findall(r"(?:src|href)=[\"']?(https?:[^\"' >]+)", text):
        assert address.startswith(server.url)
