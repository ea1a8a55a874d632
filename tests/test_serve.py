"""The service by HTTP, with workers that pretend: jobs, limits, mistakes, restarts. The client is ours."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from standin_task import glancing, pretending

pytest.importorskip("fastapi", reason="no FastAPI: pip install 'moditalker[serve]'")
import uvicorn

from moditalker.cli import main
from moditalker.errors import UserError
from moditalker.jobs.pool import Outcome
from moditalker.serve.api import application
from moditalker.serve.client import Client
from moditalker.serve.errors import Full
from moditalker.serve.limits import Limits, Rate
from moditalker.serve.server import listening
from moditalker.serve.service import Service
from moditalker.serve.store import RESERVE, Store
from moditalker.serve.visitors import read_tokens

LIMITS = Limits(megabytes=0.1, waiting=3, rate=1e6, making=60, characters=20)
TOKENS = ["0123456789abcdef", "fedcba9876543210"]


@dataclass
class Running:
    service: Service
    url: str

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        """Status, headers and body of an answer."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = urllib.request.Request(self.url + path, body, names, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def fault(self, *arguments: Any, **headers: str) -> tuple[int, str]:
        """Status and sentence of a refusal."""
        status, _, body = self.ask(*arguments, **headers)
        told = json.loads(body)
        assert list(told) == ["error"]
        assert "Traceback" not in told["error"]
        return status, told["error"]


@contextmanager
def running(
    folder: Path, limits: Limits = LIMITS, seconds: float = 0.0, cluster: str | None = None, **how: Any
) -> Iterator[Running]:
    starts = glancing, partial(pretending, seconds)
    service = Service(folder, live="", limits=limits, cluster=cluster, starts=starts)
    with listening("127.0.0.1", None) as opened:
        app = application(service, "127.0.0.1", **how)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        service.ready()
        while not server.started:
            time.sleep(0.01)
        yield Running(service, f"http://127.0.0.1:{opened.getsockname()[1]}")
        server.should_exit = True
        thread.join(60)
        service.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[Client]:
    client = Client(server.url)
    yield client
    server.service.delete_all("")
    until(lambda: server.service.waiting == 0)


