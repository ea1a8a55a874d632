"""What the documents say is so: commands, options, examples, links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import write_wav
from standins import ASTRONAUT, grid_clip, needs_grid

from moditalker import MoDiTalker, __version__, config
from moditalker.cli import main
from moditalker.media import AudioReader, read_clip

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_index_knows_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, f"docs/README.md lacks {page.name}"


def test_the_command_that_passes_the_tests_is_what_ci_runs():
    command = next(block.strip() for block in blocks("bash") if "pytest" in block)
    venv, activate, install, test = [part.strip() for part in command.split("&&")]
    assert venv.startswith("python3 -m venv")
    assert activate.endswith("/bin/activate")
    assert install.startswith("pip install '.[dev]'")
    lines = CI.splitlines()
    assert lines[-1] == test  # the last word is pytest's own
    assert any(line.startswith("pip install") and "'.[dev]'" in line for line in lines)
    assert "set -euo pipefail" in lines


def moditalker_commands(text: str) -> list[list[str]]:
    """The words of each call of moditalker in the bash blocks of a document."""
    return [
        shlex.split(part)
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S)
        for line in block.splitlines()
        for part in line.split("&&")
        if part.split()[:1] == ["moditalker"]
    ]


@cache
def usage(*command: str) -> str:
    """What a command's --help says."""
    words = [sys.executable, "-m", "moditalker", *command, "--help"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_the_commands_of_the_readme_exist():
    commands = moditalker_commands(README)
    names = {"batch", "dub", "generate", "motion", "prepare", "serve", "train"}
    assert {command[1] for command in commands} == names
    for command in commands:
        assert all(word in usage(command[1]) for word in command if word.startswith("--"))


@pytest.mark.slow
def test_the_commands_on_data_and_weights_exist_and_the_first_runs(tmp_path, monkeypatch, face_video):
    pages = ("docs/data.md", "docs/paper.md", "CONTRIBUTING.md")
    text, *others = [(ROOT / page).read_text(encoding="utf-8") for page in pages]
    commands = moditalker_commands("\n".join([text, *others]))
    assert {command[1] for command in commands} == {"prepare", "train", "weights"}
    for command in commands:
        names = command[1:3] if command[1] == "weights" else command[1:2]
        assert all(word in usage(*names) for word in command if word.startswith("--"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "person.mkv").symlink_to(face_video)
    (split,) = re.findall(r"```json\n(.*?)```", text, flags=re.S)
    (tmp_path / "split.json").write_text(split)
    with pytest.raises(SystemExit) as left:
        main(commands[0][1:])
    assert not left.value.code
    assert (tmp_path / "dataset" / "report.json").is_file()


def test_the_commands_of_the_page_and_the_service_exist():
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("web.md", "server.md")]
    commands = moditalker_commands("".join(pages))
    assert {command[1] for command in commands} == {"serve"}
    options = set(re.findall(r"`(--[\w-]+)`", pages[1]))
    options |= {word for command in commands for word in command if word.startswith("--")}
    assert len(options) > 12
    assert all(word in usage("serve") for word in options)


def test_the_client_of_the_page_on_the_service_has_what_is_shown():
    from moditalker.serve.client import Client

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "server.md").read_text(), flags=re.S)
    compile(code, "server.md", "exec")
    assert all(hasattr(Client, name) for name in re.findall(r"client\.(\w+)\(", code))


@pytest.mark.slow
def test_the_command_of_the_page_on_speed_runs(tmp_path, monkeypatch, shipped, face_video, speech_wav):
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person.mp4").symlink_to(face_video)
    (tmp_path / "speech.wav").symlink_to(speech_wav)
    words = shlex.split(command.replace("30", "1").replace("--repeat 3", f"--model {shipped}"))
    assert words[0] == "moditalker"
    subprocess.run([sys.executable, "-m", *words], capture_output=True, check=True)
    assert (tmp_path / "bench.json").stat().st_size > 1000


