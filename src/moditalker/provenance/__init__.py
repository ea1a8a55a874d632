"""Provenance of a video: that it is synthetic, and what made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moditalker.errors import UserError

CONSENT = 1000  # characters that a line of consent may have
SHOWN = 2000  # characters that are shown of a text which somebody else wrote


@dataclass(frozen=True)
class Provenance:
    """The provenance that a video gets, and its signature.

    consent: who agreed, in the user's words; certificate, key: PEM files in place of this
    user's local ones (see `provenance.credentials`).

    Raises:
        UserError: a consent that is not one line of 1 to 1000 characters; a certificate without key.
    """

    consent: str | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UserError("--certificate and --key: one needs the other")
        if self.consent is not None and not (0 < len(self.consent) <= CONSENT and self.consent.isprintable()):
            odd = [character for character in self.consent if not character.isprintable()]
            fault = f"it holds {odd[0]!r}" if odd else f"it has {len(self.consent)} characters"
            raise UserError(f"consent is one line of 1 to {CONSENT} printable characters, and {fault}")


DEFAULT = Provenance()


@dataclass(frozen=True)
class Manifest:
    """The content of a file's C2PA manifests.

    state: "valid" (signed, and unchanged since), "tampered" (changed since), "invalid" (problems say why),
    "absent", or "unread" (c2pa-python is not here). signer: the certificate's name; known: it is this user's
    own. source_types: IPTC's, of all manifests in the file. generation: what MoDiTalker wrote. Texts are
    printable, and cut at `SHOWN`.
    """

    state: str = "absent"
    synthetic: bool = False  # by generative AI, says a valid manifest
    signer: str | None = None
    known: bool = False
    generator: str | None = None
    source_types: list[str] = field(default_factory=list)
    generation: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