@pytest.fixture
def file(tmp_path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / f"{content[:8]}.mp4"
        path.write_text(content)
        return path

    return write


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def form(**fields: str | bytes) -> tuple[bytes, dict[str, str]]:
    """A multipart form; bytes are files."""
    parts = []
    for name, value in fields.items():
        file = isinstance(value, bytes)
        head = f'Content-Disposition: form-data; name="{name}"' + ('; filename="f"' if file else "")
        parts.append(f"--x\r\n{head}\r\n\r\n".encode() + (value if file else str(value).encode()) + b"\r\n")
    return b"".join(parts) + b"--x--\r\n", {"content_type": "multipart/form-data; boundary=x"}


def test_from_a_form_to_a_download(server, client, file, tmp_path):
    job = client.make(file("a face"), file("a voice"), seed=4)
    assert (job.state, job.before) in [("waiting", 0), ("running", 0)]
    seen = list(client.follow(job.id))
    assert seen[-1].state == "made"
    assert seen[-1].ended
    assert client.wait(job.id).id == job.id
    client.save(job.id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_text() == "a facea face"
    client.save(job.id, tmp_path / "report.json", "report")
    assert json.loads((tmp_path / "report.json").read_text())["frames"] == 1
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    status, headers, body = server.ask(f"/jobs/{job.id}/video", range="bytes=2-5")
    assert (status, body, headers["content-range"]) == (206, b"face", "bytes 2-5/12")
    assert headers["cache-control"] == "private, no-store"
    assert [one.id for one in client.jobs()] == [job.id]
    client.end(job.id)
    assert client.jobs() == []
    assert server.fault(f"/jobs/{job.id}/video")[0] == 404
    assert not (server.service.store.jobs / job.id).exists()


def test_mistakes_bugs_and_crashes_are_told_in_a_sentence(client, file):
    for content, says in (
        ("mistake", "mistake.mp4: a mistake"),
        ("bug", "went wrong inside"),
        ("crash", "it is damaged"),
    ):
        with pytest.raises(UserError, match=says):
            client.wait(client.make(file(content), text="Hello.").id)
    assert client.wait(client.make(file("fine"), text="Hello.").id).state == "made"


def test_jobs_are_cancelled_while_they_wait_and_while_they_run(server, client, file):
    one, two = client.make(file("sleep"), text="Hi."), client.make(file("sleep"), text="Hi.")
    until(lambda: client.job(one.id).state == "running")
    assert client.job(two.id).before == 1
    for job in (two, one):
        client.end(job.id)
        assert client.job(job.id).state == "cancelled"
    until(lambda: server.service.waiting == 0)
    assert not list(server.service.store.jobs.iterdir())
    assert client.wait(client.make(file("fine"), text="Hi.").id).state == "made"


def test_events_end_with_a_job_that_is_deleted(server, client, file):
    job = client.make(file("sleep"), text="Hi.")
    states = client.follow(job.id)
    assert next(states).state in ("waiting", "running")
    server.service.delete_all("")
    assert {one.state for one in states} <= {"running", "cancelled"}


def test_half_a_result_is_never_served(server, client, file):
    job = client.make(file("sleep"), text="Hi.")
    until(lambda: client.job(job.id).stage == "video")
    assert list(server.service.store.jobs.rglob("talking.mp4"))  # half of it is there
    assert server.fault(f"/jobs/{job.id}/video") == (
        404,
        f"job '{job.id}': is running; its result is there once it is made",
    )


def test_the_queue_has_an_end(client, file):
    for _ in range(LIMITS.waiting + 1):
        client.make(file("sleep"), text="Hi.")
    with pytest.raises(UserError, match=r"the queue is full \(3 videos may wait\)"):
        client.make(file("sleep"), text="Hi.")


def test_the_same_key_makes_one_job(server, client):
    body, headers = form(face=b"face", text="Hi.")
    answers = [server.ask("/jobs", "POST", body, idempotency_key="k", **headers) for _ in range(3)]
    assert len({json.loads(body)["id"] for _, _, body in answers}) == len(client.jobs()) == 1


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"text": "Hi."}, 422, "face: is missing; give it"),
        ({"face": b"x"}, 422, "speech is one of two"),
        ({"face": b"x", "audio": b"x", "text": "Hi."}, 422, "speech is one of two"),
        ({"face": b"", "text": "Hi."}, 422, "f: is empty; give another file"),
        ({"face": b"x" * 100_001, "text": "Hi."}, 422, "f: 0.1 MB; at most 0.1 MB are taken"),
        ({"face": b"x" * 900_000, "text": "Hi."}, 413, "more than 0.1 MB were sent"),
        ({"face": b"x", "text": "x" * 21}, 422, "21 characters; at most 20"),
        ({"face": b"x", "text": "Hi.", "seed": "one"}, 422, "seed 'one': input should be a valid integer"),
        ({"face": b"x", "text": "Hi.", "blink": "61"}, 422, "blink '61': input should be less than"),
        (
            {"face": b"x", "text": "Hi.", "head": "/etc/passwd"},
            422,
            "head '/etc/passwd': input should be 'id",
        ),
        ({"face": b"x", "text": "Hi.", "choose": "best"}, 422, "choose best: largest, speaker, a number"),
        ({"face": b"x", "text": "Hi.", "model": "../x"}, 422, "model '../x': there is tiny"),
        ({"face": b"x", "text": "Hi.", "colour": "red"}, 422, "colour: is no field"),
        ({"face": b"x", "text": "Hi.", "seed": b"1"}, 422, "seed: is a file"),
        ({"face": "../../etc/passwd", "text": "Hi."}, 422, "face '../../etc/passwd': string should match"),
        ({"face": "AAAAAAAAAAAAAAAAAAAAAA", "text": "Hi."}, 404, "there is no such file any more"),
        ({"face": b"x", "text": "Hi.", "consent": "a\nb"}, 422, "consent is one line"),
    ],
)
def test_what_cannot_be_asked_for(fields, status, says, server, client):
    body, headers = form(**fields)
    told, sentence = server.fault("/jobs", "POST", body, **headers)
    assert says in sentence
    assert told == status
    assert client.jobs() == []


@pytest.mark.parametrize(
    "body", [b"", b"junk", b'--x\r\nContent-Disposition: form-data; name="face"; filename="f"\r\n\r\nhalf']
)
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")  # Starlette's, of a part that does not end
def test_broken_forms(body, server):
    status, sentence = server.fault("/jobs", "POST", body, content_type="multipart/form-data; boundary=x")
    assert status == 422, sentence
    assert server.fault("/jobs", "POST", body, content_type="multipart/form-data")[0] == 422
    assert server.fault("/jobs", "POST", body, content_type="text/plain")[0] == 422


