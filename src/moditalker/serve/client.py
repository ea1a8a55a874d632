"""A client of `moditalker serve`, of the standard library alone.

from moditalker.serve.client import Client

client = Client("http://127.0.0.1:7860")
job = client.make("person.mp4", "speech.wav", seed=1)
for job in client.follow(job.id):
    print(job.state, job.stage, job.done, job.total)
client.save(job.id, "talking.mp4")
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from moditalker.errors import UserError

PATIENCE = 60.0  # s without a word from the service
ATTEMPTS = 5  # to send a job over a connection that breaks


@dataclass(frozen=True)
class Job:
    """The state of a job when the service sent it; `forms.Job` has the units."""

    id: str
    state: str  # "waiting", "running", "made", "failed" or "cancelled"
    before: int
    stage: str
    done: int
    total: int
    seconds_left: float | None
    error: str

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state not in ("waiting", "running")


class Client:
    """A service at an address. token: if it needs one. All methods raise UserError with its sentence."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        self.headers = {"authorization": f"Bearer {token}"} if token else {}

    def make(self, face: str | Path, audio: str | Path | None = None, **options: object) -> Job:
        """Put a video into the queue; options: fields of a job, as in ``text="Hello."`` or ``seed=1``.

        A connection that breaks is tried again, and makes no second job.
        """
        files = {"face": Path(face)} | ({"audio": Path(audio)} if audio is not None else {})
        key = {"idempotency-key": secrets.token_urlsafe(16)}
        for attempt in range(ATTEMPTS):
            try:
                with _form(options, files) as (body, kind):
                    return _job(json.load(self._ask("/jobs", "POST", key | kind, body)))
            except (ConnectionError, urllib.error.URLError, TimeoutError) as error:
                if attempt + 1 == ATTEMPTS:
                    raise UserError(f"{self.address}: does not answer ({error}); is it running?") from error
                time.sleep(2**attempt / 4)
        raise AssertionError

    def job(self, number: str) -> Job:
        """The present state of a job."""
        return _job(json.load(self._ask(f"/jobs/{number}")))

    def jobs(self, limit: int = 100) -> list[Job]:
        """One's own jobs, the newest first; limit: 1 to 1000."""
        return [_job(one) for one in json.load(self._ask(f"/jobs?limit={limit}"))]

    def follow(self, number: str) -> Iterator[Job]:
        """The states of a job, from now until it ends."""
        with self._ask(f"/jobs/{number}/events") as events:
            for line in events:
                if line.startswith(b"data: "):
                    yield _job(json.loads(line[6:]))

    def wait(self, number: str) -> Job:
        """Wait until a job is made. Raises UserError if it fails or is cancelled."""
        job = list(self.follow(number))[-1]
        if job.state != "made":
            raise UserError(job.error or f"job {number}: is {job.state}")
        return job

    def save(self, number: str, out: str | Path, result: str = "video") -> None:
        """Write the "video", "report" or "motion" of a job that was made; a file is whole or not there."""
        out = Path(out)
        part = out.with_name(f".{out.name}.part")
        try:
            with self._ask(f"/jobs/{number}/{result}") as source, part.open("wb") as file:
                shutil.copyfileobj(source, file)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)

    def end(self, number: str) -> None:
        """Cancel a job, or delete it if it has ended."""
        self._ask(f"/jobs/{number}", "DELETE").close()

    def _ask(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: IO[bytes] | None = None,
    ) -> Any:
        asked = urllib.request.Request(
            self.address + path, body, self.headers | (headers or {}), method=method
        )
        try:
            return urllib.request.urlopen(asked, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            try:
                sentence = str(json.loads(text)["error"])
            except (ValueError, KeyError, TypeError):
                sentence = f"{self.address}{path}: answers {error.code}"
            raise UserError(sentence) from error


def _job(told: dict[str, Any]) -> Job:
    return Job(**{field.name: told[field.name] for field in fields(Job)})


@contextmanager
def _form(texts: dict[str, object], files: dict[str, Path]) -> Iterator[tuple[IO[bytes], dict[str, str]]]:
    """A multipart form in a temporary file, as files may be large, and its headers."""
    edge = secrets.token_hex(16)
    start = f'--{edge}\r\nContent-Disposition: form-data; name="'.encode()
    with tempfile.TemporaryFile() as body:
        for name, value in texts.items():
            body.write(start + f'{name}"\r\n\r\n{value}\r\n'.encode())
        for name, path in files.items():
            called = "".join(letter for letter in path.name if letter.isprintable() and letter not in '"\\')
            body.write(start + f'{name}"; filename="{called}"\r\n\r\n'.encode())
            with path.open("rb") as file:
                shutil.copyfileobj(file, body)
            body.write(b"\r\n")
        body.write(f"--{edge}--\r\n".encode())
        size = body.tell()
        body.seek(0)
        yield body, {"content-type": f"multipart/form-data; boundary={edge}", "content-length": str(size)}
