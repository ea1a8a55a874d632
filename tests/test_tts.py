"""Typed text becomes sound, and is never obeyed."""

from __future__ import annotations

import pytest

from moditalker.errors import UserError
from moditalker.media import AudioReader, tts


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