def test_an_upload_that_is_cut_leaves_nothing(server, client):
    host, port = server.url.removeprefix("http://").split(":")
    before = list(server.service.store.files.iterdir())
    body, _ = form(face=b"x" * 50_000, text="Hi.")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:30_000])
    time.sleep(0.3)
    assert list(server.service.store.files.iterdir()) == before
    assert client.jobs() == []


def test_a_length_that_lies_is_found_while_it_comes(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        start = b'--x\r\nContent-Disposition: form-data; name="face"; filename="f"\r\n\r\n'
        try:
            line.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
            for _ in range(40):
                line.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        except OSError:
            pass  # it does not listen any more
        assert b"413" in line.recv(1000)


def test_files_that_were_looked_at_make_jobs(server, client):
    body, headers = form(file=b"face")
    status, _, told = server.ask("/faces", "POST", body, **headers)
    face = json.loads(told)
    assert (status, face["faces"], face["still"]) == (201, [[10, 10, 50, 60]], True)
    assert server.ask(f"/faces/{face['id']}/picture")[2] == b"face"
    sound = json.loads(server.ask("/sounds", "POST", body, **headers)[2])
    assert sound["seconds"] == 1
    body, headers = form(face=face["id"], audio=sound["id"])
    job = json.loads(server.ask("/jobs", "POST", body, **headers)[2])
    assert client.wait(job["id"]).state == "made"
    assert server.fault("/faces", "POST", *(b"x",))[0] == 422


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\faces\\\\me.png", "me.png"),
        ("a\tb\x7f.png", "ab.png"),
        ("x" * 300 + ".png", "x" * 96 + ".png"),
        ("<img src=x>.png", "<img src=x>.png"),
        ("", "face"),
    ],
)
def test_names_of_files_are_shown_and_used_for_nothing_else(sent, shown, server):
    part = f'Content-Disposition: form-data; name="file"; filename="{sent}"'
    body = f"--x\r\n{part}\r\n\r\nface\r\n--x--\r\n".encode()
    status, _, told = server.ask("/faces", "POST", body, content_type="multipart/form-data; boundary=x")
    if not sent:
        assert status in (201, 422)  # a part without a name may be no file
        return
    assert (status, json.loads(told)["name"]) == (201, shown)
    stored = {path.name for path in server.service.store.files.iterdir()}
    assert all(re.fullmatch(r"[\w-]{22}(\.jpg|\.csv)?", name) for name in stored)


def test_files_that_wait_to_be_looked_at_are_bounded(server, monkeypatch):
    monkeypatch.setattr("moditalker.serve.service.LOOKS", 0)
    body, headers = form(file=b"face")
    before = set(server.service.store.files.iterdir())
    assert server.fault("/faces", "POST", body, **headers) == (
        503,
        "0 files wait to be looked at already; try again in a minute",
    )
    assert set(server.service.store.files.iterdir()) == before


def test_forms_that_arrive_count_as_kept(server):
    body, headers = form(face=b"face", text="Hi.")
    server.service.arriving = round(1e6 * LIMITS.disk)
    assert server.fault("/jobs", "POST", body, **headers) == (
        503,
        "there is no room for more files now; try again later",
    )
    server.service.arriving = 0
    assert server.ask("/jobs", "POST", body, **headers)[0] == 201
    assert server.service.arriving == 0
    server.service.delete_all("")


def test_a_result_that_was_deleted_before_it_was_done_harms_nobody(server, client, file):
    job = client.make(file("fine"), text="Hi.")
    server.service._done(job.id, Outcome(Mock(folder=Path("/nowhere/at/all"))))
    until(lambda: client.job(job.id).ended)
    assert client.wait(client.make(file("fine"), text="Hi.").id).state == "made"


def test_visitors_do_not_see_each_other(server):
    body, headers = form(face=b"face", text="Hi.")
    one, two = {"cookie": "visitor=one"}, {"cookie": "visitor=two"}
    number = json.loads(server.ask("/jobs", "POST", body, **headers, **one)[2])["id"]
    until(lambda: json.loads(server.ask(f"/jobs/{number}", **one)[2])["state"] == "made")
    for path in ("", "/events", "/video", "/report", "/picture"):
        assert server.fault(f"/jobs/{number}{path}", **two)[0] == 404
    assert server.fault(f"/jobs/{number}", "DELETE", **two)[0] == 404
    assert json.loads(server.ask("/jobs", **two)[2]) == []
    assert server.ask("/visit", "DELETE", **one)[0] == 204
    assert json.loads(server.ask("/jobs", **one)[2]) == []
    first, again = server.ask("/")[1], server.ask("/", cookie="visitor=mine")[1]
    assert "HttpOnly" in first["set-cookie"]
    assert "samesite=strict" in first["set-cookie"].lower()
    assert again["set-cookie"] is None


