"""Speaks typed text, by a voice that the user gave (`media.voices`) or the system's espeak-ng [ours]."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np

from moditalker.errors import UserError
from moditalker.media import voices as given
from moditalker.media.sound import write_wav

PROGRAM = "espeak-ng"
DEFAULT_VOICE = "en-us"
MAX_CHARACTERS = 5000
TIMEOUT = 60  # s: that many characters take less than one


def available() -> bool:
    """Whether the system has espeak-ng."""
    return shutil.which(PROGRAM) is not None


def voices() -> dict[str, str]:
    """Voices for `speak` and what they are called, {"en-us": "English (America)"}; none without espeak-ng."""
    kept = given.kept() if available() else {}
    return {name: f"{name} ({given.language(path)})" for name, path in kept.items()} | _system_voices()


@cache
def _system_voices() -> dict[str, str]:
    if not available():
        return {}
    lines = _run(["--voices"]).splitlines()[1:]  # priority, language, age/gender, name, file, other languages
    rows = [line.split() for line in lines]
    return {row[1]: row[3].replace("_", " ") for row in rows if len(row) > 3}


def chosen_voice(voice: str = "", lang: str = "") -> str:
    """The voice of these names: the one named, else a given one of the language, else espeak-ng's.

    Raises:
        UserError: no such voice; none of this language; both are named.
    """
    if voice and lang:
        raise UserError(
            f"voice {voice:.40} and lang {lang:.40}: a voice has its language; give one of the two"
        )
    if voice and voice not in voices():
        raise UserError(
            f"there is no voice {voice!r:.60}; `moditalker weights list` names those that were given, "
            f"`{PROGRAM} --voices` the others, such as {DEFAULT_VOICE}"
        )
    wanted = lang.lower().replace("_", "-")
    of_it = (n for n, p in given.kept().items() if _speaks(given.language(p), wanted or DEFAULT_VOICE[:2]))
    if voice or (voice := next(of_it, "")):
        return voice
    if not wanted:
        return DEFAULT_VOICE
    usual = wanted, f"{wanted}-{wanted}", DEFAULT_VOICE
    names = [*(n for n in usual if n in _system_voices()), *_system_voices()]
    found = next((name for name in names if _speaks(name, wanted)), "")
    if not found:
        raise UserError(
            f"no voice speaks {lang!r:.40}; `{PROGRAM} --voices` lists languages, such as en or de"
        )
    return found


def _speaks(language: str, wanted: str) -> bool:
    return language.lower() == wanted or language.lower().startswith(f"{wanted}-")


def speak(text: str, out: str | Path, voice: str = "", lang: str = "", seed: int = 0) -> None:
    """Say a text into a file of 16-bit WAV.

    voice: of `voices`; "": one that the user gave, if it speaks the language, else espeak-ng's. lang:
    the language, such as "en" or "de", in place of a voice. seed: the same gives the same sound.

    Raises:
        UserError: no espeak-ng on this system, no such voice or language, nothing to say, or more than
            MAX_CHARACTERS.
    """
    text = text.strip()
    if not available():
        raise UserError(
            f"{PROGRAM} is not on this system; install it (apt install {PROGRAM}), or give a recording"
        )
    voice = chosen_voice(voice, lang)
    if not any(map(str.isalnum, text)):
        raise UserError("there is no word in the text; type what the face shall say")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"a text of {len(text)} characters; at most {MAX_CHARACTERS} are spoken at once")
    if (path := given.kept().get(voice)) is None:
        _run(["-v", voice, "-w", str(Path(out).absolute()), "--stdin"], text)
        return
    network = given.Voice(path, seed)

    def phonemes(clause: str) -> str:
        said = " ".join(_run(["-q", "--ipa", "-v", network.language, "--stdin"], clause).split())
        return unicodedata.normalize("NFD", re.sub(r"\([\w-]+\)", "", said))  # without names of languages

    samples = network.heard(list(network.sentences(text, phonemes)))
    write_wav(Path(out), np.asarray(samples), network.rate)


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
