"""Weights on disk: what was saved comes back, and a bad file gets its sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moditalker.errors import UserError
from moditalker.weights.files import check_writable, load_weights, save_weights
from moditalker.weights.named import sha256

CONFIG = {"preset": "tiny", "atom": {"width": 8}}


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last)
    shared = torch.randn(5, generator=generator)
    return {
        "weight": weight,
        "a": shared,
        "b": shared,
        "count": torch.tensor(7),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.zeros(0, 2),
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "atom.safetensors"
    digest = save_weights(path, state(), CONFIG, {"task": "atom", "step": 10})
    loaded, description = load_weights(path, sha256=digest)
    assert sha256(path) == digest
    assert loaded.keys() == state().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state().items())
    assert (description["config"], description["task"], description["step"]) == (CONFIG, "atom", 10)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    backwards = dict(reversed(state().items()))
    first = save_weights(tmp_path / "1", state(), CONFIG, {"x": 1, "y": 2})
    assert first == save_weights(tmp_path / "2", backwards, dict(reversed(CONFIG.items())), {"y": 2, "x": 1})


def test_loaded_tensors_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_weights(path, state(), CONFIG)
    loaded, _ = load_weights(path)
    path.write_bytes(b"")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state().items())


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    digest = save_weights(path, state(), CONFIG)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_weights(path, {"other": torch.ones(1)}, CONFIG)
    assert sha256(path) == digest
    assert [file.name for file in tmp_path.iterdir()] == ["w"]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_weights(tmp_path / "nothing")
    good = tmp_path / "good"
    save_weights(good, {"weight": torch.randn(100)}, CONFIG)
    content = good.read_bytes()
    bad = tmp_path / "bad"
    for broken in (b"", content[:50], content[:-10], b"a text, renamed"):
        bad.write_bytes(broken)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            load_weights(bad)
    bad.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="damaged"):
        load_weights(bad)
    with pytest.raises(UserError, match="has SHA-256"):
        load_weights(good, sha256="0" * 64)
    save_file({"weight": torch.ones(1)}, bad)
    with pytest.raises(UserError, match="nothing of its config"):
        load_weights(bad)
    save_file({"weight": torch.ones(1)}, bad, metadata={"moditalker": "[1]"})
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(bad)


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_weights(tmp_path / "file" / "w", state(), CONFIG)
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "file" / "w")
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "w")
    assert not list((tmp_path / "new").iterdir())