@pytest.mark.slow
@needs_grid
def test_the_python_examples_run(tmp_path, monkeypatch, weights, speech_wav):
    whole = MoDiTalker.from_pretrained
    monkeypatch.setattr(
        MoDiTalker, "from_pretrained", lambda name: whole(weights if name == "tiny" else name)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person.mp4").symlink_to(grid_clip())
    (tmp_path / "speech.wav").symlink_to(speech_wav)
    names: dict[str, Any] = {}
    results = []
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), names)
        results.append(read_clip(tmp_path / "talking.mp4"))
    assert len(results) == 2
    # The steps one by one are generate(), before the encoder and after it.
    assert np.array_equal(results[0].frames, results[1].frames)
    assert np.array_equal(results[0].audio, results[1].audio)
    whole_video = names["talker"].generate(face="person.mp4", audio="speech.wav", seed=0)
    for (_, image), (_, other) in zip(whole_video, names["video"], strict=True):
        assert np.array_equal(image, other)


@pytest.mark.slow
def test_the_example_of_motion_tracks_runs(tmp_path, monkeypatch, shipped, face_video, speech_wav):
    whole = MoDiTalker.from_pretrained
    monkeypatch.setattr(MoDiTalker, "from_pretrained", lambda name: whole(shipped))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person.mp4").symlink_to(face_video)
    (tmp_path / "speech.wav").symlink_to(speech_wav)
    text = (ROOT / "docs" / "motion.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(compile(example, "motion.md", "exec"), {})
    assert (tmp_path / "talking.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_the_example_of_streaming_runs(tmp_path, monkeypatch, capsys, shipped, face_video, speech_wav):
    whole = MoDiTalker.from_pretrained
    monkeypatch.setattr(
        MoDiTalker, "from_pretrained", lambda name: whole(shipped if name == "tiny" else name)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person.mp4").symlink_to(face_video)
    (tmp_path / "speech.wav").symlink_to(speech_wav)
    text = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    whole_sound, conversation = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    names: dict[str, Any] = {}
    exec(compile(whole_sound, "streaming.md", "exec"), names)
    assert capsys.readouterr().out == "(14, 256, 256, 3) uint8\n(6, 256, 256, 3) uint8\n"
    exec(compile(conversation, "streaming.md", "exec"), names)
    *shown, dropped = capsys.readouterr().out.splitlines()
    assert len(shown) + int(dropped) == 21  # the sound is 1.02 s long, and a frame is 0.05 s


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_changelog_knows_this_version_or_what_comes():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text or f"## [{__version__}]" in text


def test_versions_agree():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in project
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__


def test_the_issue_forms_are_forms_and_commits_are_checked_as_in_ci():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) > 1
        assert all(field["attributes"]["label"] for field in fields)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in local["hooks"]:
        assert any(line.startswith(hook["entry"]) for line in CI.splitlines())


def test_presets_named_in_the_readme_exist():
    for preset in config.PRESETS:
        assert f"`{preset}`" in README


@pytest.mark.slow
def test_the_commands_of_the_page_on_controls_run(tmp_path, monkeypatch, shipped, face_video, speech_wav):
    text = (ROOT / "docs" / "controls.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    (table,) = re.findall(r"```csv\n(.*?)```", text, flags=re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poses.csv").write_text(table)
    write_wav(tmp_path / "speech.wav", AudioReader(speech_wav).read(0.7))
    for name, target in (
        ("person.png", ASTRONAUT),
        ("person.mp4", face_video),
        ("driver.mp4", face_video),
    ):
        (tmp_path / name).symlink_to(target)
    for line in block.splitlines():
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line)[1:], "--model", str(shipped)])
        assert ended.value.code == 0
        assert (tmp_path / "talking.mp4").stat().st_size > 1000
        (tmp_path / "talking.mp4").unlink()
