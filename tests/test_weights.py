"""Third-party weights: named, licensed, and refused when they differ from their checksum."""

from __future__ import annotations

import hashlib

import pytest

from moditalker.errors import UserError
from moditalker.weights import named

OURS = {"face_model.safetensors"}  # made by this project


@pytest.mark.parametrize("name", named.NAMED)
def test_named_files_have_their_checksum_and_licence(name):
    path = named.find(name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == named.NAMED[name].sha256
    assert named.NAMED[name].licence in {"MIT", "Apache-2.0", "BSD-3-Clause"}
    assert path.name in (named.ASSETS / "NOTICE").read_text(encoding="utf-8")


def test_every_file_in_assets_is_accounted_for():
    files = {path.name for path in named.ASSETS.glob("*.safetensors")}
    assert files == {entry.file for entry in named.NAMED.values()} | (OURS & files)


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    entry = named.NAMED["face-mesh"]
    (tmp_path / entry.file).write_bytes((named.ASSETS / entry.file).read_bytes()[:-1] + b"?")
    monkeypatch.setattr(named, "ASSETS", tmp_path)
    with pytest.raises(UserError, match="differs from its checksum"):
        named.find.__wrapped__("face-mesh")
    with pytest.raises(UserError, match="cannot be read"):
        named.find.__wrapped__("face-detector")
    with pytest.raises(UserError, match="'hubert' are not known"):
        named.find("hubert")
