"""`moditalker batch`: what is done stays, what failed is tried again, and a jobs file can do no harm."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import psutil
import pytest
from conftest import write_wav
from standins import ASTRONAUT

from moditalker import cli
from moditalker.cli.batch import Common, Entry, _identity, _is_to_do, _record
from moditalker.cli.jobs import MAX_NAME, read_jobs
from moditalker.errors import UserError
from moditalker.media import AudioReader, VideoReader
from moditalker.weights.named import ASSETS

FRAMES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small portrait, FRAMES frames of speech, and a sound without a sample."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("jobs")
    Image.open(ASTRONAUT).crop((60, 0, 380, 320)).resize((160, 160)).save(folder / "face.png")
    speech = AudioReader(ASSETS / "demo_speech.flac").read(FRAMES / 25)
    write_wav(folder / "speech.wav", speech)
    write_wav(folder / "empty.wav", speech[:0])
    return folder


@pytest.fixture
def batch(capsys, shipped):
    """`moditalker batch` with small untrained weights, in this process but for its workers."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(["batch", *map(str, arguments), "--model", str(shipped)])
        return (int(left.value.code or 0), *capsys.readouterr())

    return run


def write_csv(path: Path, columns: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def state(out: Path) -> dict[str, int]:
    """Each file of a folder and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


@pytest.mark.slow
def test_three_of_ten_are_broken(folder, batch, tmp_path):
    rows = [["face.png", "speech.wav", f"v{seed:02}", seed] for seed in range(10)]
    rows[3][0], rows[8][1], rows[9][2] = "missing.png", "empty.wav", "../escaped"
    jobs, out = write_csv(folder / "jobs.csv", ["face", "audio", "name", "seed"], rows), tmp_path / "out"
    code, table, errors = batch(jobs, "--out", out, "--workers", 2)

    made = [f"v{seed:02}.mp4" for seed in range(10) if seed not in (3, 8, 9)]
    assert code == 1
    assert sorted(path.name for path in out.glob("*.mp4")) == made
    assert all(VideoReader(out / name).info.frames == FRAMES for name in made)
    assert not list(out.glob(".*"))
    assert not list(tmp_path.rglob("*escaped*"))
    told = [line for line in table.splitlines() if line.startswith("line ") and ": " in line]
    assert [line.split(": ")[0] for line in told] == ["line 5", "line 10", "line 11"]
    assert "no such file" in told[0]
    assert "at least 0.04 s" in told[1]
    assert "a file name without folders" in told[2]
    assert "Traceback" not in errors
    assert errors.count("note: speech.wav: its pcm_s16le sound is encoded as AAC") == len(made)
    summary = json.loads((out / "batch.json").read_text())
    assert (summary["made"], summary["failed"], len(summary["videos"])) == (7, 3, 10)
    assert [v["error"] == "" for v in summary["videos"]] == [i not in (3, 8, 9) for i in range(10)]

    before = state(out)
    code, table, errors = batch(jobs, "--out", out)
    summary, after = json.loads((out / "batch.json").read_text()), state(out)
    assert (code, summary["skipped"], summary["failed"], summary["made"]) == (1, 7, 3, 0)
    assert {name for name in after if after[name] != before[name]} == {
        "batch.json",
        "v03.mp4.json",
        "v08.mp4.json",
    }


def test_a_batch_makes_what_generate_makes(folder, batch, tmp_path, shipped):
    jobs = tmp_path / "jobs.jsonl"
    job = {"face": str(folder / "face.png"), "audio": str(folder / "speech.wav"), "seed": 3, "mouth_gain": 2}
    jobs.write_text(json.dumps(job | {"lossless": True}) + "\n")
    assert batch(jobs, "--out", tmp_path / "out")[0] == 0
    same = tmp_path / "same.mp4"
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in job.items()]
    with pytest.raises(SystemExit):
        cli.main(["generate", *arguments, "--lossless", f"--out={same}", f"--model={shipped}"])
    frames = [
        [frame.to_ndarray().tobytes() for frame in av.open(str(path)).decode(video=0)]
        for path in (same, tmp_path / "out" / "face-speech.mp4")
    ]
    assert frames[0] == frames[1]


@pytest.mark.slow
def test_what_changed_is_made_again_and_strangers_are_left_alone(folder, batch, tmp_path):
    (tmp_path / "speech.wav").write_bytes((folder / "speech.wav").read_bytes())
    face, out = str(folder / "face.png"), tmp_path / "out"
    jobs = tmp_path / "jobs.csv"
    columns = ["face", "audio", "name", "seed"]
    write_csv(jobs, columns, [[face, "speech.wav", "a", 0], [face, "speech.wav", "b", 0]])
    assert batch(jobs, "--out", out)[0] == 0
    first = state(out)
    write_csv(
        jobs,
        columns,
        [[face, "speech.wav", "a", 1], [face, "speech.wav", "b", 0], [face, "speech.wav", "c", 0]],
    )
    (out / "c.mp4").write_bytes(b"somebody's")
    code, table, _ = batch(jobs, "--out", out)
    assert code == 1
    assert "c.mp4 was there before" in table
    assert (out / "c.mp4").read_bytes() == b"somebody's"
    changed = {name for name, when in state(out).items() if first.get(name) != when}
    assert changed == {"a.mp4", "a.mp4.json", "c.mp4", "batch.json"}
    (out / "c.mp4").unlink()
    os.utime(tmp_path / "speech.wav", ns=(1, 1))  # the input is another one now
    code, table, _ = batch(jobs, "--out", out)
    assert json.loads((out / "batch.json").read_text())["made"] == 3


def test_the_weights_are_part_of_what_a_video_was_made_of(tmp_path):
    (job,) = read_jobs(write_csv(tmp_path / "jobs.csv", ["face", "audio"], [["f.png", "a.wav"]]))
    common = Common(tmp_path, "tiny", "cpu", {"atom.safetensors": "1"})
    video, entry = tmp_path / job.name, Entry(job.place, job.name)
    video.touch()
    _record(video, _identity(job, common), "made")
    assert not _is_to_do(job, common, entry)
    assert entry.state == "skipped"
    for change in ({"model": "other"}, {"device": "cuda"}, {"weights": {"atom.safetensors": "2"}}):
        assert _is_to_do(job, replace(common, **change), Entry(job.place, job.name))


@pytest.mark.parametrize("there", [{"frames": 2, "state": "done"}, {"state": "made"}, {"job": {}}, [1], "x"])
def test_only_a_record_is_a_record(tmp_path, there):
    """A report of `moditalker generate` may lie beside its video under the same name."""
    (job,) = read_jobs(write_csv(tmp_path / "jobs.csv", ["face", "audio"], [["f.png", "a.wav"]]))
    video, entry = tmp_path / job.name, Entry(job.place, job.name)
    record = tmp_path / f"{job.name}.json"
    record.write_text(json.dumps(there))
    for exists in (False, True):
        assert not _is_to_do(job, Common(tmp_path, "tiny", "cpu", {}), entry)
        assert (entry.state, entry.error.split(" was there")[0]) == ("failed", str(record)), exists
        video.touch()


def test_the_output_folder_may_be_no_file(folder, batch, tmp_path):
    jobs = write_csv(tmp_path / "jobs.csv", ["face", "audio"], [["f.png", "a.wav"]])
    code, _, errors = batch(jobs, "--out", folder / "speech.wav")
    assert code == 2
    assert "speech.wav: is a file; give a folder" in errors


def writer(part: Path) -> int:
    """The process that writes, as the unfinished file's name has it."""
    return int(part.name.split(".")[-3].partition("-")[0])


@pytest.mark.slow
def test_killed_workers_are_replaced_and_leave_nothing_half_written(folder, tmp_path, shipped):
    rows = [["face.png", "speech.wav", f"v{i}"] for i in range(8)]
    jobs = write_csv(folder / "killed.csv", ["face", "audio", "name"], rows)
    out = tmp_path / "out"
    command = ["batch", jobs, "--out", out, "--workers", "1", "--model", shipped]
    process = subprocess.Popen([sys.executable, "-m", "moditalker", *map(str, command)])
    killed: set[int] = set()
    while process.poll() is None:
        parts = list(out.glob(".*.part.mp4")) if out.is_dir() else []
        pids = {writer(part) for part in parts} - killed
        if pids and len(killed) < 2:
            assert {child.pid for child in psutil.Process(process.pid).children()} >= pids
            os.kill(pids.pop(), signal.SIGKILL)
            killed |= {writer(part) for part in parts}
        time.sleep(0.005)
    assert len(killed) == 2
    summary = json.loads((out / "batch.json").read_text())
    # A kill may hit the same job twice: that one is told, and all others are made.
    assert summary["made"] + summary["failed"] == 8
    assert summary["made"] >= 7
    assert all(VideoReader(path).info.frames == FRAMES for path in out.glob("*.mp4"))
    assert len(list(out.glob("*.mp4"))) == summary["made"]
    assert summary["failed"] or not list(out.glob(".*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Ray's own
def test_a_batch_on_a_cluster(folder, batch, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    rows = [["face.png", "speech.wav", f"v{i}"] for i in range(4)] + [["no.png", "speech.wav", "v4"]]
    jobs = write_csv(folder / "cluster.csv", ["face", "audio", "name"], rows)
    assert batch(jobs, "--out", tmp_path / "out", "--workers", 2, "--cluster", "local")[0] == 1
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 4


@pytest.mark.parametrize(
    "name",
    [
        "../up",
        "/tmp/root",
        "a/b",
        "a\\b",
        "..",
        ".hidden",
        "-rf",
        "a\nb",
        "a\x00b",
        "a\x1b[31m",
        "a.txt",
        "con",
        "NUL.mp4",
        "x" * MAX_NAME,
        "a:b",
        "a*",
        "~root",
        "$(id)",
    ],
)
def test_names_that_are_none(tmp_path, name):
    line = json.dumps({"face": "f.png", "audio": "a.wav", "name": name})
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(line)
    (job,) = read_jobs(jobs)
    assert "name" in job.error


def test_names_that_are(tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    names = ["a", "Ünïcode 2.mov", "x.v2.mkv", "7", 7.5, None, None, "A.mp4"]
    jobs.write_text("\n".join(json.dumps({"face": "f/p q.png", "audio": "é.wav", "name": n}) for n in names))
    found = read_jobs(jobs)
    assert [job.name for job in found if not job.error] == [
        "a.mp4",
        "Ünïcode 2.mov",
        "x.v2.mkv",
        "7.mp4",
        "p_q-é.mp4",
    ]
    assert "that of line 6 already" in found[6].error
    assert "that of line 1 already" in found[7].error
    assert found[0].inputs == (tmp_path / "f" / "p q.png", tmp_path / "é.wav")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not one JSON object"),
        ("[" * 100_000, "not one JSON object"),
        ("[1]", "not one JSON object"),
        ('{"audio": "a.wav"}', "there is no face"),
        ('{"face": "", "audio": "a.wav"}', "there is no face"),
        ('{"face": "f", "audio": "a", "out": "/etc/x.mp4"}', "'out' is not known"),
        ('{"face": "f", "audio": "a", "report": "/etc/x"}', "'report' is not known"),
        ('{"face": "f", "audio": "a", "seed": -1}', "--seed"),
        ('{"face": "f", "audio": "a", "seed": "0 --out=/etc/x.mp4"}', "--seed"),
        ('{"face": "f", "audio": "a", "extend": "never"}', "--extend"),
        ('{"face": "f", "audio": "a", "lossless": "maybe"}', "true or false"),
        ('{"face": ["f"], "audio": "a"}', "text or a number"),
        (r'{"face": "f\u0000", "audio": "a"}', "holds a character that no file"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, line, says):
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"face": "f.png", "audio": "a.wav"}\n' + line)
    good, bad = read_jobs(jobs)
    assert good.error == ""
    assert says in bad.error
    assert bad.place == "line 2"


@pytest.mark.parametrize(
    "content",
    [
        "face;audio;mouth_gain\nf.png;a.wav;1,5\n",
        "Face,AUDIO, Mouth Gain\r\nf.png,a.wav,1.5\r\n",
        "face\taudio\tmouth-gain\nf.png\ta.wav\t1.5\n",
        "sep=;\nFace;Audio;Mouth_Gain\nf.png;a.wav;1.5\n",
        "face;audio;mouth_gain;;\nf.png;a.wav;1,5;;\n;;;;\n",
        "\ufeffFACE;AUDIO;MOUTH_GAIN\nf.png;a.wav;1,5\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_of_office_programs_are_taken(tmp_path, content, encoding):
    (tmp_path / "jobs.csv").write_bytes(content.encode(encoding))
    (job,) = read_jobs(tmp_path / "jobs.csv")
    assert job.error == ""
    assert job.arguments[2:] == ("--mouth-gain=1.5",)
    assert job.place == ("line 3" if content.startswith("sep=") else "line 2")


def test_options_of_generate_are_columns(tmp_path):
    jobs = tmp_path / "jobs.csv"
    jobs.write_text('\ufeffface,audio,lossless,steps,choose\nf.png,--out=x,yes,,"1,2"\nf.png,b.wav,no,3,0\n')
    first, second = read_jobs(jobs)
    assert first.arguments == (
        f"--face={tmp_path / 'f.png'}",
        f"--audio={tmp_path / '--out=x'}",
        "--lossless",
        "--choose=1,2",
    )
    assert second.arguments[2:] == ("--steps=3", "--choose=0")


def test_files_of_options_are_inputs_too(tmp_path):
    (tmp_path / "nod.csv").touch()
    (tmp_path / "jobs.jsonl").write_text(
        '{"face": "f.png", "audio": "a.wav", "head": "still", "name": "a"}\n'
        '{"face": "f.png", "audio": "a.wav", "head": "nod.csv", "weights": "w.safetensors", "name": "b"}\n'
    )
    first, second = read_jobs(tmp_path / "jobs.jsonl")
    assert first.arguments[2] == "--head=still"
    assert second.arguments[2:] == (
        f"--head={tmp_path / 'nod.csv'}",
        f"--weights={tmp_path / 'w.safetensors'}",
    )
    assert len(second.inputs) == 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("jobs.txt", b"x", "a .csv or .jsonl file"),
        ("jobs.csv", b"", "there is no job"),
        ("jobs.csv", b"face,audio\n", "there is no job"),
        ("jobs.csv", b"face,sound\na,b\n", "column 'sound' is not known"),
        ("jobs.csv", b'face,audio\n"a,b\n', "is not CSV"),
        ("jobs.csv", b"face,audio,seed,seed\na,b,1,2\n", "two columns 'seed'"),
        ("jobs.csv", b"\xff\xfe\x00", "not a text file in UTF-8"),
        ("jobs.jsonl", b"\n\n", "there is no job"),
        ("none.csv", None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_jobs(tmp_path / name)


def test_the_lists_of_the_documentation_can_be_used(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "batch.md").read_text(encoding="utf-8")
    for kind in ("csv", "jsonl"):
        (example,) = re.findall(rf"```{kind}\n(.*?)```", text, flags=re.S)
        (tmp_path / f"jobs.{kind}").write_text(example, encoding="utf-8")
        jobs = read_jobs(tmp_path / f"jobs.{kind}")
        assert [job.error for job in jobs] == [""] * len(jobs)
        assert (jobs[0].name, jobs[-1].name) == ("anna-hello.mp4", "ben-hello.mp4")
