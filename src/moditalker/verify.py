"""What a file tells about being synthetic: its C2PA manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moditalker import __version__
from moditalker.media import probe
from moditalker.provenance import Manifest


@dataclass(frozen=True)
class Findings:
    """What was found in a file."""

    path: Path
    manifest: Manifest

    @property
    def synthetic(self) -> bool:
        """Whether something in the file that can be relied on says so."""
        return self.manifest.synthetic

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": self.path.name,
            "synthetic": self.synthetic,
            "manifest": asdict(self.manifest),
            "version": __version__,
        }

    def __str__(self) -> str:
        found = self.manifest
        lines = [f"{self.path}: " + ("synthetic" if self.synthetic else "nothing says that it is synthetic")]
        text = {
            "valid": "valid, the file is as it was signed",
            "tampered": "TAMPERED: the file was changed after it was signed",
            "invalid": "INVALID: it cannot be relied on",
            "absent": "absent",
            "unread": "cannot be read here",
        }[found.state]
        lines.append(f"manifest: {text}" + (f" ({', '.join(found.problems)})" if found.problems else ""))
        if found.signer is not None:
            who = "this user's own key" if found.known else "whoever holds that key; it is not known here"
            lines.append(f"  signed as: {found.signer} ({who})")
        if found.generator is not None:
            lines.append(f"  made by: {found.generator}")
        if found.source_types:
            lines.append(f"  source type: {', '.join(found.source_types)}")
        for key, value in (found.generation or {}).items():
            if isinstance(value, dict):
                lines += [f"  {key} of {name}: {item}" for name, item in value.items()]
            elif value is not None:
                lines.append(f"  {key}: {value}")
        return "\n".join(lines)


def verify(path: str | Path) -> Findings:
    """Look for provenance in a video.

    Raises:
        UserError: it is not a file that can be read as picture, video or sound.
    """
    path = probe(path).path
    try:
        from moditalker.provenance.manifest import read
    except ImportError:
        return Findings(path, Manifest("unread", problems=["pip install c2pa-python"]))
    return Findings(path, read(path))
