"""Jobs and files that outlive the process: rows in SQLite, contents in a folder.

A row is written after its file is complete, and deleted before it: each row has a complete file. `reserve` is
room on the disk for the rows.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from moditalker.errors import UserError
from moditalker.jobs.files import write_whole
from moditalker.serve.errors import DISK_FULL, Full

VERSION = 1  # of the tables
RESERVE = 1 << 20  # bytes
TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL,
    facts TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, key TEXT, state TEXT NOT NULL, request TEXT NOT NULL,
    face TEXT NOT NULL, audio TEXT, head TEXT, starts INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
    began REAL, ended REAL, error TEXT NOT NULL DEFAULT '', UNIQUE (owner, key));
CREATE INDEX IF NOT EXISTS owners ON jobs (owner, created);
"""
OPEN = "state IN ('waiting', 'running')"
Row = dict[str, Any]


def _full(error: sqlite3.OperationalError) -> bool:
    return "full" in str(error)  # its code can be asked from Python 3.11 on


class Store:
    """The folder of a service. Raises UserError if its tables are of another version.

    files/ID: an upload. files/ID.jpg: a picture of it. jobs/ID/made: results. jobs/ID/try-N: incomplete ones.
    """

    def __init__(self, folder: Path) -> None:
        self.files, self.jobs = folder / "files", folder / "jobs"
        for part in (self.files, self.jobs):
            part.mkdir(exist_ok=True)
        self._lock, self._reserve = threading.Lock(), folder / "reserve"
        self.reserve()
        self._base = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None, check_same_thread=False)
        self._base.row_factory = sqlite3.Row
        try:
            self._base.execute("PRAGMA journal_mode = WAL")
            # A power cut may cost the last jobs; a kill, none.
            self._base.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if version in (0, VERSION):
                self._base.executescript(f"{TABLES} PRAGMA user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise UserError(
                f"{folder}: its jobs.sqlite cannot be used ({error}); make room on its disk, or choose "
                "another folder"
            ) from error
        if version not in (0, VERSION):
            self._base.close()
            raise UserError(f"{folder}: its jobs are of another version of moditalker; choose another folder")

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def query(self, query: str, *values: Any) -> list[Row]:
        """The rows of a query."""
        with self._lock:
            return [dict(row) for row in self._base.execute(query, values)]

    def execute(self, statement: str, *values: Any) -> int:
        """Change rows; returns how many. Raises Full if the disk has no room, not even the reserve's."""
        with self._lock:
            try:
                return self._base.execute(statement, values).rowcount
            except sqlite3.OperationalError as error:
                if not _full(error):
                    raise
                self._reserve.unlink(missing_ok=True)
            try:
                return self._base.execute(statement, values).rowcount
            except sqlite3.OperationalError as error:
                if not _full(error):
                    raise
                raise Full(DISK_FULL) from error

    def reserve(self) -> None:
        """Keep some bytes of the disk, so that how a job ended can be recorded when others have filled it."""
        if not self._reserve.exists():
            with suppress(OSError):
                write_whole(self._reserve, bytes(RESERVE))

    # --------------------------------------------------------------------------------------------- files

    def add_file(self, owner: str, kind: str, name: str, content: IO[bytes]) -> str:
        """Store an upload under a random name; returns that name."""
        identifier = secrets.token_urlsafe(16) + (
            ".csv" if kind == "head" and name.lower().endswith(".csv") else ""
        )
        try:
            with (self.files / identifier).open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            self.execute(
                "INSERT INTO files (id, owner, kind, name, created) VALUES (?, ?, ?, ?, ?)",
                *(identifier, owner, kind, name, time.time()),
            )
        except (OSError, Full):
            (self.files / identifier).unlink(missing_ok=True)
            raise
        return identifier

    def file(self, owner: str, kind: str, identifier: str) -> Row | None:
        """A visitor's file, or None."""
        found = self.query(
            "SELECT * FROM files WHERE id = ? AND owner = ? AND kind = ?", identifier, owner, kind
        )
        return found[0] | {"facts": json.loads(found[0]["facts"])} if found else None

    def set_facts(self, identifier: str, facts: Row) -> None:
        """Store what a worker found in a file."""
        self.execute("UPDATE files SET facts = ? WHERE id = ?", json.dumps(facts), identifier)

    def drop_files(self, identifiers: Iterable[str]) -> None:
        """Delete files."""
        for identifier in identifiers:
            row = "DELETE FROM files WHERE id = ?", identifier
            try:
                self.execute(*row)
            except Full:  # without the file there is room for that
                (self.files / identifier).unlink(missing_ok=True)
                with suppress(Full):
                    self.execute(*row)
            (self.files / identifier).unlink(missing_ok=True)
            (self.files / f"{identifier}.jpg").unlink(missing_ok=True)

    def unused(self, before: float) -> list[str]:
        """Files from before a time that belong to no job."""
        used = " UNION ".join(
            f"SELECT {kind} FROM jobs WHERE {kind} NOTNULL" for kind in ("face", "audio", "head")
        )
        rows = self.query(f"SELECT id FROM files WHERE created < ? AND id NOT IN ({used})", before)
        return [row["id"] for row in rows]

    # --------------------------------------------------------------------------------------------- jobs

    def add_job(self, job: Row) -> bool:
        """Add a job; False if its owner has a job of the same key."""
        names = ", ".join(job)
        marks = ", ".join("?" * len(job))
        try:
            self.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", *job.values())
        except sqlite3.IntegrityError:
            return False
        return True

    def job(self, owner: str, identifier: str) -> Row | None:
        """A visitor's job, or None."""
        found = self.query("SELECT * FROM jobs WHERE id = ? AND owner = ?", identifier, owner)
        return found[0] if found else None

    def drop_job(self, identifier: str) -> None:
        """Delete a job and its results."""
        self.execute("DELETE FROM jobs WHERE id = ?", identifier)
        self.clear(identifier)

    def clear(self, identifier: str) -> None:
        """Delete the results of a job."""
        shutil.rmtree(self.jobs / identifier, ignore_errors=True)

    def tidy(self) -> None:
        """Delete files without a row: incomplete uploads and results of a process that was killed."""
        files = {row["id"] for row in self.query("SELECT id FROM files")}
        for path in self.files.iterdir():
            if path.name.removesuffix(".jpg") not in files:
                path.unlink(missing_ok=True)
        jobs = {row["id"] for row in self.query("SELECT id FROM jobs")}
        for path in self.jobs.iterdir():
            if path.name not in jobs:
                shutil.rmtree(path, ignore_errors=True)

    def size(self) -> int:
        """Bytes of all files."""
        paths = (path for part in (self.files, self.jobs) for path in part.rglob("*"))
        total = 0
        for path in paths:
            try:
                total += path.stat().st_size
            except OSError:  # it has just been deleted
                continue
        return total
