"""The page in a real browser: what a visitor does, from the first drop to the download."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from skimage import data

from moditalker.media import AudioReader, read_clip, tts
from moditalker.weights.named import ASSETS

pytest.importorskip("fastapi", reason="no FastAPI: pip install 'moditalker[serve]'")
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
LANGUAGES = ("en", "de", "fr", "es", "zh", "ja")
AXE = "axe-core@4"  # judges whether everybody can use the page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system"),
]
# Milliseconds from a click to the first change that a visitor can see.
SIGN = """selector => new Promise(done => {
  const begun = performance.now();
  const watching = new MutationObserver(() => {
    watching.disconnect();
    requestAnimationFrame(() => done(performance.now() - begun));
  });
  watching.observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
  document.querySelector(selector).click();
})"""


@dataclass(frozen=True)
class Server:
    url: str
    folder: Path  # that holds the visitors' files

    def files(self) -> set[str]:
        """Names of all files of visitors, and of what was made of them."""
        parts = ("files", "jobs")
        found = (path for part in parts for path in (self.folder / part).rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)) for path in found}


def start(folder: Path, *options: object) -> tuple[subprocess.Popen[str], Server]:
    command = [sys.executable, "-m", "moditalker", "serve", "--folder", str(folder), *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line
    return process, Server(address[0], folder)


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()
    process.stdout.close()
    return code


@pytest.fixture(scope="module")
def server(tmp_path_factory, shipped) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    limits = ("--max-seconds", LONGEST, "--max-megabytes", LARGEST, "--max-rate", 10_000)
    process, server = start(folder, "--model", shipped, *limits)
    yield server
    assert stop(process) == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    camera = tmp_path_factory.mktemp("camera") / "face.mjpeg"
    Image.fromarray(data.astronaut()[:360, :480]).save(camera, "jpeg")
    flags = [*FLAGS, f"--use-file-for-fake-video-capture={camera}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def visit(browser: Browser, server: Server, width: int = 1280, height: int = 900, **how: Any) -> Page:
    """A visitor of his own."""
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **how)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page.goto(server.url)
    expect(page.locator("#tab-live")).to_be_visible()
    expect(page.locator("#language option")).to_have_count(len(LANGUAGES))
    return page


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    page = visit(browser, server)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.evaluate("fetch('visit', {method: 'DELETE'}).then(answer => answer.status)")
    page.context.close()
    assert problems == []


@pytest.fixture(scope="module")
def files(tmp_path_factory, speech_wav) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("given")
    one = data.astronaut()[:256, 100:356]
    Image.fromarray(one).save(folder / "one.png")
    Image.fromarray(np.hstack([one, one[:, ::-1]])).save(folder / "two.png")
    Image.new("RGB", (300, 300), "grey").save(folder / "grey.png")
    tall = np.full((1920, 1080, 3), 90, np.uint8)
    tall[300:1324, 28:1052] = np.asarray(Image.fromarray(data.astronaut()).resize((1024, 1024)))
    Image.fromarray(tall).save(folder / "tall.jpg", quality=85)
    (folder / "text.mp4").write_text("this is not a video\n" * 20)
    (folder / "large.mp4").write_bytes(bytes(LARGEST * 1_000_000 + 1))
    write_wav(folder / "long.wav", np.zeros((LONGEST + 1) * 16_000))
    sentence = AudioReader(ASSETS / "demo_speech.flac").read()
    write_wav(folder / "sentence.wav", sentence)
    write_wav(folder / "short.wav", sentence[:16_000])
    return {path.name: path for path in folder.iterdir()}


def give(page: Page, what: str, path: Path) -> None:
    page.set_input_files(f"#{what}", str(path))


def make(page: Page) -> None:
    page.locator("#make").click()
    expect(page.locator("video.result").first).to_be_visible()


def until(page: Page, true: str) -> None:
    """Wait until an expression is true. The page's policy forbids Playwright's own way, which is `eval`."""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(true):
        assert time.monotonic() < end, true
        page.wait_for_timeout(50)


def sign(page: Page, selector: str) -> float:
    """Milliseconds from a click to a sign of life; the best of what was seen is what the page can do."""
    milliseconds: float = page.evaluate(SIGN, selector)
    return milliseconds


def test_from_two_faces_to_a_download(page, server, files, tmp_path):
    outside = []
    page.on("request", lambda request: outside.append(request.url))
    give(page, "face", files["two.png"])
    expect(page.locator("#found")).to_contain_text("2 faces were found")
    expect(page.locator("#picture button")).to_have_count(2)

    picture = page.locator("#picture img").bounding_box()
    assert picture is not None
    page.mouse.click(picture["x"] + 0.98 * picture["width"], picture["y"] + 0.9 * picture["height"])
    expect(page.get_by_label("Face 2", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Face 1", exact=True)).to_have_attribute("aria-pressed", "false")

    give(page, "sound", files["short.wav"])
    expect(page.locator("#heard")).to_contain_text("1.0 seconds of speech")
    make(page)
    until(page, "document.querySelector('video.result').currentTime > 0.2")  # by itself
    assert page.locator(".group img").evaluate("image => image.naturalWidth") == 512
    assert page.locator(".curve polyline").get_attribute("points")
    expect(page.locator("#status")).to_have_text("Every frame is drawn; here is the video.")

    with page.expect_download() as download:
        page.locator(".download").click()
    download.value.save_as(tmp_path / "talking.mp4")
    clip = read_clip(tmp_path / "talking.mp4")
    assert clip.frames.shape == (25, 256, 512, 3)
    assert len(clip.audio) > 15_000
    given = np.asarray(Image.open(files["two.png"]))
    change = np.abs(clip.frames.astype(int) - given).max(0).max(-1)
    left, right = (change > 40)[:, :256].sum(), (change > 40)[:, 256:].sum()
    assert right > 100 * max(1, left)  # the right face speaks, and only H.264 touched the left one
    with page.expect_download() as download:
        page.locator(".report").click()
    assert json.loads(Path(download.value.path()).read_text())["frames"] == 25

    others = [url for url in outside if not url.startswith((server.url, f"blob:{server.url}", "data:"))]
    assert not others


def test_a_video_plays_beside_its_source(page, files, face_video):
    give(page, "face", face_video)
    expect(page.locator("#found")).to_contain_text("One face was found")
    give(page, "sound", files["short.wav"])
    make(page)
    page.locator("video.result").evaluate("video => { video.currentTime = 0; video.play(); }")
    until(page, "document.querySelector('video.source').currentTime > 0.2")
    until(page, "document.querySelector('video.source').duration > 0")
    lengths = page.locator(".group video").evaluate_all("videos => videos.map(video => video.duration)")
    assert abs(lengths[0] - lengths[1]) < 0.15


def test_make_waits_for_the_look_on_a_slow_network(page, files):
    """A sign of life comes at once, whatever the network does, and nobody is scolded."""
    line = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 300, "downloadThroughput": 200_000, "uploadThroughput": 60_000}
    line.send("Network.emulateNetworkConditions", slow)
    give(page, "face", files["tall.jpg"])
    expect(page.locator("#found")).to_contain_text("Sending: ")
    expect(page.locator("#picture img")).to_be_visible()  # the file itself, before it has been sent
    give(page, "sound", files["short.wav"])
    assert sign(page, "#make") < 100
    expect(page.locator("#status")).to_contain_text("Waiting for the face")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("#newest")).to_be_visible()
    expect(page.locator("video.result")).to_be_visible()


def test_the_network_may_break_for_a_moment(page, files):
    give(page, "face", files["one.png"])
    expect(page.locator("#found")).to_contain_text("One face")
    give(page, "sound", files["sentence.wav"])
    expect(page.locator("#heard")).to_contain_text("4.6 seconds")
    page.locator("#make").click()
    expect(page.locator("#stages .now")).to_be_visible()
    page.context.set_offline(True)
    page.wait_for_timeout(1500)
    page.context.set_offline(False)
    expect(page.locator("video.result")).to_be_visible()


def test_each_click_has_a_sign_of_life(page, files):
    assert sign(page, "#example-sound") < 100
    expect(page.locator("video.result")).to_be_visible()
    assert sign(page, "figure .row button") < 100  # another take
    expect(page.locator("#cancel")).to_be_visible()
    assert sign(page, "#cancel") < 100
    expect(page.locator("#cancel")).to_be_hidden()
    for selector in (".delete", "#forget"):
        assert sign(page, selector) < 100, selector
    expect(page.locator("#status")).to_have_text("All is deleted.")
    for selector in ("#make", "#tab-text", "#options summary", "#tab-sound"):
        assert sign(page, selector) < 100, selector
    assert sign(page, "#microphone") < 100
    expect(page.locator("#microphone")).to_contain_text("Stop recording")
    page.wait_for_timeout(300)
    assert sign(page, "#microphone") < 100
    assert sign(page, "#camera") < 100
    expect(page.locator("#camera")).to_contain_text("Stop recording")
    page.locator("#camera").click()
    page.locator("#tab-live").click()
    assert sign(page, "#live-start") < 100
    expect(page.locator("#live-status")).not_to_be_empty()
    assert sign(page, "#live-stop") < 100


def test_cancel_and_once_more(page, server, files):
    before = server.files()
    give(page, "face", files["one.png"])
    give(page, "sound", files["sentence.wav"])
    expect(page.locator("#heard")).to_contain_text("4.6 seconds")
    page.locator("#make").click()
    expect(page.locator("#stages .now")).to_be_visible()
    assert sign(page, "#cancel") < 100
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#cancel")).to_be_hidden()
    until = time.monotonic() + 20
    while (
        left := {name for name in server.files() - before if "talking" in name}
    ) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left  # nor half of one
    give(page, "sound", files["short.wav"])
    expect(page.locator("#heard")).to_contain_text("1.0 seconds")
    make(page)


def test_takes_are_side_by_side_and_can_be_deleted(page, server, files):
    give(page, "face", files["one.png"])
    give(page, "sound", files["short.wav"])
    page.locator("#options summary").click()
    page.locator("[name=blink]").fill("0")
    page.locator("[name=head]").select_option("still")
    page.locator("[name=quality]").fill("30")
    make(page)
    page.get_by_role("button", name="Another take").click()
    expect(page.locator("video.result")).to_have_count(2)
    tops = "videos => videos.map(video => video.getBoundingClientRect().top)"
    one, two = page.locator("video.result").evaluate_all(tops)
    assert abs(one - two) < 2
    expect(page.locator("figcaption").nth(1)).to_have_text("Take 1, synthetic")
    expect(page.locator(".group")).to_have_count(1)

    page.reload()  # what was made is there again
    expect(page.locator("video.result")).to_have_count(2)
    page.locator(".delete").first.click()
    expect(page.locator("video.result")).to_have_count(1)
    page.locator("#forget").click()
    expect(page.locator("#status")).to_have_text("All is deleted.")
    expect(page.locator("#takes")).to_be_hidden()
    assert not page.evaluate("fetch('jobs').then(answer => answer.json())")


def test_tall_videos_fit_the_window_and_results_come_into_view(page, files):
    give(page, "face", files["tall.jpg"])
    begun = time.monotonic()
    expect(page.locator("#found")).to_contain_text("One face was found")
    print(f"upload to found faces: {time.monotonic() - begun:.2f} s")
    give(page, "sound", files["short.wav"])
    make(page)
    page.wait_for_timeout(1500)
    box = page.locator("video.result").bounding_box()
    assert box["height"] <= 900
    assert box["y"] >= -5
    assert box["y"] + box["height"] <= 905


@pytest.mark.parametrize(
    ("what", "name", "where", "says"),
    [
        ("face", "text.mp4", "#face-problem", "text.mp4: cannot be read as picture, video or sound"),
        ("face", "grey.png", "#face-problem", "grey.png: no face was found in the picture"),
        ("face", "large.mp4", "#face-problem", "at most 2 MB are taken"),
        ("sound", "long.wav", "#sound-problem", "long.wav: 7.0 s of sound; at most 6 s"),
    ],
)
def test_wrong_files_get_their_sentence(what, name, where, says, page, files):
    give(page, what, files[name])
    expect(page.locator(where)).to_contain_text(says, ignore_case=True)
    assert "/" not in page.locator(where).inner_text()  # nothing of our folders
    page.locator("#make").click()
    expect(page.locator("#problem")).to_be_visible()


def test_two_visitors_at_once(browser, server, files):
    one, two = visit(browser, server), visit(browser, server)
    for page, speech in ((one, "sentence.wav"), (two, "short.wav")):
        give(page, "face", files["one.png"])
        expect(page.locator("#found")).to_contain_text("One face")
        give(page, "sound", files[speech])
        expect(page.locator("#heard")).to_contain_text("seconds of speech")
    one.locator("#make").click()
    expect(one.locator("#stages .now")).to_be_visible()
    two.locator("#make").click()
    expect(two.locator("#status")).to_contain_text("Waiting: one video is made before yours.")
    expect(two.locator("video.result")).to_be_visible()
    expect(one.locator("video.result")).to_be_visible()  # it was made first
    lengths = [page.locator("video.result").evaluate("video => video.duration") for page in (one, two)]
    assert abs(lengths[0] - 4.6) < 0.1
    assert abs(lengths[1] - 1.0) < 0.1
    source = one.locator("video.result").get_attribute("src")
    assert source is not None
    assert re.fullmatch(r"jobs/[\w-]{22}/video", source)  # 128 bits by chance
    assert one.request.get(server.url + source).ok
    assert two.request.get(server.url + source).status == 404  # it is the other's
    for page in (one, two):
        page.context.close()


def test_the_keyboard_is_enough_and_mistakes_are_told(page):
    page.locator("#make").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("There is no face yet")
    page.locator("body").click(position={"x": 1, "y": 1})
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert {"face", "camera", "tab-sound", "sound", "microphone", "make", "example-sound", "forget"} <= seen
    page.locator("#tab-sound").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#text-panel")).to_be_visible()
    expect(page.locator("#sound-panel")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_a_phone(width, browser, server):
    page = visit(browser, server, width, 800)
    page.locator("#options summary").click()
    for language in LANGUAGES:
        page.locator("#language").select_option(language)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, language
    assert page.locator("#make").bounding_box()["width"] > width / 2 or width > 700
    page.context.close()


def test_it_speaks_six_languages(browser, server, files):
    table = json.loads(urllib.request.urlopen(f"{server.url}page/words.json", timeout=60).read())
    assert list(table["languages"]) == list(LANGUAGES)
    for key, row in table["words"].items():
        assert len(row) == len(LANGUAGES)
        assert all(row), key
        assert len({tuple(sorted(re.findall(r"\{\w+\}", text))) for text in row}) == 1, key
    for locale, title in (("de-AT", "Das Gesicht"), ("ja-JP", "顔"), ("sw", "The face")):
        page = visit(browser, server, locale=locale)
        expect(page.locator("#face-title span")).to_have_text(title)
        page.context.close()
    page = visit(browser, server)
    give(page, "face", files["two.png"])
    expect(page.locator("#found")).to_contain_text("2 faces")
    page.locator("#language").select_option("fr")
    expect(page.locator("#found")).to_contain_text("2 visages ont été trouvés")
    assert page.locator("html").get_attribute("lang") == "fr"
    page.reload()
    expect(page.locator("#make")).to_have_text("Créer la vidéo")
    left = page.evaluate("[...document.querySelectorAll('[data-say]')].map(element => element.dataset.say)")
    assert set(left) <= set(table["words"])
    page.context.close()


@pytest.mark.skipif(not tts.available(), reason="no espeak-ng on this system")
def test_typed_text_is_spoken(page, files):
    give(page, "face", files["one.png"])
    page.get_by_role("tab", name="Text").click()
    page.locator("#text").fill("Yes; $(reboot) -w x --version")
    make(page)


def test_the_example_runs(page):
    page.locator("#example-sound").click()
    expect(page.locator("#found")).to_contain_text("One face was found")
    expect(page.locator("video.result")).to_be_visible()


def test_a_recorded_face_and_a_recorded_voice(page):
    for button, where in (("#camera", "#found"), ("#microphone", "#heard")):
        page.locator(button).click()
        expect(page.locator(button)).to_contain_text("Stop recording")
        page.wait_for_timeout(1500)
        page.locator(button).click()
        expect(page.locator(where)).not_to_be_empty()
    expect(page.locator("#found")).to_contain_text(
        re.compile("One face was|faces were")
    )  # of a coarse picture
    expect(page.locator("#heard")).to_contain_text("seconds of speech")
    make(page)


def test_a_file_may_be_dropped(page, files):
    content = list(files["one.png"].read_bytes())
    dropped = page.evaluate_handle(
        """content => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(content)], "dropped.png", {type: "image/png"}));
          return data;
        }""",
        content,
    )
    page.dispatch_event("#face-drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#face-drop")).to_contain_text("dropped.png")
    expect(page.locator("#found")).to_contain_text("One face was found")


def test_live_from_the_microphone_to_the_picture(page, files):
    give(page, "face", files["one.png"])
    page.get_by_role("tab", name="Live").click()
    page.locator("#live-start").click()
    expect(page.locator("#live-picture")).to_be_visible()
    expect(page.locator("#live-status")).to_contain_text("The face is")
    page.wait_for_timeout(2000)
    page.locator("#live-stop").click()
    expect(page.locator("#live-status")).to_contain_text("frames were shown")
    assert page.locator("#live-picture").evaluate("canvas => canvas.width") == 256
    expect(page.locator("#live-problem")).to_be_hidden()


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, where npm has it."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("no npm, which would get axe-core")
    got = subprocess.run(
        ["npm", "pack", "--prefer-offline", AXE], cwd=folder, capture_output=True, timeout=120
    )
    archives = list(folder.glob("*.tgz"))
    if got.returncode or not archives:
        pytest.skip("npm has no axe-core here")
    with tarfile.open(archives[0]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(scheme, axe, browser, server, files):
    page = visit(browser, server, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate(axe)

    def faults() -> list[str]:
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]

    page.locator("#options summary").click()
    assert faults() == []
    give(page, "face", files["two.png"])
    give(page, "sound", files["text.mp4"])
    expect(page.locator("#sound-problem")).to_be_visible()
    expect(page.locator("#found")).to_contain_text("2 faces")
    give(page, "sound", files["short.wav"])
    make(page)
    assert faults() == []
    for tab in ("#tab-text", "#tab-live"):
        page.locator(tab).click()
        assert faults() == []
    page.context.close()


def test_it_is_painted_at_once(browser, server):
    paints = []
    for _ in range(3):
        page = visit(browser, server)
        entries = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
        )
        paints += entries
        page.context.close()
    print(f"first paint: {', '.join(f'{paint:.0f}' for paint in paints)} ms")
    assert min(paints) < 300


def test_a_token_is_asked_for(browser, tmp_path, shipped):
    (tmp_path / "tokens").write_text("0123456789abcdef\n")
    process, server = start(tmp_path / "service", "--model", shipped, "--tokens", tmp_path / "tokens")
    page = browser.new_context().new_page()
    page.goto(server.url)
    page.locator("#token input").fill("wrong")
    page.locator("#token button").click()
    expect(page.locator("#token .problem")).to_contain_text("this service needs a token")
    page.locator("#token input").fill("0123456789abcdef")
    page.locator("#token button").click()
    expect(page.locator("#token")).to_be_hidden()
    expect(page.locator("#tab-live")).to_be_visible()
    page.context.close()
    assert stop(process) == 0


@pytest.mark.parametrize(
    "path", ["/page/../api.py", "/page/..%2fapi.py", "/page//etc/passwd", "/jobs.sqlite"]
)
def test_no_other_file_is_served(path, server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(server.url.rstrip("/") + path, timeout=60)
    assert refused.value.code in (400, 403, 404)
    refused.value.close()


def test_headers_keep_the_browser_at_home(server):
    with urllib.request.urlopen(server.url, timeout=60) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        text = answer.read().decode()
    assert not re.findall(r"(?:src|href)=[\"']?(https?:[^\"' >]+)", text)
