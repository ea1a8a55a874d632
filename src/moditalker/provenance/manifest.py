"""The C2PA manifest (specification 2.x): written into a finished file, and read from any.

It says that the media are synthetic in the words of IPTC's digital source types, and what made them. Nothing
is fetched: no remote manifests, no revocation lists, no time server.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import c2pa
from PIL import Image

from moditalker import __version__
from moditalker.errors import UserError
from moditalker.provenance import SHOWN, Manifest, Provenance, credentials
from moditalker.provenance.credentials import Credentials

FORMATS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime"}  # that can carry a manifest
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SYNTHETIC = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")  # IPTC: by generative AI
GENERATION = "org.moditalker.generation"  # our assertion


def credentials_for(wanted: Provenance) -> Credentials:
    """What to sign with, tried out.

    Raises:
        UserError: see `credentials.own` and `credentials.given`; or C2PA does not accept them.
    """
    if wanted.certificate is None or wanted.key is None:
        return credentials.own()
    found = credentials.given(wanted.certificate, wanted.key)
    if problem := _refused(found):
        raise UserError(
            f"{wanted.certificate}: C2PA does not accept this certificate ({problem}); it must be valid "
            "now, signed by another one, and for e-mail protection or document signing"
        )
    return found


def carries(path: Path) -> bool:
    """Whether a file of this name can carry a manifest."""
    return path.suffix.lower() in FORMATS


def sign(source: Path, target: Path, generation: dict[str, Any], using: Credentials) -> None:
    """Copy a video that `carries` with a manifest in the copy, in constant memory.

    Args:
        generation: what made it, as JSON holds it.

    Raises:
        UserError: C2PA refuses.
        OSError: a file cannot be read or written.
    """
    try:
        with source.open("rb") as read, target.open("w+b") as write:
            _sign(FORMATS[source.suffix.lower()], read, write, generation, using)
    except c2pa.C2paError as error:
        raise UserError(
            f"{target}: the manifest cannot be written ({_clean(error)}); --no-provenance leaves it out"
        ) from error


def _sign(kind: str, read: BinaryIO, write: BinaryIO, generation: dict[str, Any], using: Credentials) -> None:
    agent = {"name": "MoDiTalker", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    claim = {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": GENERATION, "data": generation},
        ],
    }
    signer = c2pa.Signer.from_info(
        c2pa.C2paSignerInfo(using.algorithm.encode(), using.chain, using.key, None)
    )
    with c2pa.Builder(json.dumps(claim), context=_context(None)) as builder:
        builder.sign(signer, kind, read, write)


def _refused(using: Credentials) -> str:
    """Why a signature by these credentials would not count; "" where it would."""
    picture, signed = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    try:
        _sign("image/png", io.BytesIO(picture.getvalue()), signed, {}, using)
        return ", ".join(_read("image/png", io.BytesIO(signed.getvalue())).problems)
    except c2pa.C2paError as error:
        return _clean(error)


@cache
def _context(anchors: bytes | None) -> c2pa.Context:
    """C2PA's settings, offline; anchors: PEM of roots that are known."""
    settings: dict[str, Any] = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
        "builder": {"thumbnail": {"enabled": False}},
    }
    if anchors is not None:
        settings["trust"] = {"user_anchors": anchors.decode()}
    return c2pa.Context(settings=c2pa.Settings.from_dict(settings))


def read(path: Path) -> Manifest:
    """The manifest of any file; whatever is in it, there is an answer.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _read(FORMATS.get(path.suffix.lower()), file)
        except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
            return Manifest()
        except (c2pa.C2paError, ValueError, RecursionError) as error:
            if str(error).startswith("Remote"):
                return Manifest(problems=["it is on a server, which was not asked"])
            return Manifest("invalid", problems=[_clean(error)])


def _read(kind: str | None, file: BinaryIO) -> Manifest:
    with c2pa.Reader(kind, file, context=_context(credentials.anchor())) as reader:
        return _told(json.loads(reader.json()))


def _told(store: dict[str, Any]) -> Manifest:
    manifests: dict[str, Any] = store.get("manifests") or {}
    active: dict[str, Any] = manifests.get(store.get("active_manifest") or "") or {}
    results = (store.get("validation_results") or {}).get("activeManifest") or {}
    codes = [str(item.get("code")) for item in results.get("failure") or []]
    if store.get("validation_state") in ("Valid", "Trusted"):
        state = "valid"
    else:
        state = "tampered" if any(code.endswith((".mismatch", ".missing")) for code in codes) else "invalid"
    types = [
        _clean(action.get("digitalSourceType", "")).rpartition("/")[2]
        for manifest in manifests.values()
        for assertion in manifest.get("assertions") or []
        if str(assertion.get("label")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions") or []
    ]
    types = sorted({kind for kind in types if kind})
    ours = [item for item in active.get("assertions") or [] if item.get("label") == GENERATION]
    signature = active.get("signature_info") or {}
    agents = active.get("claim_generator_info") or []
    return Manifest(
        state,
        state == "valid" and any(kind in SYNTHETIC for kind in types),
        _clean(f"{signature.get('issuer')}, {signature.get('common_name')}") if signature else None,
        store.get("validation_state") == "Trusted",
        _clean(f"{agents[0].get('name')} {agents[0].get('version', '')}".strip()) if agents else None,
        types,
        _cleaned(ours[0].get("data")) if ours else None,
        [_clean(code) for code in codes if code != "signingCredential.untrusted"],
    )


def _clean(text: object) -> str:
    """A stranger's text for a terminal: no control characters, no more than `SHOWN`."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:SHOWN])


def _cleaned(tree: Any) -> Any:
    """`_clean` for all that JSON holds."""
    if isinstance(tree, dict):
        return {_clean(key): _cleaned(value) for key, value in list(tree.items())[:100]}
    if isinstance(tree, list):
        return [_cleaned(value) for value in tree[:100]]
    return _clean(tree) if isinstance(tree, str) else tree
