"""The Dockerfile is sound, and its steps, those of docs/install.md, work in an empty environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet

from moditalker.cli.common import app
from moditalker.media import VideoReader
from moditalker.weights.named import ASSETS, MODELS, PORTRAIT, SENTENCE

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}
READ_BY_OTHERS = {"PATH", "HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and what follows it."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n?", "", text)).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    steps, found = instructions(text), []
    found += [f"unknown instruction {name}" for name, _ in steps if name not in KNOWN]
    stages = [rest for name, rest in steps if name == "FROM"]
    for base in (stage.split()[0] for stage in stages):
        if ":" not in base or base.endswith(":latest"):
            found.append(f"{base}: no fixed version")
    last = steps[max(i for i, (name, _) in enumerate(steps) if name == "FROM") :]
    users = [rest for name, rest in last if name == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        found.append("runs as root")
    for name, rest in steps:
        if (
            name == "RUN"
            and re.search(r"\bpip\b.*\b(install|wheel)\b", rest)
            and "--no-cache-dir" not in rest
        ):
            found.append(f"keeps pip's cache: {rest}")
        if name == "RUN" and re.search(r"\b(sudo|curl|wget)\b", rest):
            found.append(f"fetches or escalates: {rest}")
        if name in ("ENV", "ARG") and re.search(r"(?i)password|secret|token|key=", rest):
            found.append(f"a secret: {rest}")
        if name in ("ENTRYPOINT", "CMD"):
            try:
                assert all(isinstance(word, str) for word in json.loads(rest))
            except (ValueError, AssertionError):
                found.append(f"{name} goes through a shell: {rest}")
        if name == "COPY" and not rest.startswith("--from="):
            found += [f"{path} does not exist" for path in rest.split()[:-1] if not (ROOT / path).exists()]
    names = {re.split("[= ]", rest)[0] for name, rest in steps if name == "ARG"}
    names |= set(re.findall(r"(\w+)=", " ".join(rest for name, rest in steps if name == "ENV")))
    used = set(re.findall(r"\$\{?(\w+)", text))
    found += [f"{name} is not set" for name in used - names - {"PATH"}]
    return found + [f"{name} is not used" for name in names - used - READ_BY_OTHERS]


def test_the_dockerfile_is_sound():
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("python:${PYTHON}-slim-bookworm AS", "python AS", "no fixed version"),
        ("USER 1000:1000", "USER root", "runs as root"),
        ("USER 1000:1000\n", "", "runs as root"),
        ("--no-cache-dir --no-deps", "--no-deps", "keeps pip's cache"),
        ("COPY src src", "COPY source src", "source does not exist"),
        ('ENTRYPOINT ["moditalker"]', "ENTRYPOINT moditalker", "goes through a shell"),
        ("ARG PREFIX=/opt/moditalker\n", "", "PREFIX is not set"),
        ("COPY src src", "ADD src src", "unknown instruction ADD"),
        ("COPY src src", "RUN curl -LO x", "fetches"),
        ("COPY src src", "ARG API_TOKEN=1", "a secret"),
    ],
)
def test_faults_of_a_dockerfile_are_found(old, new, says):
    assert old in DOCKERFILE
    assert any(says in fault for fault in faults(DOCKERFILE.replace(old, new)))


def test_the_dockerfile_and_the_project_agree():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (versions,) = re.findall(r'"torch([^"]+)"', project)
    (version,) = re.findall(r"torch==(\S+)\n", DOCKERFILE)
    assert SpecifierSet(versions).contains(version)
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    copied = {
        path
        for name, rest in instructions(DOCKERFILE)
        if name == "COPY" and not rest.startswith("--from=")
        for path in rest.split()[:-1]
    }
    assert copied == set(re.findall(r"(?m)^!(.*)$", kept))
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--build-arg (\w+)=", install)) <= set(re.findall(r"(?m)^ARG (\w+)", DOCKERFILE))


def test_the_compose_file_starts_the_service(tmp_path):
    described = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service = described["services"]["moditalker"]
    command, group = service["command"], typer.main.get_command(app)
    assert command[0] == "serve"
    group.commands["serve"].make_context("serve", command[1:])
    (port,) = service["ports"]
    assert port == f"127.0.0.1:{command[command.index('--port') + 1]}:7860"  # this machine alone
    assert set(described["volumes"]) == {volume.split(":")[0] for volume in service["volumes"]}
    (home,) = re.findall(r"HOME=(\S+)", DOCKERFILE)
    assert [volume.split(":")[1] for volume in service["volumes"]] == [home]  # jobs and keys are below it
    assert "serve]" in DOCKERFILE
    compile(service["healthcheck"]["test"][3], "healthcheck", "exec")


@dataclass
class Image:
    """What a Dockerfile's steps make, below a folder that stands for the file systems of all stages."""

    root: Path
    arguments: dict[str, str]  # --build-arg
    env: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    entry: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """Where a path of the image is."""
        return Path(path) if Path(path).is_relative_to(self.root) else self.root / path.lstrip("/")

    def build(self, text: str) -> None:
        base = self.root / "base"  # in place of the Python of the base image
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        here = {k: v for k, v in os.environ.items() if k.split("_")[0] in ("PIP", "SSL", "REQUESTS")}
        for name, rest in instructions(text):
            if name == "FROM":
                self.env = here | {"PATH": f"{base}/bin:/usr/bin:/bin", "HOME": str(self.root)}
                self.folder = self.root
            elif name == "ARG":
                key, _, value = rest.partition("=")
                self.env[key] = self.arguments.get(key, value)
            elif name == "ENV":
                for key, value in re.findall(r"(\w+)=(\S+)", self.expanded(rest)):
                    self.env[key] = str(self.inside(value)) if key == "HOME" else value
            elif name == "WORKDIR":
                self.folder = self.inside(self.expanded(rest))
                self.folder.mkdir(parents=True, exist_ok=True)
            elif name == "COPY" and not rest.startswith("--from="):  # both stages are in one place
                *sources, target = self.expanded(rest).split()
                for source in sources:
                    goal = self.folder / target / (source if (ROOT / source).is_file() else "")
                    copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                    copy(ROOT / source, goal)
            elif name == "RUN":
                self.run(["bash", "-ec", rest])
            elif name == "ENTRYPOINT":
                self.entry = json.loads(rest)

    def expanded(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda found: self.env[found[1]], text)

    def run(self, command: list[str]) -> str:
        """Run a command there; what it printed."""
        result = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    root = tmp_path_factory.mktemp("image")
    made = Image(root, {"PREFIX": str(root / "opt"), "TORCH_INDEX": ""})
    made.build(DOCKERFILE)
    return made


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(image):
    (wheel,) = (image.root / "build" / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        weights = {path for path in inside if path.endswith(".safetensors")}
        assert weights == {
            path.relative_to(ASSETS.parents[1]).as_posix()
            for folder in (ASSETS, MODELS)
            for path in folder.rglob("*.safetensors")
        }
        for name in weights:
            assert archive.read(name) == (ASSETS.parents[1] / name).read_bytes()
        assert {path.relative_to(ASSETS.parents[1]).as_posix() for path in (PORTRAIT, SENTENCE)} <= inside
        (about,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        shown = archive.read(about).decode()
    assert "moditalker generate person.mp4 speech.wav" in shown
    assert re.search(r"\]\((?!https?:)|<img", shown) is None  # a package index has no docs/
    assert all(name.startswith("moditalker/") for name in inside)
    assert wheel.stat().st_size < 40 << 20


@pytest.mark.slow
def test_what_is_installed_works_from_anywhere(image):
    assert image.entry == ["moditalker"]
    assert "BAD" not in image.run(["moditalker", "doctor"])
    where = image.run(["python", "-c", "import moditalker; print(moditalker.__file__)"])
    assert Path(where.strip()).is_relative_to(image.root / "opt")
    image.run([*image.entry, "generate", "--out", "demo.mp4"])
    assert sum(1 for _ in VideoReader(image.folder / "demo.mp4")) == 115
