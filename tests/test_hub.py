"""Weights named hf://USER/REPO, from a hub that runs here: fetched once, one revision, and nothing else."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from moditalker.errors import UserError
from moditalker.weights import hub
from moditalker.weights.named import MODELS, model_folder

pytest.importorskip("huggingface_hub")
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few addresses of the Hub that a download asks for; its repository also has other files."""

    files: ClassVar = {
        "atom.safetensors": (MODELS / "tiny" / "atom.safetensors").read_bytes(),
        "mtov.safetensors": (MODELS / "tiny" / "mtov.safetensors").read_bytes(),
        "pytorch_model.bin": b"code",
        "setup.py": b"code",
    }
    asked: ClassVar[list[str]] = []

    def answer(self, body: bool) -> None:
        self.asked.append(self.path)
        _, *parts = self.path.split("?")[0].split("/")
        if parts[:4] == ["api", "models", "someone", "talker"]:
            commit = COMMITS.get(parts[5], parts[5])
            if parts[4] == "revision" and commit in COMMITS.values():
                listed = [{"rfilename": name} for name in self.files]
                known = {"id": "someone/talker", "sha": commit, "siblings": listed}
                return self.send(json.dumps(known).encode(), {"Content-Type": "application/json"}, body)
            if parts[4] == "tree" and commit in COMMITS.values():
                listed = [
                    {"type": "file", "path": name, "size": len(held), "oid": hashlib.sha1(held).hexdigest()}
                    for name, held in self.files.items()
                ]
                return self.send(json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
        elif parts[:3] == ["someone", "talker", "resolve"] and parts[4] in self.files:
            content = self.files[parts[4]]
            known = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": parts[3]}
            return self.send(content, known, body)
        self.send_error(404, "Not Found")

    def send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.answer(True)

    def do_HEAD(self) -> None:
        self.answer(False)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Hub.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def loaded(name: str, home: Path, address: str) -> subprocess.CompletedProcess[str]:
    """What a process prints that loads a model by its name, as a user's does."""
    code = (
        "import sys, moditalker as m; t = m.MoDiTalker.from_pretrained(sys.argv[1]); print(t.name, t.digests)"
    )
    here = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    here |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run([sys.executable, "-c", code, name], env=here, capture_output=True, text=True)


def test_weights_of_the_hub_are_fetched_once_at_a_revision_and_nothing_else_is(tmp_path, address):
    first = loaded("hf://someone/talker@v1", tmp_path, address)
    assert first.returncode == 0, first.stderr
    assert "hf://someone/talker@v1" in first.stdout
    assert "fetching" in first.stderr
    kept = {path.name for path in tmp_path.rglob("snapshots/*/*")}
    assert kept == {"atom.safetensors", "mtov.safetensors"}
    assert [path.name for path in tmp_path.rglob("snapshots/*")] == [COMMITS["v1"]]
    assert not any("pytorch_model" in path or "setup" in path for path in Hub.asked)
    Hub.asked.clear()
    again = loaded("hf://someone/talker@v1", tmp_path, address)
    assert again.stdout == first.stdout
    assert "fetching" not in again.stderr
    assert Hub.asked == []


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_a_sentence(tmp_path, address):
    for name in ("hf://someone/nobody", "hf://someone/talker@v9"):
        result = loaded(name, tmp_path, address)
        assert result.returncode == 1
        assert f"UserError: {name} cannot be fetched" in result.stderr.splitlines()[-1]


def test_names_that_are_none_and_a_missing_package_are_sentences(monkeypatch):
    for wrong in ("hf://talker", "hf://a/b/c", "hf://a/b@", "hf://../..@x y"):
        with pytest.raises(UserError, match="no name of the Hub"):
            model_folder(wrong)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install"):
        model_folder(Path("hf://someone/talker"))


def test_nothing_else_asks_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "fetched", lambda name: pytest.fail(f"{name} was fetched"))
    assert model_folder("tiny") == MODELS / "tiny"
    with pytest.raises(UserError, match="hf://"):
        model_folder("someone/talker")