def test_it_describes_itself(server):
    described = json.loads(server.ask("/openapi.json")[2])
    paths = described["paths"]
    assert {"/jobs", "/jobs/{job_id}", "/jobs/{job_id}/events", "/jobs/{job_id}/video", "/health"} <= set(
        paths
    )
    form_fields = paths["/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"face", "audio", "text", "seed", "quality", "blink"} <= set(form_fields["properties"])
    assert "text/event-stream" in json.dumps(paths["/jobs/{job_id}/events"])
    assert all(method.get("description") for path in paths.values() for method in path.values())
    about = json.loads(server.ask("/service")[2])
    assert about["limits"]["seconds"] == LIMITS.seconds
    assert about["models"] == ["tiny"]
    assert json.loads(server.ask("/health")[2]) == {"status": "ok"}
    assert server.fault("/nothing") == (404, "GET /nothing: not found; see GET /openapi.json")
    assert server.fault("/jobs", "PUT")[0] == 405


def test_figures_for_prometheus(server, client, file):
    from prometheus_client.parser import text_string_to_metric_families

    client.wait(client.make(file("fine"), text="Hi.").id)
    told = server.ask("/metrics")[2].decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
    }
    assert samples["moditalker_jobs_total", "made"] >= 1
    assert samples["moditalker_ready",] == 1
    assert samples["moditalker_request_seconds_count", "POST", "/jobs", "201"] >= 1
    assert client.jobs()[0].id not in told


def test_other_sites_stay_out(server):
    body, headers = form(face=b"face", text="Hi.")
    evil = {"origin": "https://evil.example"}
    assert server.fault("/jobs", "POST", body, **headers, **evil)[0] == 403
    assert server.fault("/jobs", host="evil.example")[0] == 403
    told = server.ask("/jobs", **evil)[1]
    assert not [name for name in told if name.lower().startswith("access-control")]
    preflight = evil | {"access_control_request_method": "POST"}
    assert server.fault("/jobs", "OPTIONS", **preflight)[0] == 403
    assert "default-src 'self'" in server.ask("/health")[1]["content-security-policy"]


def test_tokens_origins_rates_and_disk(tmp_path, file):
    limits = Limits(megabytes=0.1, rate=4, disk=0.15)
    origin = "https://talk.example"
    with running(tmp_path / "service", limits, tokens=TOKENS, origins=[origin]) as server:
        assert server.fault("/jobs") == (
            401,
            "this service needs a token; send it as 'Authorization: Bearer TOKEN'",
        )
        assert server.fault("/jobs", authorization="Bearer 0123456789abcdeg")[0] == 401
        assert server.fault("/metrics")[0] == 401
        assert server.ask("/health")[0] == 200
        one, two = (Client(server.url, token) for token in TOKENS)
        job = one.make(file("a face"), text="Hi.")
        assert one.wait(job.id).state == "made"
        with pytest.raises(UserError, match="there is no such job"):
            two.job(job.id)
        body = f"token={TOKENS[0]}".encode()
        kind = "application/x-www-form-urlencoded"
        status, headers, _ = server.ask("/visit", "POST", body, content_type=kind)
        assert status == 204
        assert TOKENS[0] in headers["set-cookie"]
        assert server.ask(f"/jobs/{job.id}/video", cookie=f"token={TOKENS[0]}")[0] == 200
        assert server.fault("/visit", "POST", b"token=wrong", content_type=kind)[0] == 401
        told = server.ask("/jobs", origin=origin, authorization=f"Bearer {TOKENS[0]}")[1]
        assert told["access-control-allow-origin"] == origin
        large = file("x" * 90_000)
        one.make(large, text="Hi.")
        with pytest.raises(UserError, match="no room for more files"):
            one.make(large, text="Hi.")
        one.make(file("y"), text="Hi.")
        with pytest.raises(UserError, match="too many files and jobs in a minute; try again in 1"):
            one.make(file("y"), text="Hi.")
        assert two.make(file("y"), text="Hi.").id


