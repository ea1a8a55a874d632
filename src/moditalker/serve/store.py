"""Jobs and files that outlive the process: a table of each in SQLite, and their contents in a folder.

A row is written after its file is whole, and taken out before it is deleted: what has a row can be served.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

TABLES = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL,
    facts TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, key TEXT, state TEXT NOT NULL, wishes TEXT NOT NULL,
    face TEXT NOT NULL, audio TEXT, head TEXT, starts INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
    began REAL, ended REAL, error TEXT NOT NULL DEFAULT '', UNIQUE (owner, key));
CREATE INDEX IF NOT EXISTS owners ON jobs (owner, created);
"""
OPEN = "state IN ('waiting', 'running')"
Row = dict[str, Any]


class Store:
    """The folder of a service.

    files/ID: what was uploaded, files/ID.jpg: a picture of it; jobs/ID/made: what was made of it,
    jobs/ID/try-N: what a worker is writing.
    """

    def __init__(self, folder: Path) -> None:
        self.files, self.jobs = folder / "files", folder / "jobs"
        for part in (self.files, self.jobs):
            part.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None, check_same_thread=False)
        self._base.row_factory = sqlite3.Row
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last jobs; a kill, none
        self._base.executescript(TABLES)

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def ask(self, query: str, *values: Any) -> list[Row]:
        """Rows that a query finds."""
        with self._lock:
            return [dict(row) for row in self._base.execute(query, values)]

    def tell(self, statement: str, *values: Any) -> int:
        """Change rows; how many were."""
        with self._lock:
            return self._base.execute(statement, values).rowcount

    # --------------------------------------------------------------------------------------------- files

    def keep(self, owner: str, kind: str, name: str, content: IO[bytes]) -> str:
        """Store an upload; its new name is drawn by chance."""
        number = secrets.token_urlsafe(16) + (
            ".csv" if kind == "head" and name.lower().endswith(".csv") else ""
        )
        with (self.files / number).open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
        self.tell(
            "INSERT INTO files (id, owner, kind, name, created) VALUES (?, ?, ?, ?, ?)",
            *(number, owner, kind, name, time.time()),
        )
        return number

    def file(self, owner: str, kind: str, number: str) -> Row | None:
        """A visitor's file."""
        found = self.ask("SELECT * FROM files WHERE id = ? AND owner = ? AND kind = ?", number, owner, kind)
        return found[0] | {"facts": json.loads(found[0]["facts"])} if found else None

    def note(self, number: str, facts: Row) -> None:
        """Remember what was found in a file."""
        self.tell("UPDATE files SET facts = ? WHERE id = ?", json.dumps(facts), number)

    def drop_files(self, numbers: Iterable[str]) -> None:
        """Delete files."""
        for number in numbers:
            self.tell("DELETE FROM files WHERE id = ?", number)
            (self.files / number).unlink(missing_ok=True)
            (self.files / f"{number}.jpg").unlink(missing_ok=True)

    def unused(self, before: float) -> list[str]:
        """Files that came before a time and belong to no job."""
        used = " UNION ".join(
            f"SELECT {kind} FROM jobs WHERE {kind} NOTNULL" for kind in ("face", "audio", "head")
        )
        rows = self.ask(f"SELECT id FROM files WHERE created < ? AND id NOT IN ({used})", before)
        return [row["id"] for row in rows]

    # --------------------------------------------------------------------------------------------- jobs

    def add(self, job: Row) -> bool:
        """A new job; False where its visitor has one of that key."""
        names = ", ".join(job)
        marks = ", ".join("?" * len(job))
        try:
            self.tell(f"INSERT INTO jobs ({names}) VALUES ({marks})", *job.values())
        except sqlite3.IntegrityError:
            return False
        return True

    def job(self, owner: str, number: str) -> Row | None:
        """A visitor's job."""
        found = self.ask("SELECT * FROM jobs WHERE id = ? AND owner = ?", number, owner)
        return found[0] if found else None

    def drop_job(self, number: str) -> None:
        """Delete a job and what was made for it."""
        self.tell("DELETE FROM jobs WHERE id = ?", number)
        self.clear(number)

    def clear(self, number: str) -> None:
        """Delete what was made for a job."""
        shutil.rmtree(self.jobs / number, ignore_errors=True)

    def tidy(self) -> None:
        """Delete what has no row: uploads and results that a killed process left half done."""
        files = {row["id"] for row in self.ask("SELECT id FROM files")}
        for path in self.files.iterdir():
            if path.name.removesuffix(".jpg") not in files:
                path.unlink(missing_ok=True)
        jobs = {row["id"] for row in self.ask("SELECT id FROM jobs")}
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
