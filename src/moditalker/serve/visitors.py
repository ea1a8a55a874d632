"""Who sends a request: the owner of a token, or, without tokens, a browser."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from starlette.requests import HTTPConnection
from starlette.responses import Response

from moditalker.errors import UserError
from moditalker.serve.errors import Unknown

TOKEN, VISITOR = "token", "visitor"  # cookies
LEAST = 16  # characters of a token


class Visitors:
    """tokens: a visitor needs one of them; none: everybody may come."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._digests = [_digest(token) for token in tokens]

    def owner(self, asked: HTTPConnection) -> str:
        """The owner of the files and jobs of a request. Raises Unknown."""
        if not self._digests:
            visitor = asked.cookies.get(VISITOR, "")
            return _digest(visitor) if visitor else ""
        kind, _, token = asked.headers.get("authorization", "").partition(" ")
        digest = _digest(token.strip() if kind.lower() == "bearer" else asked.cookies.get(TOKEN, ""))
        found = [hmac.compare_digest(digest, known) for known in self._digests]  # all, for equal times
        if not any(found):
            raise Unknown("this service needs a token; send it as 'Authorization: Bearer TOKEN'")
        return digest

    def rate_key(self, asked: HTTPConnection) -> str:
        """The key under which requests are counted. Raises Unknown."""
        owner = self.owner(asked)
        return owner if self._digests else (asked.client.host if asked.client else "")

    def set_cookie(self, asked: HTTPConnection, answer: Response, token: str | None = None) -> None:
        """Give a browser a cookie: its token, or a random name."""
        secure = asked.url.scheme == "https"
        if token is not None:
            answer.set_cookie(TOKEN, token, httponly=True, samesite="strict", secure=secure)
        elif VISITOR not in asked.cookies:
            name = secrets.token_urlsafe(24)
            answer.set_cookie(VISITOR, name, httponly=True, samesite="strict", secure=secure)


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; lines that begin with # say nothing. Raises UserError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--tokens {path}: cannot be read ({error})") from error
    tokens = [line for line in lines if line and not line.startswith("#")]
    short = next((number for number, token in enumerate(tokens, 1) if len(token) < LEAST), None)
    if not tokens or short is not None:
        fault = f"token {short} has fewer than {LEAST} characters" if tokens else "there is no token in it"
        raise UserError(f"--tokens {path}: {fault}; one token a line is expected")
    return tokens


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
