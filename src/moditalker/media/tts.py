"""Speaks typed text, by the system's espeak-ng [ours]."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

from moditalker.errors import UserError

PROGRAM = "espeak-ng"
DEFAULT_VOICE = "en-us"
MAX_CHARACTERS = 5000
TIMEOUT = 60  # s: that many characters take less than one


def available() -> bool:
    """Whether the system has espeak-ng."""
    return shutil.which(PROGRAM) is not None


@cache
def voices() -> dict[str, str]:
    """Voices for `speak` and what they are called, {"en-us": "English (America)"}; none without espeak-ng."""
    if not available():
        return {}
    lines = _run(["--voices"]).splitlines()[1:]  # priority, language, age/gender, name, file, other languages
    rows = [line.split() for line in lines]
    return {row[1]: row[3].replace("_", " ") for row in rows if len(row) > 3}


def speak(text: str, out: str | Path, voice: str = DEFAULT_VOICE) -> None:
    """Say a text into a file of 16-bit WAV.

    Raises:
        UserError: no espeak-ng on this system, no such voice, nothing to say, or more than MAX_CHARACTERS.
    """
    text = text.strip()
    if not available():
        raise UserError(
            f"{PROGRAM} is not on this system; install it (apt install {PROGRAM}), or give a recording"
        )
    if voice not in voices():
        raise UserError(
            f"{PROGRAM} has no voice {voice!r}; `{PROGRAM} --voices` lists them, such as {DEFAULT_VOICE}"
        )
    if not any(map(str.isalnum, text)):
        raise UserError("there is no word in the text; type what the face shall say")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"a text of {len(text)} characters; at most {MAX_CHARACTERS} are spoken at once")
    _run(["-v", voice, "-w", str(Path(out).absolute()), "--stdin"], text)


def _run(arguments: list[str], text: str = "") -> str:
    """The output of espeak-ng. The text is its standard input, so it is never an option or a file."""
    try:
        return subprocess.run(
            [PROGRAM, *arguments],
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{PROGRAM} cannot speak here ({error}); give a recording instead") from error
