"""The command line, in processes of its own: exit codes, one sentence for a mistake, never a traceback."""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from standins import ASTRONAUT

from moditalker import MoDiTalker, cli, config
from moditalker.cli.common import parse_choice, progress_bar
from moditalker.cli.generate import free, generate
from moditalker.errors import UserError
from moditalker.media import AudioReader, read_clip
from moditalker.motion.track import Track
from moditalker.talker.options import Options


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`moditalker ARGUMENTS` in this process; what is no exit escapes as it is, and fails the test."""

    def command(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(int(left.value.code or 0), out, err)

    return command


def sentence(result: Result) -> str:
    """The one line that a mistake is answered with."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("moditalker: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_as_a_process_of_its_own():
    command = [sys.executable, "-W", "error", "-m", "moditalker"]
    good = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=120)
    assert (good.returncode, good.stdout.split()[0]) == (0, "moditalker")
    bad = subprocess.run([*command, "config", "--preset", "x"], capture_output=True, text=True, timeout=120)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("moditalker: preset 'x' does not exist")
    assert len(bad.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGINT, "moditalker: interrupted"),
        pytest.param(signal.SIGTERM, "", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_it_and_leaves_nothing_half_written(number, says, speech_wav, tmp_path, shipped):
    sound = write_wav(tmp_path / "long.wav", np.tile(AudioReader(speech_wav).read(), 60))
    command = ["generate", "--face", ASTRONAUT, "--audio", sound, "--out", tmp_path / "out" / "o.mp4"]
    (out := tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "moditalker", *map(str, command), "--model", str(shipped)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(out.glob(".*.part.mp4")):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not list(out.iterdir())
    lines = [line for line in errors.splitlines() if not line.startswith(("looking", "generating"))]
    assert lines[-1:] == ([says] if says else [])


def test_help_names_every_option_of_the_main_job(run):
    text = run("generate", "--help").stdout
    names = (
        "face",
        "audio",
        "out",
        "model",
        "seed",
        "steps",
        "quality",
        "lossless",
        "report",
        "device",
        "extend",
        "choose",
    )
    assert all(f"--{name}" in text for name in names)
    assert "back and forth" in re.sub(r"\W+", " ", text)
    assert "generate" in run("--help").stdout


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys, moditalker.cli; print('torch' in sys.modules, 'av' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_config_prints_what_load_reads(run, tmp_path):
    result = run("config", "--preset", "tiny", "--set", "atom.layers=2")
    assert result.returncode == 0
    file = tmp_path / "c.yaml"
    file.write_text(result.stdout)
    assert config.load(file=file) == config.load("tiny", overrides=["atom.layers=2"])
    assert "nearest known key is atom.layers" in sentence(run("config", "--set", "atom.layrs=2"))


def test_config_shows_what_the_default_model_runs_with(run, tmp_path, weights):
    file = tmp_path / "c.yaml"
    file.write_text(run("config", "--model", weights).stdout)
    assert config.load(file=file) == MoDiTalker.from_pretrained(weights).config
    assert "give one" in sentence(run("config", "--model", weights, "--preset", "live"))


@pytest.mark.parametrize(
    ("text", "choice"), [("largest", "largest"), ("0", 0), ("2", 2), ("100,50.5", (100.0, 50.5))]
)
def test_choices_of_a_face(text, choice):
    assert parse_choice(text) == choice


@pytest.mark.parametrize("text", ["", "biggest", "1,2,3", "-1", "1.5", "nan,nan", "1e400,2"])
def test_choices_that_are_none(text):
    with pytest.raises(UserError, match="is expected"):
        parse_choice(text)


def test_a_missing_option_is_an_error_of_use(run):
    assert run("generate", "--face", "a.png").returncode == 2


@pytest.mark.parametrize("seed", ["-1", str(2**63), "9" * 30])
def test_a_seed_out_of_bounds_is_an_error_of_use(run, seed, tmp_path):
    inputs = ["--face", "f.png", "--audio", "a.wav", "--out", tmp_path / "o.mp4", "--seed", seed]
    assert "Invalid value for '--seed'" in run("generate", *inputs).stderr


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("broken")
    files = {
        name: folder / name
        for name in ("empty.mp4", "text.mp4", "short.wav", "none.wav", "dot.png", "grey.png")
    }
    files["empty.mp4"].touch()
    files["text.mp4"].write_text("this is not a video\n" * 20)
    write_wav(files["short.wav"], np.zeros(160))
    write_wav(files["none.wav"], np.zeros(0))
    Image.new("RGB", (1, 1)).save(files["dot.png"])
    Image.new("RGB", (300, 300), "grey").save(files["grey.png"])
    return files


@pytest.mark.parametrize(
    ("face", "audio", "says"),
    [
        ("missing.mp4", "speech", "no such file"),
        ("empty.mp4", "speech", "empty"),
        ("text.mp4", "speech", "cannot be read"),
        ("dot.png", "speech", "1x1"),
        ("grey.png", "speech", "no face was found in the picture"),
        ("astronaut", "missing.wav", "no such file"),
        ("astronaut", "short.wav", "at least 0.04 s"),
        ("astronaut", "none.wav", "at least 0.04 s"),
        ("astronaut", "astronaut", "no sound"),
    ],
)
def test_broken_inputs_get_their_sentence(run, face, audio, says, broken, speech_wav, tmp_path, shipped):
    files = {"astronaut": ASTRONAUT, "speech": speech_wav, **broken}
    out = tmp_path / "out.mp4"
    result = run(
        "generate",
        "--face",
        files.get(face, face),
        "--audio",
        files.get(audio, audio),
        "--out",
        out,
        "--model",
        shipped,
    )
    assert says in sentence(result)
    assert not list(tmp_path.iterdir())


def test_the_result_must_be_a_video_in_a_folder_that_is_there(run, speech_wav, tmp_path, shipped):
    inputs = ["generate", "--face", ASTRONAUT, "--audio", speech_wav, "--model", shipped]
    assert "choose one of these endings" in sentence(run(*inputs, "--out", tmp_path / "out.txt"))
    assert "folder does not exist" in sentence(run(*inputs, "--out", tmp_path / "no" / "out.mp4"))
    assert "weights 'huge' do not exist" in sentence(run(*inputs[:-1], "huge", "--out", tmp_path / "o.mp4"))


def test_notes_are_lines_on_the_terminal(tmp_path, capsys):
    from moditalker.cli.common import report_video

    result = {
        "notes": ["a.mp4: 22 of the 60 frames it declares could be decoded.", "b\x1b[2J.mp4: HDR."],
        "frames_without_face": {"count": 0},
        "frames": 60,
        "fps": 25.0,
        "width": 64,
        "height": 48,
        "audio_seconds": 2.4,
        "seconds": {"total": 1.0},
    }
    report_video(tmp_path / "x.mp4", result, None)
    output, errors = capsys.readouterr()
    assert errors.splitlines() == [
        "note: a.mp4: 22 of the 60 frames it declares could be decoded.",
        "note: b\\x1b[2J.mp4: HDR.",
    ]
    assert "60 frames" in output


def test_files_go_without_their_options(run, speech_wav, tmp_path, shipped, monkeypatch):
    (tmp_path / "in").mkdir()
    face = tmp_path / "in" / "person.png"
    face.write_bytes(Path(ASTRONAUT).read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person-talking.mp4").write_bytes(b"taken")
    first = run("generate", face, speech_wav, "--model", shipped)
    assert first.stdout.startswith("person-talking-2.mp4: ")
    second = run("generate", speech_wav, "--face", face, "--model", shipped, "--out", "named.mp4")
    assert second.stdout.startswith("named.mp4: ")
    assert read_clip("named.mp4").frames.shape == read_clip("person-talking-2.mp4").frames.shape
    assert (tmp_path / "person-talking.mp4").read_bytes() == b"taken"
    lines = [line for line in first.stderr.splitlines() if not line.startswith("note: ")]
    assert [line.split(":")[1].split("(")[0].strip() for line in lines if line.startswith("generating")] == [
        f"{tenth} %" for tenth in range(10, 101, 10)
    ]
    assert len(first.stdout.splitlines()) == 1


def test_the_quality_of_the_file(run, speech_wav, tmp_path):
    inputs = ["generate", ASTRONAUT, speech_wav, "--out", tmp_path / "o.mp4"]
    for value in ("41", "-1", "nan"):
        assert "must be a number from 0 (best) to 40" in sentence(run(*inputs, "--quality", value))
    assert not list(tmp_path.glob("o*"))
    assert inspect.signature(generate).parameters["quality"].default == Options().quality


def test_files_that_are_missing_or_too_many(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--audio: is missing" in sentence(run("generate", "a.png"))
    assert "--face: is missing" in sentence(run("generate", "--audio", "a.wav"))
    assert "go with --text" in sentence(run("generate", "a.png", "b.wav", "--voice", "en"))
    assert "c.wav: is one file too many" in sentence(run("generate", "a.png", "b.wav", "c.wav"))
    assert "b.wav: is one file too many" in sentence(
        run("generate", "b.wav", "--face", "a.png", "--audio", "c.wav")
    )


def test_a_name_that_no_file_has(tmp_path):
    assert free(tmp_path / "a.mp4") == tmp_path / "a.mp4"
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a-2.mp4").symlink_to(tmp_path / "gone.mp4")
    assert free(tmp_path / "a.mp4") == tmp_path / "a-3.mp4"


def test_progress_without_a_terminal_is_a_line_for_each_tenth(capsys):
    with progress_bar("videos") as show:
        show("opening", 0, 1)
        for done in range(101):
            show("looking", done, 100)
        show("making", 0, 0)
        for done in range(4):
            show("making", done, 3)
    output, errors = capsys.readouterr()
    first, *lines = errors.splitlines()
    assert first == "opening ..."
    assert output == ""
    assert lines[:10] == [f"looking: {n} % ({n}/100 videos)" for n in range(10, 101, 10)]
    assert lines[10:] == [
        "making: 30 % (1/3 videos)",
        "making: 60 % (2/3 videos)",
        "making: 100 % (3/3 videos)",
    ]


def test_no_output_takes_the_place_of_a_file(run, tmp_path):
    names = ("f.mp4", "s.wav", "w.safetensors", "po.csv", "c.pem", "k.pem", "mtov.safetensors", "t.json")
    files = {name: tmp_path / name for name in names}
    for path in files.values():
        path.write_bytes(b"taken")
    Track(np.zeros((68, 3), np.float32), np.zeros((2, 68, 3), np.float32)).save(files["t.json"])
    before = {path: path.read_bytes() for path in files.values()}
    (linked := tmp_path / "linked.wav").hardlink_to(files["s.wav"])
    common = ["--face", files["f.mp4"], "--audio", files["s.wav"], "--model", tmp_path]
    common += ["--weights", files["w.safetensors"], "--head", files["po.csv"]]
    common += ["--certificate", files["c.pem"], "--key", files["k.pem"], "--out"]
    out = tmp_path / "o.mp4"
    for name in [name for name in names if name != "t.json"]:
        result = run("generate", *common, out, "--report", files[name])
        assert sentence(result).startswith(f"moditalker: --report {files[name]}: is one of the inputs")
    assert "--report" in sentence(run("generate", *common, out, "--report", linked))
    assert "--report" in sentence(run("generate", *common, out, "--report", out))
    assert "is a folder" in sentence(run("generate", *common, out, "--report", tmp_path))
    assert "--out" in sentence(run("generate", *common, files["f.mp4"]))
    motion = ["--motion", files["t.json"]]
    assert "--report" in sentence(run("generate", *common, out, *motion, "--report", files["t.json"]))
    assert "--json" in sentence(run("evaluate", "speed", *common[:4], "--json", files["s.wav"]))
    assert {path: path.read_bytes() for path in files.values()} == before
