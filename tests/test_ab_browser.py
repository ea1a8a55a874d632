"""The blind page in a real browser, opened as a file: look, listen, answer, come back, download, count."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import write_video

from moditalker import cli
from moditalker.evaluate.study.page import IDENTITY_BESIDE_FACE, QUESTIONS, make_page

pytest.importorskip("playwright", reason="no Playwright: pip install 'moditalker[dev]'")
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WAIT = 60_000  # ms: how long anything may take on a busy machine
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "no difference": "ArrowDown"}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    """page/ and page.key.json of three pairs with a face each."""
    root = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for folder in ("good", "poor", "faces"):
        (root / folder).mkdir()
        for name in ("</script>", "b", "c"):
            frames = np.repeat(rng.integers(0, 255, (25, 6, 8, 3), np.uint8), 16, 1).repeat(16, 2)
            # A name may hold what would end the page's script; a slash it cannot.
            write_video(root / folder / f"{name.replace('/', '')}.mp4", frames, speech_wav)
    make_page(root / "good", root / "poor", root / "page", root / "page.key.json", root / "faces", seed=2)
    return root


@pytest.fixture
def context(tmp_path: Path) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=FLAGS, accept_downloads=True
        )
        browser.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        yield browser
        browser.close()


def visit(context: BrowserContext, study: Path, problems: list[str]) -> Page:
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "blob:")) else problems.append(request.url),
    )
    page.goto((study / "page" / "index.html").as_uri())
    return page


def until(page: Page, condition: str) -> None:
    """Wait for a condition in JavaScript; Playwright's own wait needs an eval that the page forbids."""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def now(page: Page) -> str:
    """The question that a key would answer."""
    return str(page.locator("fieldset.now").get_attribute("id")).removeprefix("question-")


def test_from_the_page_to_the_table(
    context: BrowserContext, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems: list[str] = []
    page = visit(context, study, problems)
    told = json.loads((study / "page.key.json").read_text())
    sides = [trial["left"] == "a" for trial in told["trials"]]
    expect(page.locator("#intro")).to_contain_text("3 in all")
    expect(page.locator("#trial")).to_be_hidden()
    page.get_by_role("button", name="Start").click()

    expect(page.locator("#count")).to_have_text("Pair 1 of 3")
    for video in ("#left", "#right", "#face video"):
        until(page, f"document.querySelector('{video}').currentTime > 0.2")
    assert page.locator("#questions legend").all_inner_texts() == list(told["questions"].values())
    assert told["questions"]["identity"] == IDENTITY_BESIDE_FACE
    assert page.evaluate("[left.muted, right.muted]") == [True, True]  # until asked for
    page.keyboard.press("d")
    assert page.evaluate("[left.muted, right.muted]") == [True, False]
    until(page, "!right.paused && right.currentTime > 0.1")
    page.keyboard.press("a")
    assert page.evaluate("[left.muted, right.muted]") == [False, True]
    expect(page.locator("#hear-left")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("s")
    assert page.evaluate("[left.muted, right.muted]") == [True, True]
    until(page, "left.ended || right.ended")
    until(page, "!left.ended && !left.paused && !right.paused")  # both again, together

    # The first pair: lips of the first model, by keys, and no difference else; one mind is changed.
    assert now(page) == "sync"
    page.keyboard.press("n")
    expect(page.locator("#count")).to_have_text("Pair 1 of 3")  # not before all is answered
    page.keyboard.press(KEYS["right" if sides[0] else "left"])
    for question in ("identity", "quality", "real"):
        assert now(page) == question
        page.keyboard.press(KEYS["no difference"])
    page.locator("#question-sync").get_by_role("button", name="Left" if sides[0] else "Right").click()
    page.keyboard.press("n")
    expect(page.locator("#count")).to_have_text("Pair 2 of 3")
    page.keyboard.press(KEYS["left" if sides[1] else "right"])

    # Another day: the page is where it was.
    page.close()
    page = visit(context, study, problems)
    expect(page.locator("#count")).to_have_text("Pair 2 of 3")
    assert now(page) == "identity"
    expect(page.locator("#question-sync [aria-pressed=true]")).to_contain_text(
        "Left" if sides[1] else "Right"
    )
    page.keyboard.press("b")
    expect(page.locator("#count")).to_have_text("Pair 1 of 3")
    expect(page.locator("#question-sync [aria-pressed=true]")).to_contain_text(
        "Left" if sides[0] else "Right"
    )
    page.keyboard.press("n")
    for _ in range(3):
        page.keyboard.press(KEYS["no difference"])
    page.locator("#next").click()
    expect(page.locator("#count")).to_have_text("Pair 3 of 3")
    for question in QUESTIONS:
        choice = ("right" if sides[2] else "left") if question == "sync" else "no difference"
        page.keyboard.press(KEYS[choice])
    page.locator("#next").click()

    expect(page.locator("#answered")).to_have_text("12 of 12 questions are answered.")
    with page.expect_download() as download:
        page.locator("#download").click()
    answers = tmp_path / download.value.suggested_filename
    download.value.save_as(answers)
    assert not problems
    with answers.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["trial"]), row["question"]) for row in rows] == [
        (trial, question) for trial in (1, 2, 3) for question in QUESTIONS
    ]
    assert all(row["time"].endswith("Z") for row in rows)

    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "study", "score", str(study / "page.key.json"), str(answers), "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)["questions"]
    assert (found["sync"]["wins"], found["sync"]["losses"], found["sync"]["ties"]) == (2, 1, 0)
    assert (found["real"]["wins"], found["real"]["losses"], found["real"]["ties"]) == (0, 0, 3)


def test_a_phone_shows_both_sides_and_a_missing_video_is_told(
    context: BrowserContext, study: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study / "page", copy / "page")
    page = visit(context, copy, [])
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Start").click()
    until(page, "left.currentTime > 0.1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator(side).bounding_box() for side in ("#left", "#right")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    for path in (copy / "page" / "videos").iterdir():
        path.unlink()
    page.reload()
    expect(page.locator("#wrong")).to_contain_text("cannot be played")
