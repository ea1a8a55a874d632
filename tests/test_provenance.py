"""What a file says about being synthetic: the manifest, its key, and `verify` before strangers' files."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
from conftest import write_wav
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image
from standins import ASTRONAUT, talker

from moditalker import cli, provenance
from moditalker.cli.doctor import examine
from moditalker.errors import UserError
from moditalker.media import AudioReader, Frame, VideoWriter, plain_info, read_clip
from moditalker.provenance import Provenance, credentials, manifest
from moditalker.provenance.verify import verify
from moditalker.weights.named import ASSETS

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
SOURCE_TYPE = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has no key yet: where it will be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return tmp_path / "settings" / "moditalker" / "signer.pem"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of noise without provenance."""
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 96, 3), dtype=np.uint8)
    with VideoWriter(path, plain_info(96, 64)) as writer:
        for i, image in enumerate(noise):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    return path


@pytest.fixture(scope="module")
def signed(plain: Path) -> Path:
    path = plain.with_name("signed.mp4")
    manifest.sign(plain, path, {"preset": "tiny", "consent": "Ada, in writing"}, credentials.own())
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.24 s of speech: six frames."""
    samples = AudioReader(ASSETS / "demo_speech.flac").read(0.24)
    return write_wav(tmp_path_factory.mktemp("words") / "words.wav", samples)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, words: Path) -> Path:
    """What the pipeline writes."""
    path = tmp_path_factory.mktemp("video") / "talking.mp4"
    made = talker().generate(ASTRONAUT, words, provenance=Provenance(consent="Eileen, by word of mouth"))
    report = made.save(path)
    assert report["provenance"]["manifest"] == "written"
    return path


def certify(key, issuer_key, name: str, issuer: str, root: bool = False, days: int = 1) -> x509.Certificate:
    """A certificate, made as the C2PA specification asks, by other code than the package's."""
    now = datetime.now(UTC)
    usage = x509.KeyUsage(not root, False, False, False, False, root, False, False, False)
    names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)]) for text in (name, issuer)]
    builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=9)).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.BasicConstraints(root, None), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )
    if not root:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    ed = isinstance(issuer_key, ed25519.Ed25519PrivateKey)
    return builder.sign(issuer_key, None if ed else hashes.SHA256())


def pem(*items: object, password: bytes | None = None) -> bytes:
    parts = []
    for item in items:
        if isinstance(item, x509.Certificate):
            parts.append(item.public_bytes(serialization.Encoding.PEM))
        else:
            how = (
                serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
            )
            form = serialization.PrivateFormat.PKCS8
            parts.append(item.private_bytes(serialization.Encoding.PEM, form, how))  # type: ignore[attr-defined]
    return b"".join(parts)


