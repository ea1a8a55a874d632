"""Who may import whom (DESIGN: a DAG of levels), read from the source; and what `import moditalker` costs."""

from __future__ import annotations

import ast
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import moditalker
from moditalker.cli.doctor import examine
from moditalker.cli.former import present
from moditalker.errors import UserError
from moditalker.moved import MOVED
from moditalker.weights import named

ROOT = Path(moditalker.__file__).parent
# The rooms from the lowest to the highest; a room knows itself and lower ones.
LEVELS: list[set[str]] = [
    {"errors"},
    {"jobs"},
    {"config", "weights"},
    {"media", "geometry", "diffusion"},
    {"features", "motion", "video"},
    {"provenance", "metrics"},
    {"data", "talker"},
    {"training", "evaluate"},
    {"serve"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
NAMES = {"__init__", "moved"}  # of the package: its public names, and those of version 0.1
FILES = sorted(p for p in ROOT.rglob("*.py") if not (p.parent == ROOT and p.stem in NAMES))
HEAVY = {
    "torch",
    "numpy",
    "av",
    "PIL",
    "typer",
    "rich",
    "yaml",
    "safetensors",
    "transformers",
    "huggingface_hub",
    "c2pa",
    "cryptography",
    "fastapi",
    "pydantic",
}
# Optional and outer packages, each with the only file or package that may import it.
ALONE = {
    "transformers": "features/speech/encoders.py",
    "huggingface_hub": "weights/hub.py",
    "av": "media",
    "typer": "cli",
    "fastapi": "serve",
    "pydantic": "serve",
    "starlette": "serve",
    "uvicorn": "serve/server.py",
    "prometheus_client": "serve/metrics.py",
    "ray": "jobs/pool.py",
    "onnxruntime": "weights/onnx.py",
    "c2pa": "provenance/manifest.py",
    "cryptography": "provenance/credentials.py",
}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Absolute dotted names of everything that a file imports, wherever the statement stands."""
    found = set()
    package = ["moditalker", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            found |= (
                {f"{origin}.{alias.name}" for alias in node.names} if origin == "moditalker" else {origin}
            )
    return found


def ours(path: Path) -> set[str]:
    """Names of ours that a file imports; a public name stands for the module that is its home."""
    names = {name.removeprefix("moditalker.") for name in imports(path) if name.startswith("moditalker.")}
    return {moditalker.HOMES.get(name, name) for name in names}


def test_each_room_knows_lower_rooms_alone():
    rooms = {module(path).split(".")[0] for path in FILES}
    assert rooms == set(LEVEL), "a new room needs its level, see LEVELS"
    upwards = [
        f"{module(path)} imports {name}"
        for path in FILES
        for part in [module(path).split(".")[0]]
        for name in ours(path) - {"__version__"}
        for other in [name.split(".")[0]]
        if other != part and LEVEL[other] >= LEVEL[part]
    ]
    assert upwards == []
    assert sum(len(ours(path)) for path in FILES) > 500  # it did read them


def test_networks_do_not_know_the_diffusion_process():
    knowing = {module(path) for path in FILES if "diffusion.process" in ours(path)}
    rooms = {name for name in knowing if name.split(".")[0] in {"features", "motion", "video", "media"}}
    assert rooms == {"motion.sample", "motion.stage", "video.stage"}


def test_no_cycle_inside_a_package():
    graph = {module(p): {n for n in ours(p) if n != module(p)} for p in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_optional_and_outer_packages_have_one_home():
    for path in FILES:
        for name in imports(path):
            home = ALONE.get(name.split(".")[0])
            assert home is None or path.is_relative_to(ROOT / home), (
                f"{module(path)} imports {name}; its home is {home}"
            )


def test_import_is_light_and_touches_no_file_of_the_package():
    code = (
        "import sys, builtins, io\n"
        "before = set(sys.modules)\n"
        "def refuse(*a, **k): raise AssertionError(f'opened {a[0]}')\n"
        "builtins.open = io.open = refuse\n"
        "import moditalker\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(out.split())


def test_public_names():
    assert set(moditalker.__all__) <= set(dir(moditalker))
    assert all(hasattr(moditalker, name) for name in moditalker.__all__)
    with pytest.raises(AttributeError):
        _ = moditalker.nothing


def test_modules_of_the_last_release_still_import_and_warn():
    for former, homes in MOVED.items():
        sys.modules.pop(f"moditalker.{former}", None)
        with pytest.warns(DeprecationWarning, match=f"moditalker.{homes[0]}"):
            module = import_module(f"moditalker.{former}")
        with pytest.raises(AttributeError):
            _ = module.nothing
    former = import_module("moditalker.pipeline")
    assert former.MoDiTalker is moditalker.MoDiTalker


def test_names_of_the_last_release_still_work_and_say_what_they_are_now(capsys):
    assert present(["demo", "--out", "a.mp4"]) == ["generate", "--out", "a.mp4"]
    assert present(["web", "--port", "8000"]) == ["serve", "--port", "8000"]
    assert present(["convert", "--preset", "released"]) == ["weights", "convert", "--preset", "released"]
    assert present(["evaluate", "pairs", "videos"]) == ["evaluate", "pairs", "videos"]
    assert present(["evaluate", "videos"]) == ["evaluate", "pairs", "videos"]
    assert present(["bench", "--preset=tiny"]) == ["evaluate", "speed", "--model=tiny"]
    told = capsys.readouterr().err
    assert "moditalker demo is now moditalker generate" in told
    assert "--preset is now --model" in told
    with pytest.warns(DeprecationWarning, match="settings= is now overrides="), pytest.raises(UserError):
        moditalker.MoDiTalker.from_pretrained("missing", settings=["atom.width=2"])
    with pytest.raises(TypeError, match="sizes"):
        moditalker.MoDiTalker.from_pretrained("tiny", sizes=1)


def test_the_picture_of_the_rooms_is_up_to_date():
    tools = Path(__file__).parents[1] / "tools"
    draw = runpy.run_path(str(tools / "draw_rooms.py"))
    assert draw["OUT"].read_text(encoding="utf-8") == draw["drawn"](draw["imported"]())
    assert set(draw["WHAT"]) == set(LEVEL) - {"__main__"}


def test_a_new_size_is_a_new_folder(tmp_path, monkeypatch, capsys, shipped):
    shutil.copytree(shipped, tmp_path / "huge")
    monkeypatch.setattr(named, "MODELS", tmp_path)
    assert moditalker.MoDiTalker.from_pretrained("huge").name == "huge"
    assert "weights huge/atom" in {name for name, _, _ in examine()}
    with pytest.raises(UserError, match="or one of: huge"):
        moditalker.MoDiTalker.from_pretrained("tiny")


def test_sample_and_frame_rate_have_one_home():
    written = {
        module(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
        if node.value.value == 16_000 or (node.value.value == 25 and "RATE" in ast.unparse(node))
    }
    assert written == {"config.limits", "media.sound"}
