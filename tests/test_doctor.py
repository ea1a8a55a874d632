"""`moditalker doctor`: in order here; a missing encoder or damaged weights are told, all in one go."""

from __future__ import annotations

import hashlib

import pytest

from moditalker import media
from moditalker.cli.doctor import doctor
from moditalker.errors import UserError
from moditalker.weights import named


def test_in_order(capsys):
    doctor()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    expected = {f"weights {name}" for name in [*named.NAMED, "tiny/atom", "tiny/mtov"]}
    assert expected <= {line[4:].split(":")[0] for line in lines}
    digest = hashlib.sha256((named.MODELS / "tiny" / "mtov.safetensors").read_bytes()).hexdigest()
    assert f"ok  weights tiny/mtov: SHA-256 {digest}" in lines


def test_every_fault_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "moditalker").mkdir()
    (tmp_path / "moditalker" / "signer.pem").write_text("no key")
    for entry in named.NAMED.values():
        (tmp_path / entry.file).write_bytes(b"damaged")
    whole = bytearray((named.MODELS / "tiny" / "atom.safetensors").read_bytes())
    whole[-1] ^= 1  # and mtov.safetensors is missing
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "atom.safetensors").write_bytes(whole)
    named.find.cache_clear()
    monkeypatch.setattr(named, "MODELS", tmp_path)
    monkeypatch.setattr(named, "ASSETS", tmp_path)
    monkeypatch.setattr(media, "ENCODERS", ("no-such-encoder",))
    with pytest.raises(UserError, match="encoder no-such-encoder"):
        doctor()
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert len(bad) == len(named.NAMED) + 2 + 2  # the tiny weights, the encoder, the key
    assert any("tiny/atom" in line and "differ from their checksum" in line for line in bad)
    assert any("tiny/mtov" in line and "does not exist" in line for line in bad)
