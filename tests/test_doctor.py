"""`moditalker doctor`: in order here; a missing encoder or damaged weights are told, all in one go."""

from __future__ import annotations

import pytest

from moditalker import media, weights
from moditalker.cli.doctor import doctor
from moditalker.errors import UserError


def test_in_order(capsys):
    doctor()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert {f"weights {name}" for name in weights.NAMED} <= {line[4:].split(":")[0] for line in lines}


def test_every_fault_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "moditalker").mkdir()
    (tmp_path / "moditalker" / "signer.pem").write_text("no key")
    for named in weights.NAMED.values():
        (tmp_path / named.file).write_bytes(b"damaged")
    weights.find.cache_clear()
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    monkeypatch.setattr(media, "ENCODERS", ("no-such-encoder",))
    with pytest.raises(UserError, match="encoder no-such-encoder"):
        doctor()
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert len(bad) == len(weights.NAMED) + 2
