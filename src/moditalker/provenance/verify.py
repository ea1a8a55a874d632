"""What a file tells about being synthetic: its C2PA manifest, and the invisible mark in its pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moditalker import __version__
from moditalker.features.face.tracker import Choice, FaceTracker
from moditalker.jobs.machine import half_the_threads
from moditalker.jobs.streams import ahead, beside
from moditalker.media import VideoReader, probe
from moditalker.provenance import Manifest
from moditalker.provenance.mark import CHANCE, Detector, Mark

SURE = 1e-12  # chance that ends the search for the mark
ASKING_SECONDS = 10  # from look to look whether it has come to that


@dataclass(frozen=True)
class Findings:
    """What was found in a file."""

    path: Path
    manifest: Manifest
    mark: Mark | None  # None: there are no moving pictures

    @property
    def synthetic(self) -> bool:
        """Whether something in the file that can be relied on says so."""
        return self.manifest.synthetic or (self.mark is not None and self.mark.found)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": self.path.name,
            "synthetic": self.synthetic,
            "manifest": asdict(self.manifest),
            "mark": None if self.mark is None else asdict(self.mark),
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
        return "\n".join([*lines, f"mark: {_told(self.mark)}"])


def _told(mark: Mark | None) -> str:
    if mark is None:
        return "not looked for, there is no video"
    if mark.seconds == 0:
        return "not found, there is no face"
    seen = f"z = {mark.z:.1f} in {mark.seconds:.1f} s with a face"
    if mark.found:
        return f"found; by chance, at most once in {1 / max(mark.chance, 1e-99):.0e} videos ({seen})"
    return (
        f"not found ({seen}; {CHANCE:.0e} is the chance that would do, {mark.chance:.0e} is the one there is)"
    )


def verify(path: str | Path, choose: Choice = "largest") -> Findings:
    """Look for provenance in a file: the manifest of any, the mark of a video.

    Args:
        choose: among several faces; see `FaceTracker.track`.

    Raises:
        UserError: it is not a file that can be read as picture, video or sound.
    """
    info = probe(path)
    try:
        from moditalker.provenance.manifest import read
    except ImportError:
        manifest = Manifest("unread", problems=["pip install c2pa-python"])
    else:
        manifest = read(info.path)
    return Findings(info.path, manifest, _mark(info.path, choose) if info.kind == "video" else None)


def _mark(path: Path, choose: Choice) -> Mark:
    """What the face in a video shows; the search ends where it is sure."""
    reader, tracker = VideoReader(path, planes=False), FaceTracker()
    fps, detector = float(reader.info.fps), Detector(float(reader.info.pixel_aspect))
    looked = 0.0
    with half_the_threads():
        faces = beside(
            ahead(reader, 16), lambda frames: tracker.track((f.image for f in frames), fps, choose)
        )
        for frame, face in faces:
            detector.add(frame.image, None if face is None else face.landmarks, float(frame.time))
            if frame.time >= looked + ASKING_SECONDS:
                looked = float(frame.time)
                if detector.result().chance < SURE:
                    break
    return detector.result()
