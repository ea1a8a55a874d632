"""What visitors read and see, made of plain values: HTML, SVG and pictures. Texts are escaped."""

from __future__ import annotations

from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from moditalker.config.limits import RATE
from moditalker.media import tts
from moditalker.serve.studio import Job, Limits
from moditalker.serve.tasks import Made, Seen

STAGES = {"face": "Looking at the face", "speech": "Listening to the speech", "video": "Drawing the frames"}
CHOSEN, OTHER = (20, 200, 180), (255, 255, 255)  # colours of the boxes around faces


def draw_faces(seen: Seen, chosen: int) -> Image.Image:
    """The frame that is shown, with a numbered box around each face."""
    with Image.open(seen.picture) as file:
        picture = file.convert("RGB")
    pen = ImageDraw.Draw(picture)
    line = max(3, max(picture.size) // 200)
    font = ImageFont.load_default(max(14, max(picture.size) // 34))
    for number, face in enumerate(seen.faces):
        x0, y0, x1, y1 = (seen.scale * value for value in face)
        pad = 0.12 * max(x1 - x0, y1 - y0)
        x0, y0 = max(x0 - pad, line), max(y0 - pad, line)
        x1, y1 = min(x1 + pad, picture.width - line), min(y1 + pad, picture.height - line)
        color, ink = (CHOSEN, "black") if number == chosen else (OTHER, "black")
        pen.rounded_rectangle((x0, y0, x1, y1), radius=4 * line, outline=color, width=line)
        if len(seen.faces) > 1:
            _, _, width, height = font.getbbox(text := str(number + 1))
            pen.rounded_rectangle((x0, y0, x0 + width + 6 * line, y0 + height + 4 * line), 4 * line, color)
            pen.text((x0 + 3 * line, y0 + 2 * line), text, ink, font)
    return picture


def nearest(seen: Seen, x: float, y: float) -> int:
    """The face at, or else nearest to, a place in the picture that is shown."""

    def distance(number: int) -> tuple[float, float]:
        x0, y0, x1, y1 = (seen.scale * value for value in seen.faces[number])
        outside = max(x0 - x, 0, x - x1) + max(y0 - y, 0, y - y1)
        return outside, abs((x0 + x1) / 2 - x) + abs((y0 + y1) / 2 - y)

    return min(range(len(seen.faces)), key=distance)


def face_name(number: int, count: int) -> str:
    """Of a face among several, from left to right."""
    place = " (left)" if number == 0 else " (right)" if number == count - 1 else ""
    return f"Face {number + 1}{place}"


def found(seen: Seen) -> str:
    """What was found in a face file."""
    count = len(seen.faces)
    late = f" The first one shows {seen.second:.1f} seconds into the video." if seen.second else ""
    if count == 1:
        return note(f"One face was found.{late}")
    return note(f"{count} faces were found; the one in green will speak. Click another to choose it.{late}")


def note(text: str) -> str:
    """A quiet line."""
    return f'<p class="note">{escape(text)}</p>'


def alert(text: str) -> str:
    """A mistake, and the way out. The name of a file that it begins with stays as it is."""
    named = "." in text.partition(": ")[0]
    return f'<p class="alert" role="alert">{escape(text if named else text[:1].upper() + text[1:])}</p>'


def said_before(limits: Limits) -> str:
    """The limits, before anything is uploaded."""
    return (
        f"Files of up to {limits.megabytes} MB, and up to {limits.seconds:g} seconds of speech. They stay on "
        "the computer that runs this page, and are deleted when you close it or after "
        f"{limits.keeping / 60:g} minutes."
    )


def no_voice() -> str:
    """Why text cannot be typed."""
    return note(
        f"Typed text is spoken by {tts.PROGRAM}, which is not installed on the computer that runs this page. "
        "Give a recording instead."
    )


def clock(seconds: float) -> str:
    """3:07"""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def progress(job: Job, before: int) -> str:
    """The stages of a job, and how long the present one will take yet."""
    names = list(STAGES)
    now = names.index(job.stage) if job.stage else -1
    rows = []
    for index, name in enumerate(names):
        state = "done" if index < now else "now" if index == now else "next"
        detail, bar = "", ""
        if state == "now":
            share = job.done / job.total
            detail = f"{clock(job.left)} left" if job.left is not None else "…"
            if name == "video" and job.done:
                detail = f"frame {job.done} of {job.total}, {detail}"
            bar = f'<progress max="1" value="{share:.3f}" aria-label="{STAGES[name]}"></progress>'
        rows.append(
            f'<li class="{state}"><span>{STAGES[name]}</span><span class="left">{detail}</span>{bar}</li>'
        )
    return f'<p class="headline">{escape(headline(job, before))}</p><ol class="stages">{"".join(rows)}</ol>'


def headline(job: Job, before: int) -> str:
    """Where a job is, in a sentence that seldom changes: screen readers say it."""
    if job.stage:
        return f"{STAGES[job.stage]} …"
    if before:
        return f"Waiting: {before} video{'s are' if before > 1 else ' is'} made before yours."
    return "Starting …"


def stage(made: Made, picture: Path) -> str:
    """The source beside the result; the page's script plays both together."""
    if made.source is None:
        source = f'<img src="{_url(picture)}" alt="The picture that was given">'
    else:
        source = f'<video class="source" src="{_url(made.source)}" muted playsinline preload="auto"></video>'
    return (
        f'<div class="pair"><figure>{source}<figcaption>Source</figcaption></figure>'
        f'<figure><video class="result" src="{_url(made.video)}" controls playsinline preload="auto" '
        f'aria-label="The result"></video><figcaption>Result, synthetic</figcaption></figure></div>'
    )


def _url(path: Path) -> str:
    return escape(f"gradio_api/file={path.as_posix()}")


def curve(opening: list[float]) -> str:
    """How far the lips part over time, as a drawing in the text's colour."""
    width, height, most = 1000, 140, max([0.12, *opening])
    seconds = len(opening) / RATE
    step = width / max(1, len(opening) - 1)
    points = " ".join(
        f"{i * step:.1f},{height * (1 - 0.94 * value / most):.1f}" for i, value in enumerate(opening)
    )
    every = next((gap for gap in (0.2, 0.5, 1, 2, 5, 10, 20, 60) if seconds / gap <= 8), 300)
    marks = [i * every for i in range(1, int(seconds / every) + 1) if i * every < 0.97 * seconds]
    lines = "".join(
        f'<line x1="{m / seconds * width:.1f}" x2="{m / seconds * width:.1f}" y2="{height}"/>' for m in marks
    )
    labels = "".join(f'<span style="left:{m / seconds * 100:.2f}%">{m:g} s</span>' for m in marks)
    return (
        f'<figure class="curve"><figcaption>How far the lips part</figcaption>'
        f'<div class="plot"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="Lip opening over {seconds:.1f} seconds">{lines}'
        f'<polygon points="0,{height} {points} {width},{height}"/><polyline points="{points}"/></svg></div>'
        f'<div class="axis" aria-hidden="true">{labels}</div></figure>'
    )


def summary(made: Made) -> str:
    """The report in a few sentences."""
    told = made.told
    kept = told["frames_without_face"]["count"]
    made_of = (
        f"{told['frames']} frames of {told['width']} × {told['height']} pixels at {told['fps']:g} a second, "
        f"for {told['audio_seconds']:.2f} seconds of speech; made in {clock(told['seconds']['total'])}."
    )
    lacking = [f"{kept} frames show no usable face and stay as they were."] if kept else []
    return "".join(note(line) for line in [made_of, *lacking, *told["notes"]])
