"""No file that comes from outside runs code here: what reads pickles, and what is read of them."""

from __future__ import annotations

import ast
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from moditalker.evaluate import known
from moditalker.features.face.identity import FaceFrame
from moditalker.geometry.looks import Identity, look_at
from moditalker.media import Frame

SOURCE = Path(__file__).parents[1] / "src" / "moditalker"
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ALLOWED = {("metrics/lpips.py", "Unpickler"), ("metrics/lpips.py", "UnpicklingError")}
ALLOWED |= {("training/run.py", "UnpicklingError")}


def unpickling(code: str, place: str = "") -> list[str]:
    """Where code could unpickle: uses of pickle's names, torch.load, numpy's allow_pickle, YAML's loaders."""
    found, modules, names = [], dict[str, str](), dict[str, str]()
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(a.asname or a.name): a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names}

    def full(node: ast.expr) -> str:
        """The name that an expression stands for, with what it was imported from."""
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        if isinstance(node, ast.Name):
            return names.get(node.id, modules.get(node.id, node.id))
        return ""

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in PICKLES:
            used = [(alias.name, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Attribute) and full(node.value) in PICKLES:
            used = [(node.attr, full(node))]
        else:
            used = []
        found += [f"{node.lineno}: {name}" for last, name in used if (place, last) not in ALLOWED]
        if not isinstance(node, ast.Call):
            continue
        name, given = full(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in ("torch.load", "torch.serialization.load") and given.get("weights_only") != "True":
            found.append(f"{node.lineno}: {name} without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: {name}, allow_pickle")
        if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
            loader = given.get("Loader", ast.unparse(node.args[1]) if len(node.args) > 1 else "")
            if "Safe" not in loader and not own_safe_loader(tree, loader):
                found.append(f"{node.lineno}: {name}({loader})")
        if name in ("torch.hub.load", "torch.jit.load", "eval", "exec"):
            found.append(f"{node.lineno}: {name}")
    return found


def own_safe_loader(tree: ast.Module, name: str) -> bool:
    """Whether a class of the module is made of YAML's safe loader."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    return any("SafeLoader" in ast.unparse(base) for node in classes for base in node.bases)


def test_nothing_unpickles() -> None:
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 100
    found = {
        place: wrong
        for path in paths
        if (wrong := unpickling(path.read_text("utf-8"), place := path.relative_to(SOURCE).as_posix()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(f)",
        "from pickle import loads",
        "from pickle import Unpickler as U",
        "import pickle\nread = pickle.load",
        "import joblib\njoblib.load('f')",
        "import torch\ntorch.load('f')",
        "import torch\ntorch.load('f', weights_only=False)",
        "import torch\ntorch.load('f', weights_only=maybe)",
        "from torch import load\nload('f')",
        "import torch as t\nt.load('f')",
        "import numpy as np\nnp.load('f', allow_pickle=True)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import yaml\nyaml.unsafe_load(f)",
        "eval('1')",
    ],
)
def test_each_way_to_unpickle_is_found(code: str) -> None:
    assert unpickling(code)


def test_the_one_unpickler_is_allowed_in_its_file_alone() -> None:
    code = "import pickle\nclass A(pickle.Unpickler): pass"
    assert unpickling(code, "metrics/lpips.py") == []
    assert unpickling(code, "metrics/lmd.py")


def test_faces_are_kept_as_arrays(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    picture = chance.integers(0, 256, (96, 96, 3), np.uint8)
    points, matrix = chance.uniform(20, 70, (68, 3)).astype(np.float32), np.eye(2, 3)
    look = look_at(picture, matrix, picture[:64, :64], points[:, :2], 1.5)
    anchor = Identity(
        picture, points[:, :2], points, points.astype(np.float64), (look, look), (1,), (0.25, 0.5)
    )
    frame = Frame(0, Fraction(0), Fraction(1, 25), picture)
    faces = [
        FaceFrame(frame, points, matrix, yaw=np.float64(3.5), cut=True, frontal=points),
        FaceFrame(frame, None, matrix * np.nan, shot=2, strength=0.5),
    ]
    known.keep(tmp_path / "faces.npz", anchor, faces)
    found, seen = known.read(tmp_path / "faces.npz")
    same(found, anchor)
    assert len(seen) == 2
    for one, other in zip(seen, faces, strict=True):
        assert one.frame is None
        same(one, other)


def same(one: object, other: object) -> None:
    """All fields but pictures of the source are the same, to the bit and in kind."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            same(*pair)
    elif hasattr(one, "__dataclass_fields__"):
        for each in fields(one):
            if each.name not in ("frame", "crops"):
                same(getattr(one, each.name), getattr(other, each.name))
    else:
        assert one == other


def test_a_kept_file_with_a_pickle_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path / "ran").touch, ()

    np.savez(tmp_path / "faces.npz", np.array([Runs()], object), tree=np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="allow_pickle"):
        known.read(tmp_path / "faces.npz")
    assert not (tmp_path / "ran").exists()
