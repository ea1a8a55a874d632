"""Scores the answers of a blind page with its key: wins, losses, their test and interval."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moditalker.errors import UserError
from moditalker.evaluate.pairs import read_bounded
from moditalker.evaluate.study.page import FORMAT, VERSION

CHOICES = ("left", "right", "no difference")
COLUMNS = ["page", "rater", "trial", "question", "choice", "time"]
MAX_BYTES = 16 << 20  # largest file of answers, or key


@dataclass(frozen=True)
class Key:
    """Which side is which. lefts: for each trial "a" or "b", the model on the left; questions by name."""

    page: str
    a: str
    b: str
    questions: dict[str, str]
    lefts: list[str]


@dataclass(frozen=True)
class Answer:
    """One choice of one person. vote: 1 for model a, -1 for b, 0 for no difference."""

    rater: str
    trial: int
    question: str
    vote: int


@dataclass(frozen=True)
class Preference:
    """Model a against b on one question.

    rate: wins over wins and losses, None without either; low, high: its 95 % interval by Clopper and
    Pearson; p: of the exact two-sided sign test. Ties count in neither.
    """

    wins: int
    losses: int
    ties: int
    rate: float | None
    low: float
    high: float
    p: float


def read_key(path: Path) -> Key:
    """Read the key of a page. Raises UserError."""
    try:
        tree = json.loads(_text(path))
        if tree["format"] != FORMAT or tree["version"] != VERSION:
            raise ValueError(f"{tree['format']!r}, version {tree['version']!r}")
        lefts = [trial["left"] for trial in tree["trials"]]
        if not set(lefts) <= {"a", "b"}:
            raise ValueError("left is a or b")
        return Key(str(tree["page"]), str(tree["a"]), str(tree["b"]), dict(tree["questions"]), lefts)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not the key of a page ({error}); `moditalker evaluate study make` wrote it "
            "beside the page"
        ) from None


def read_answers(paths: Sequence[Path], key: Key) -> list[Answer]:
    """Read the answers in files that a page's visitors downloaded.

    Raises UserError with file, line, value and rule: a row is wrong, is of another page, or repeats an
    answer of one person.
    """
    answers: dict[tuple[str, int, str], Answer] = {}
    for path in paths:
        before = len(answers)
        for where, row in _rows(path):
            answer = _answer(where, row, key)
            known = (answer.rater, answer.trial, answer.question)
            if known in answers:
                raise UserError(
                    f"{where}: {_shown(answer.rater)} answered {answer.question} of trial {answer.trial} "
                    "before; give of each person one file, the last"
                )
            answers[known] = answer
        if len(answers) == before:
            raise UserError(f"{path} holds no answer; leave the file out")
    return list(answers.values())


def _text(path: Path) -> str:
    return read_bounded(path, MAX_BYTES, ", too much for this kind of file")


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """Read each row after the header, with its place for error messages."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        if header != COLUMNS:
            raise UserError(f"{path}, line 1: {_shown(header)}; the header is {','.join(COLUMNS)}")
        for row in reader:
            if row:
                rows.append((f"{path}, line {reader.line_num}", row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: this is not CSV ({error})") from None
    return rows


def _answer(where: str, row: list[str], key: Key) -> Answer:
    if len(row) != len(COLUMNS):
        raise UserError(f"{where}: {_shown(row)}; {len(COLUMNS)} values are expected: {', '.join(COLUMNS)}")
    page, rater, number, question, choice, _ = row

    def refuse(value: str, rule: str) -> UserError:
        return UserError(f"{where}: {_shown(value)}; {rule}")

    if page != key.page:
        raise refuse(
            page, f"the key is of the page {key.page}: give the answers to that page, or its own key"
        )
    if not rater:
        raise refuse(rater, "rater is a text that tells people apart")
    if not (number.isascii() and number.isdigit() and len(number) < 9 and 1 <= int(number) <= len(key.lefts)):
        raise refuse(number, f"trial is a whole number from 1 to {len(key.lefts)}")
    if question not in key.questions:
        raise refuse(question, f"question is one of {', '.join(key.questions)}")
    if choice not in CHOICES:
        raise refuse(choice, f"choice is one of {', '.join(CHOICES)}")
    for_left = {"left": 1, "right": -1, "no difference": 0}[choice]
    return Answer(rater, int(number), question, for_left if key.lefts[int(number) - 1] == "a" else -for_left)


def _shown(value: object) -> str:
    """A value of a file as harmless text of one line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def count(answers: Sequence[Answer], key: Key, per: str = "answer") -> dict[str, Preference]:
    """Count the preference on each question of the page.

    per: one vote is each "answer", or the majority of a "trial" (over people) or of a "rater" (over trials).
    The test assumes independent votes; answers of one person, or about one pair, are not independent.
    """
    found = {}
    for question in key.questions:
        votes: dict[object, int] = {}
        for number, answer in enumerate(answer for answer in answers if answer.question == question):
            unit = {"answer": number, "trial": answer.trial, "rater": answer.rater}[per]
            votes[unit] = votes.get(unit, 0) + answer.vote
        signs = [int(np.sign(vote)) for vote in votes.values()]
        found[question] = preference(signs.count(1), signs.count(-1), signs.count(0))
    return found


def preference(wins: int, losses: int, ties: int = 0) -> Preference:
    """Compute the figures of so many votes for and against."""
    n = wins + losses
    low, high = clopper_pearson(wins, n)
    return Preference(wins, losses, ties, wins / n if n else None, low, high, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of the exact sign test: a fair coin splits as unevenly, or more."""
    n, term, tail = wins + losses, 1, 0
    for k in range(min(wins, losses) + 1):
        tail += term  # of C(n, 0) + C(n, 1) + ..., in whole numbers
        term = term * (n - k) // (k + 1)
    result: float = min(1.0, 2 * tail / 2**n)
    return result


def clopper_pearson(wins: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the exact interval of a rate after `wins` of n [Clopper, Pearson 1934]; n = 0: (0, 1).

    It holds 0.5 exactly if the sign test's p is above 1 - confidence.
    """
    tail = (1 - confidence) / 2
    return _lower(wins, n, tail), 1 - _lower(n - wins, n, tail)


def _lower(wins: int, n: int, tail: float) -> float:
    """The rate at which `wins` or more of n happen with probability `tail`; 0 if there were none."""
    if wins == 0:
        return 0.0
    k = np.arange(1, n + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])[wins:]
    k = np.arange(wins, n + 1)
    low, high = 0.0, 1.0
    for _ in range(60):  # halvings: to the last bit of a double
        rate = (low + high) / 2
        likely = np.exp(log_choose + k * np.log(rate) + (n - k) * np.log1p(-rate)).sum()
        low, high = (rate, high) if likely < tail else (low, rate)
    return (low + high) / 2


def as_table(found: dict[str, Preference], answers: Sequence[Answer], key: Key, per: str) -> str:
    """Write a table with a row for each question."""
    people, trials = len({a.rater for a in answers}), len({a.trial for a in answers})
    rows = [("question", "A wins", "B wins", "no difference", "prefer A", "95 %", "p")]
    for question, one in found.items():
        rate = "–" if one.rate is None else f"{100 * one.rate:.0f} %"
        interval = f"{100 * one.low:.0f} to {100 * one.high:.0f} %"
        p = f"{one.p:.3f}" if one.p >= 0.001 else f"{one.p:.1e}"
        rows.append((question, str(one.wins), str(one.losses), str(one.ties), rate, interval, p))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    head = [
        f"A: {key.a}",
        f"B: {key.b}",
        f"{len(answers)} answers of {people} people on {trials} pairs; a vote: {per}",
    ]
    return "\n".join([*head, "", *lines])


def as_json(found: dict[str, Preference], answers: Sequence[Answer], key: Key, per: str) -> dict[str, Any]:
    """Write the same as JSON."""
    return {
        "format": "moditalker-ab-result",
        "version": 1,
        "page": key.page,
        "a": key.a,
        "b": key.b,
        "per": per,
        "answers": len(answers),
        "raters": len({answer.rater for answer in answers}),
        "trials": len({answer.trial for answer in answers}),
        "questions": {name: {"text": key.questions[name]} | asdict(one) for name, one in found.items()},
    }