def test_tokens_of_a_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# mine\n0123456789abcdef\n\n")
    assert read_tokens(path) == ["0123456789abcdef"]
    for content, says in (("short\n", "token 1 has fewer than 16"), ("# none\n", "there is no token")):
        path.write_text(content)
        with pytest.raises(UserError, match=says):
            read_tokens(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_tokens(tmp_path / "none")


def test_a_rate_comes_back():
    rate = Rate(600)
    assert [rate.wait("a") for _ in range(600)] == [0.0] * 600
    assert 0 < rate.wait("a") <= 0.1
    assert rate.wait("b") == 0
    time.sleep(0.11)
    assert rate.wait("a") == 0


def test_old_files_are_swept_and_those_in_use_are_not(tmp_path, file):
    with running(tmp_path / "service", Limits(keeping=1.0)) as server:
        client = Client(server.url)
        made, asleep = client.make(file("fine"), text="Hi."), client.make(file("sleep"), text="Hi.")
        until(lambda: client.job(made.id).state == "made")
        store = server.service.store
        assert len(list(store.files.iterdir())) == 2
        until(lambda: [job.id for job in client.jobs()] == [asleep.id])
        until(lambda: len(list(store.files.iterdir())) == 1)
        time.sleep(1)
        assert client.job(asleep.id).state == "running"
        assert [path.name for path in store.jobs.iterdir()] == [asleep.id]


def test_one_service_has_a_folder(tmp_path):
    with running(tmp_path), pytest.raises(UserError, match="another run is at work in it"):
        Service(tmp_path, live="", starts=(glancing, pretending))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Ray's own
def test_a_cluster_makes_the_videos(tmp_path, monkeypatch, file):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with running(tmp_path / "service", cluster="local") as server:
        client = Client(server.url)
        jobs = [client.make(file(f"face {number}"), text="Hi.") for number in range(3)]
        for number, job in enumerate(jobs):
            assert client.wait(job.id).state == "made"
            client.save(job.id, tmp_path / "out.mp4")
            assert (tmp_path / "out.mp4").read_text() == 2 * f"face {number}"
        with pytest.raises(UserError, match=r"mistake\.mp4: a mistake"):
            client.wait(client.make(file("mistake"), text="Hi.").id)
        asleep = client.make(file("sleep"), text="Hi.")
        time.sleep(1)
        client.end(asleep.id)
        until(lambda: server.service.waiting == 0)
        assert client.wait(client.make(file("fine"), text="Hi.").id).state == "made"


def test_a_folder_of_another_version_is_left_alone(tmp_path):
    with running(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as base:
        base.execute("PRAGMA user_version = 99")
    for _ in range(2):  # and nothing holds it
        with pytest.raises(UserError, match="its jobs are of another version of moditalker"):
            Service(tmp_path, live="", starts=(glancing, pretending))


def begin(folder: Path, *options: str) -> tuple[subprocess.Popen[str], Client]:
    script = Path(__file__).parent / "standin_server.py"
    command = [sys.executable, str(script), str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, Client(line.split()[3])


def test_nothing_is_lost_when_the_server_is_killed(tmp_path, file):
    process, client = begin(tmp_path / "service", "--seconds", "0.5")
    before = client.make(file("before"), text="Hi.")
    client.wait(before.id)
    jobs = [client.make(file(f"face {number}"), text="Hi.") for number in range(4)]
    ended = client.make(file("ended"), text="Hi.")
    client.end(ended.id)
    until(lambda: client.job(jobs[0].id).state == "running")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    store = tmp_path / "service"
    (store / "files" / "half").write_text("an upload")
    (store / "jobs" / "half").mkdir()

    process, client = begin(store, "--seconds", "0.1")
    for number, job in enumerate(jobs):
        assert client.wait(job.id).state == "made"
        client.save(job.id, tmp_path / "out.mp4")
        assert (tmp_path / "out.mp4").read_text() == 2 * f"face {number}"
    assert {job.id for job in client.jobs()} == {before.id, ended.id, *(job.id for job in jobs)}
    assert client.job(before.id).state == "made"
    assert client.job(ended.id).state == "cancelled"
    assert not (store / "files" / "half").exists()
    assert not (store / "jobs" / "half").exists()
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert process.returncode == 0


@pytest.mark.slow
def test_a_job_with_which_the_server_dies_again_and_again_is_given_up(tmp_path, file):
    process, client = begin(tmp_path / "service")
    job = client.make(file("sleep"), text="Hi.")
    for _ in range(3):
        until(partial(lambda client: client.job(job.id).state == "running", client))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        process, client = begin(tmp_path / "service")
    with pytest.raises(UserError, match="it is damaged"):
        client.wait(job.id)
    process.terminate()
    process.communicate(timeout=60)


class Tight(sqlite3.Connection):
    """A database on a disk that is full as long as files that count are there."""

    tight: Callable[[], bool] = staticmethod(lambda: False)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if self.tight() and statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(statement, *values)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> type[Tight]:
    monkeypatch.setattr("moditalker.serve.store.sqlite3.connect", partial(sqlite3.connect, factory=Tight))
    monkeypatch.setattr(Tight, "tight", staticmethod(lambda: False))
    return Tight


def test_a_full_disk_has_a_reserve_for_the_ends_of_jobs(tmp_path, tight, monkeypatch):
    store, reserve = Store(tmp_path), tmp_path / "reserve"
    assert reserve.stat().st_size == RESERVE
    monkeypatch.setattr(tight, "tight", staticmethod(reserve.exists))
    identifier = store.add_file("anna", "face", "a.png", io.BytesIO(b"a"))
    assert not reserve.exists()
    assert store.file("anna", "face", identifier) is not None
    monkeypatch.setattr(tight, "tight", staticmethod(lambda: True))
    with pytest.raises(Full, match="no room for more files"):
        store.add_file("anna", "face", "b.png", io.BytesIO(b"b"))
    assert [path.name for path in store.files.iterdir()] == [identifier]  # nothing of what was refused
    store.drop_files([identifier])
    assert not list(store.files.iterdir())
    store.reserve()
    assert reserve.exists()
    store.close()


def test_a_job_that_ends_on_a_full_disk_is_told_when_there_is_room(tmp_path, tight, monkeypatch):
    monkeypatch.setattr("moditalker.serve.service.SWEEP_SECONDS", 0.05)
    service = Service(tmp_path, live="", starts=(glancing, pretending))
    service.store.add_job(
        {"id": "a", "owner": "anna", "state": "running", "created": 1.0, "request": "{}", "face": "f"}
    )
    monkeypatch.setattr(tight, "tight", staticmethod(lambda: True))
    service._finish("a", "failed", "no space is left")
    assert service.job("anna", "a")["state"] == "running"
    monkeypatch.setattr(tight, "tight", staticmethod(lambda: False))
    until(lambda: service.job("anna", "a")["state"] == "failed")
    assert service.job("anna", "a")["error"] == "no space is left"
    service.close()


def test_tables_that_cannot_be_read_get_their_sentence(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"its jobs\.sqlite cannot be used \(file is not a database\)"):
        Service(tmp_path, live="", starts=(glancing, pretending))


def test_a_service_that_is_not_there():
    from moditalker.serve import client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "ATTEMPTS", 1)
        with pytest.raises(UserError, match="does not answer"):
            Client("http://127.0.0.1:9").make(__file__, text="Hi.")


@pytest.mark.slow
def test_the_gradio_example(server, client, file):
    """Its function, called as Gradio calls it; the page around it is Gradio's."""
    pytest.importorskip("gradio", reason="Gradio, which one example is for, is not installed")
    script = Path(__file__).parents[1] / "examples" / "gradio_app.py"
    code = f"""
import runpy, sys
from moditalker.serve.client import Client
app = runpy.run_path({str(script)!r})["app"](Client({server.url!r}))
print(open(app.fn({str(file("a face"))!r}, {str(file("a voice"))!r}, 0, lambda *_, **__: None)).read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "a facea face\n", done.stderr
    assert len(client.jobs()) == 1


def test_without_the_extra_there_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "moditalker.serve.server", raising=False)
    with pytest.raises(SystemExit) as left:
        main(["serve"])
    assert left.value.code == 2
    assert "the service needs uvicorn: pip install 'moditalker[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize("size", [3_000_000, 12_000_000])
def test_a_refusal_arrives_while_much_is_still_sent(server, size):
    """A server that closed the connection at once would be seen as a broken pipe."""
    body, headers = form(face=b"x" * size, text="Hi.")
    assert server.fault("/jobs", "POST", body, **headers)[0] == 413
    assert server.fault("/nothing", "POST", body, **headers)[0] in (404, 405)
