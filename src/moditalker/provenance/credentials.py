"""The certificate and key that sign manifests: made once for this user, or the user's own.

C2PA refuses certificates that sign themselves, so a root signs a leaf, and the root's key is deleted at
once. Nothing in them names the user or the machine; but all that one user signs shows the same certificate.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moditalker.errors import UserError
from moditalker.jobs.files import write_whole

YEARS = 10  # that the certificate made here holds: without a time server, files are invalid after it [ours]
FILE = "signer.pem"
MAX_BYTES = 1 << 20  # of a PEM file
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}  # key -> C2PA's name


@dataclass(frozen=True)
class Credentials:
    """chain: certificates, leaf first, and key: the leaf's, both PEM; algorithm: as C2PA calls it."""

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str


def folder() -> Path:
    """The platform's folder for this user's settings of MoDiTalker; it may not exist."""
    if "XDG_CONFIG_HOME" in os.environ:
        base = Path(os.environ["XDG_CONFIG_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path.home() / ".config"
    return base / "moditalker"


def own() -> Credentials:
    """This user's credentials, made at the first call.

    Raises:
        UserError: they cannot be kept or read, or others may read the key.
    """
    path = folder() / FILE
    try:
        if not path.exists():
            _store(path, _made())
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others may read this private key; delete the file, and another is made")
        pem = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise UserError(
            f"{path}: the key that signs provenance cannot be kept there ({error}); set XDG_CONFIG_HOME to "
            "a folder that can be written, give --certificate and --key, or --no-provenance"
        ) from error
    found = _checked(pem, pem, path, path)
    if _leaf(pem).not_valid_after_utc < datetime.now(UTC):
        raise UserError(f"{path}: the certificate has expired; delete the file, and another is made")
    return found


def anchor() -> bytes | None:
    """The root, PEM, that this user's own certificate goes back to; None where none was made yet."""
    try:
        certificates = x509.load_pem_x509_certificates((folder() / FILE).read_bytes())
    except (OSError, ValueError, RuntimeError):
        return None
    root: bytes = certificates[-1].public_bytes(serialization.Encoding.PEM)
    return root


def given(certificate: Path, key: Path) -> Credentials:
    """The user's own: a PEM file with the chain, leaf first, and one with the leaf's key, not encrypted.

    Raises:
        UserError: a file cannot be read, the key is encrypted or of a kind that C2PA does not know, or the
            two do not belong together.
    """
    return _checked(_read(certificate), _read(key), certificate, key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a PEM file is expected") from error
    if len(pem) > MAX_BYTES:
        raise UserError(f"{path}: more than {MAX_BYTES >> 20} MiB; a PEM file is expected")
    return pem


def _leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem)[0]


def _checked(chain: bytes, key: bytes, chain_path: Path, key_path: Path) -> Credentials:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise UserError(f"{chain_path}: holds no certificates in PEM form") from error
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except TypeError as error:
        raise UserError(f"{key_path}: the key is encrypted; give one that is not") from error
    except ValueError as error:
        raise UserError(f"{key_path}: holds no private key in PEM form") from error
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(private.curve.name, "")
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        algorithm = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else ""
    if not algorithm:
        raise UserError(f"{key_path}: C2PA signs with P-256, P-384, P-521, RSA or Ed25519; give such a key")
    if private.public_key() != certificates[0].public_key():
        raise UserError(
            f"{key_path}: is not the key of the first certificate in {chain_path}; the leaf comes first"
        )
    plain = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)
    return Credentials(pem, plain, algorithm)


def _made() -> bytes:
    """A new key, its certificate and the root, PEM."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("local root", root_key, root_key, root=True)
    leaf = _certificate("local signer", key, root_key, root=False)
    parts = [
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        leaf.public_bytes(serialization.Encoding.PEM),
        root.public_bytes(serialization.Encoding.PEM),
    ]
    return b"".join(parts)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, root: bool
) -> x509.Certificate:
    """What the C2PA specification asks of a certificate (section on X.509 certificates)."""
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    ) | {"digital_signature": not root, "key_cert_sign": root, "crl_sign": root}
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("local root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=root, path_length=0 if root else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    )
    if not root:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _name(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "MoDiTalker"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _store(path: Path, pem: bytes) -> None:
    """Keep a secret: whole or not at all, for this user alone; of two that try, the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, pem, secret=True)
