"""Who may import whom (DESIGN: a DAG of levels), read from the source; and what `import moditalker` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import moditalker

ROOT = Path(moditalker.__file__).parent
LEVELS: list[set[str]] = [
    {"errors"},
    {"folders", "limits", "names", "office", "weights", "workers"},
    {"config"},
    {"media", "landmarks", "layers", "diffusion", "checkpoint", "streams", "machine", "shards", "tts"},
    {"looks"},
    {"arriving", "features", "motion", "video", "provenance"},
    {"rendering", "metrics"},
    {"data", "prepare", "pipeline", "convert", "verify"},
    {"training", "evaluate", "bench", "competitors"},
    {"web", "tables"},
    {"benchmark"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")
HEAVY = {
    "torch",
    "numpy",
    "av",
    "PIL",
    "typer",
    "rich",
    "yaml",
    "safetensors",
    "skimage",
    "transformers",
    "c2pa",
    "cryptography",
    "gradio",
}
# Optional and outer packages, each with the only file or package that may import it.
ALONE = {
    "transformers": "features/speech.py",
    "av": "media",
    "typer": "cli",
    "skimage": "cli/generate.py",
    "gradio": "web/page.py",
    "ray": "workers.py",
    "onnxruntime": "metrics/onnx_network.py",
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
    return {name.removeprefix("moditalker.") for name in imports(path) if name.startswith("moditalker.")}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_downwards(path):
    part = module(path).split(".")[0]
    assert part in LEVEL, f"{part} has no level yet: see LEVELS in this file"
    for name in ours(path) - {"__version__"}:
        other = name.split(".")[0]
        assert other in LEVEL, f"{module(path)} imports moditalker.{name}, which has no level"
        assert other == part or LEVEL[other] < LEVEL[part], f"{module(path)} imports moditalker.{name}"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_networks_do_not_know_the_diffusion_process(path):
    if path.parent.name in {"arriving", "features", "motion", "video"} and path.stem != "sample":
        assert "diffusion" not in ours(path)


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