def sentence(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that `moditalker ARGUMENTS` answers a mistake with."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


# ------------------------------------------------------------------------------------------------- written


def test_what_generate_writes_says_that_it_is_synthetic_and_what_made_it(video):
    found = verify(video).manifest
    assert (found.state, found.synthetic, found.known, found.problems) == ("valid", True, True, [])
    assert found.source_types == ["trainedAlgorithmicMedia"]
    assert found.generation is not None
    assert found.generation["consent"] == "Eileen, by word of mouth"
    assert found.generation["preset"] == "untrained"
    assert found.generation["seed"] == 0


def test_another_reader_agrees(video):
    with c2pa.Reader(str(video)) as reader:  # with its own settings: the local root is nobody to it
        assert reader.get_validation_state() == "Valid"
        failures = reader.get_validation_results()["activeManifest"]["failure"]
    assert [failure["code"] for failure in failures] == ["signingCredential.untrusted"]
    assert SOURCE_TYPE in video.read_bytes()


def test_without_provenance_there_is_none_and_the_rest_is_the_same(video, tmp_path, words):
    made = talker().generate(ASTRONAUT, words, provenance=None)
    assert made.save(tmp_path / "bare.mp4")["provenance"] == {
        "manifest": "left out",
        "mark": "left out",
    }
    ours, bare = read_clip(video), read_clip(tmp_path / "bare.mp4")
    assert (
        np.abs(ours.frames.astype(int) - bare.frames).mean() < 0.5
    )  # grey levels: the mark, and what the codec makes of it
    assert np.array_equal(ours.audio, bare.audio)
    found = verify(tmp_path / "bare.mp4")
    assert (found.manifest.state, found.synthetic) == ("absent", False)
    with av.open(str(tmp_path / "bare.mp4")) as container:
        assert "comment" not in container.metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.mp4"]


def test_a_container_that_cannot_carry_a_manifest_has_a_comment_and_the_report_says_so(tmp_path, words):
    report = talker().generate(ASTRONAUT, words).save(tmp_path / "talking.mkv")
    assert report["provenance"]["manifest"] == "left out: .mkv cannot carry one; .mp4 and .mov can"
    assert verify(tmp_path / "talking.mkv").manifest.state == "absent"
    with av.open(str(tmp_path / "talking.mkv")) as container:
        assert "Synthetic video" in container.metadata["COMMENT"]


def test_without_c2pa_videos_are_made_and_the_report_says_what_is_missing(
    tmp_path, words, signed, monkeypatch
):
    made = talker().generate(ASTRONAUT, words)
    monkeypatch.delattr(provenance, "manifest")
    monkeypatch.setitem(sys.modules, "moditalker.provenance.manifest", None)
    assert "pip install c2pa-python" in made.save(tmp_path / "talking.mp4")["provenance"]["manifest"]
    assert len(read_clip(tmp_path / "talking.mp4").frames) == 6
    found = verify(signed)
    assert (found.manifest.state, found.synthetic) == ("unread", False)
    assert {name: wrong for name, _, wrong in examine()}["provenance"] == "pip install c2pa-python"


def test_quicktime_carries_it_too(plain, tmp_path):
    moved = tmp_path / "plain.mov"
    with av.open(str(plain)) as source, av.open(str(moved), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    manifest.sign(moved, tmp_path / "signed.mov", {}, credentials.own())
    assert verify(tmp_path / "signed.mov").synthetic


@pytest.mark.parametrize("text", ["", "two\nlines", "a\x1b[2Jb", "x" * 1001])
def test_a_line_of_consent_is_one_line(text):
    with pytest.raises(UserError, match="1 to 1000"):
        Provenance(consent=text)


def test_what_is_wrong_with_a_line_of_consent_is_told():
    with pytest.raises(UserError, match=r"and it holds '\\n'"):
        Provenance(consent="two\nlines")
    with pytest.raises(UserError, match="and it has 1001 characters"):
        Provenance(consent="x" * 1001)


def test_no_provenance_goes_alone(capsys, words, tmp_path):
    arguments = ["generate", "--face", ASTRONAUT, "--audio", words, "--out", tmp_path / "o.mp4"]
    told = sentence(capsys, *arguments, "--no-provenance", "--consent", "me")
    assert told == "moditalker: --no-provenance: goes without --consent, --certificate and --key"


# ---------------------------------------------------------------------------------------------------- keys


@posix
def test_the_key_is_this_users_alone(fresh):
    credentials.own()
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
    assert stat.S_IMODE(fresh.parent.stat().st_mode) == 0o700
    assert [path.name for path in fresh.parent.iterdir()] == ["signer.pem"]


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_may_read_is_refused(fresh, mode):
    credentials.own()
    fresh.chmod(mode)
    with pytest.raises(UserError, match="others may read"):
        credentials.own()


def test_many_that_start_at_once_share_one_key(fresh):
    with ThreadPoolExecutor(8) as pool:
        chains = {found.chain for found in pool.map(lambda _: credentials.own(), range(16))}
    assert len(chains) == 1
    assert [path.name for path in fresh.parent.iterdir()] == ["signer.pem"]


def test_names_neither_user_nor_machine(fresh):
    leaf, root = x509.load_pem_x509_certificates(credentials.own().chain)
    assert {name.rfc4514_string() for name in (leaf.subject, leaf.issuer, root.subject)} == {
        "CN=local signer,O=MoDiTalker",
        "CN=local root,O=MoDiTalker",
    }
    leaf.verify_directly_issued_by(root)
    assert fresh.read_bytes().count(b"PRIVATE KEY-----") == 2  # one key: the root's is gone


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="--no-provenance"):
        credentials.own()


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519"])
def test_the_users_own_certificate_signs(kind, tmp_path, plain):
    key = {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = certify(root_key, root_key, "Root Ltd", "Root Ltd", root=True)
    (tmp_path / "chain.pem").write_bytes(pem(certify(key, root_key, "Studio Ltd", "Root Ltd"), root))
    (tmp_path / "key.pem").write_bytes(pem(key))
    using = manifest.credentials_for(Provenance(certificate=tmp_path / "chain.pem", key=tmp_path / "key.pem"))
    manifest.sign(plain, tmp_path / "signed.mp4", {}, using)
    found = verify(tmp_path / "signed.mp4").manifest
    assert (found.state, found.synthetic, found.known) == ("valid", True, False)
    assert found.signer is not None
    assert "Studio Ltd" in found.signer


def test_certificates_that_do_not_fit_get_their_sentence(capsys, tmp_path, words):
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    secp256k1 = ec.generate_private_key(ec.SECP256K1())
    alone = certify(key, key, "Me", "Me", root=True)
    expired = certify(key, other, "Me", "You", days=-1)
    files = {
        "alone.pem": pem(alone),
        "expired.pem": pem(expired),
        "key.pem": pem(key),
        "other.pem": pem(other),
        "locked.pem": pem(key, password=b"secret"),
        "odd.pem": pem(secp256k1),
        "text.pem": b"hello",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for certificate, private, says in [
        ("alone.pem", "key.pem", "self-signed"),
        ("expired.pem", "key.pem", "C2PA does not accept"),
        ("alone.pem", "other.pem", "is not the key of"),
        ("alone.pem", "locked.pem", "encrypted"),
        ("alone.pem", "odd.pem", "give such a key"),
        ("alone.pem", "text.pem", "no private key"),
        ("text.pem", "key.pem", "no certificates"),
        ("missing.pem", "key.pem", "cannot be read"),
    ]:
        given = Provenance(certificate=tmp_path / certificate, key=tmp_path / private)
        with pytest.raises(UserError, match=says):
            manifest.credentials_for(given)
    with pytest.raises(UserError, match="cannot be read"):
        talker().generate(ASTRONAUT, words, provenance=given).save(tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    arguments = ["generate", "--face", ASTRONAUT, "--audio", words, "--out", tmp_path / "out.mp4"]
    assert "one needs the other" in sentence(capsys, *arguments, "--key", tmp_path / "key.pem")


# -------------------------------------------------------------------------------------------------- verify


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """`moditalker verify ARGUMENTS`: exit code and output."""
    with pytest.raises(SystemExit) as left:
        cli.main(["verify", *map(str, arguments)])
    return int(left.value.code or 0), capsys.readouterr().out


def test_the_answer_as_text_and_as_json(capsys, signed, plain):
    code, text = run(capsys, signed)
    assert code == 0
    assert text.splitlines()[:2] == [
        f"{signed}: synthetic",
        "manifest: valid, the file is as it was signed",
    ]
    assert "  consent: Ada, in writing" in text.splitlines()
    code, text = run(capsys, signed, "--json")
    told = json.loads(text)
    assert (code, told["synthetic"], told["manifest"]["state"]) == (0, True, "valid")
    code, text = run(capsys, plain)
    assert (code, text.splitlines()[1]) == (1, "manifest: absent")


@pytest.mark.parametrize("place", ["picture", "manifest"])
def test_a_changed_byte_is_found(capsys, signed, tmp_path, place):
    content = bytearray(signed.read_bytes())
    at = content.index(b"mdat") + 1000 if place == "picture" else content.index(b"Ada, in writing")
    content[at] ^= 1
    (tmp_path / "changed.mp4").write_bytes(content)
    code, text = run(capsys, tmp_path / "changed.mp4")
    assert code == 1
    assert "TAMPERED" in text


def test_a_copy_without_the_manifest_has_none(signed, tmp_path):
    with av.open(str(signed)) as source, av.open(str(tmp_path / "copy.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert verify(tmp_path / "copy.mp4").manifest.state == "absent"


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_never_passes(signed, tmp_path, share):
    content = signed.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(len(content) * share)])
    synthetic = False
    with suppress(UserError):
        synthetic = verify(tmp_path / "cut.mp4").synthetic
    assert not synthetic


def test_what_is_no_video_is_a_sentence(capsys, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 20)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(10_000))
    for name, says in [
        ("missing.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("text.mp4", "cannot be read"),
        ("noise.mp4", "cannot be read"),
    ]:
        assert says in sentence(capsys, "verify", tmp_path / name)


def test_a_strangers_manifest_cannot_write_to_the_terminal(capsys, plain, tmp_path):
    evil = {"consent": "\x1b[2J\x1b[1;1Hgenuine\r\n" + "x" * 10_000, "a\nb": ["\x07"], "deep": {"\x9b": None}}
    manifest.sign(plain, tmp_path / "evil.mp4", evil, credentials.own())
    for arguments in ([], ["--json"]):
        text = run(capsys, tmp_path / "evil.mp4", *arguments)[1]
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text) < 5000


def test_no_server_is_asked(plain, tmp_path):
    asked = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        using = credentials.own()
        signer = c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(using.algorithm.encode(), using.chain, using.key, None)
        )
        picture = io.BytesIO()
        Image.new("RGB", (64, 64)).save(picture, "JPEG")
        action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE.decode()}
        claim = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}
        builder = c2pa.Builder(json.dumps(claim))
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/manifest.c2pa")
        with (tmp_path / "remote.jpg").open("w+b") as file:
            builder.sign(signer, "image/jpeg", io.BytesIO(picture.getvalue()), file)
        assert b"manifest.c2pa" in (tmp_path / "remote.jpg").read_bytes()
        found = verify(tmp_path / "remote.jpg").manifest
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not asked
    assert (found.state, found.synthetic) == ("absent", False), found.problems


# ---------------------------------------------------------------------------------------------------- docs


def test_every_command_of_the_page_is_one(capsys):
    page = (Path(__file__).parents[1] / "docs" / "provenance.md").read_text(encoding="utf-8")
    commands = [
        shlex.split(line)
        for block in re.findall(r"```bash\n(.*?)```", page, flags=re.S)
        for line in block.splitlines()
    ]
    assert {command[1] for command in commands} == {"generate", "verify"}
    for _, name, *arguments in commands:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        text = capsys.readouterr().out
        assert all(word in text for word in arguments if word.startswith("--"))
