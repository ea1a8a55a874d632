"""Motion tracks: what is written is read, what is hostile is refused, and each change does what it says."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from standins import talker

from moditalker import cli
from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.features.face.shape import default_model
from moditalker.geometry.points import LIP_UNRELATED, lip_opening, mouth_width, shut_mouth
from moditalker.media import read_clip
from moditalker.motion.edit import RAMP, Style, own_style
from moditalker.motion.track import Track


def speaking(seconds: float = 3.0, seed: int = 0) -> Track:
    """A mean face whose mouth opens and whose corners move, by the model's own expressions."""
    model, rng = default_model(), np.random.default_rng(seed)
    count = round(seconds * RATE)
    weights = gaussian_filter1d(rng.normal(size=(count, model.expression_basis.shape[-1])), 2, axis=0) * 3
    landmarks = (model.mean + np.einsum("nik,sk->sni", model.expression_basis, weights)).astype(np.float32)
    landmarks[:, [65, 66, 67, 56, 57, 58], 1] -= 0.1  # lips apart
    return Track(model.mean.astype(np.float32), landmarks, {"seed": 3, "steps": None})


def gaps(track: Track) -> np.ndarray:
    """The inner lips' gap in canonical units, (S,)."""
    return np.linalg.norm(track.landmarks[:, 62, :2] - track.landmarks[:, 66, :2], axis=-1)


def test_a_file_gives_the_very_same_numbers(tmp_path):
    track = speaking()
    noise = np.random.default_rng(1).normal(size=track.landmarks.shape)
    track = replace(track, landmarks=(noise * 10.0 ** -np.abs(3 * noise)).astype(np.float32))
    track.save(tmp_path / "t.json")
    again = Track.load(tmp_path / "t.json")
    assert np.array_equal(again.landmarks, track.landmarks)
    assert np.array_equal(again.identity, track.identity)
    assert (again.made, again.seed, again.steps) == (track.made, 3, None)
    tree = json.loads((tmp_path / "t.json").read_text())
    assert (tree["format"], tree["version"], tree["fps"]) == ("moditalker-motion", 1, 25)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("track") / "t.json"
    speaking(0.2).save(path)
    return json.loads(path.read_text())


POINT = [[0.0, 0.0, 0.0]] * 68


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "format"),
        ({"version": 2}, '"version" is 2; this program reads 1'),
        ({"version": [[1]]}, "version"),
        ({"fps": 30}, "fps"),
        ({"frames": []}, "frames"),
        ({"frames": 3}, "68 points"),
        ({"frames": [POINT, POINT[:-1]]}, "68 points"),
        ({"frames": [[["a", "b", "c"]] * 68]}, "68 points"),
        ({"frames": [[[1e39, 0, 0]] * 68]}, "beyond 10 eye distances"),
        ({"frames": [[[11, 0, 0]] * 68]}, "beyond 10 eye distances"),
        ({"frames": [[[10**400, 0, 0]] * 68]}, "68 points"),
        ({"identity": None}, "identity"),
        ({"identity": {"0": 1}}, "identity"),
        ({"made": []}, "made"),
        ({"made": {"note": "x" * 200_000}}, "made"),
        ({"made": {"edits": 1}}, "edits"),
        ({"made": {"seed": -1}}, "seed"),
        ({"made": {"seed": True}}, "seed"),
        ({"made": {"seed": 2**70}}, "seed"),
        ({"made": {"steps": 0}}, "steps"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_is_no_track_gets_a_sentence(change, says, tree, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(tree | change))
    with pytest.raises(UserError, match=says) as error:
        Track.load(tmp_path / "t.json")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 100_000, "3", "\0\1", '{"fps": NaN}', '"\ud800"', "1" * 5000]
)
def test_what_is_no_json_gets_a_sentence(text, tmp_path):
    (tmp_path / "t.json").write_text(text, errors="surrogatepass")
    with pytest.raises(UserError, match="is no motion track"):
        Track.load(tmp_path / "t.json")


def test_files_that_are_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read"):
        Track.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        Track.load(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        speaking(0.1).save(tmp_path / "no" / "t.json")
    monkeypatch.setattr("moditalker.motion.track.MAX_BYTES", 1000)
    (tmp_path / "t.json").write_text(" " * 1001)
    with pytest.raises(UserError, match="cut it in parts"):
        Track.load(tmp_path / "t.json")


def test_a_damaged_file_never_gives_anything_but_a_sentence(tree, tmp_path):
    text, chance = json.dumps(tree), random.Random(0)
    for _ in range(200):
        broken = list(text)
        for _ in range(chance.randint(1, 5)):
            place = chance.randrange(len(broken))
            broken[place : place + chance.randint(0, 3)] = chance.choice(
                ["9", "[", "]", '"', "-", "e9", "{", ""]
            )
        (tmp_path / "t.json").write_text("".join(broken))
        try:
            track = Track.load(tmp_path / "t.json")
        except UserError:
            continue
        assert np.isfinite(track.landmarks).all()


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.7])
def test_mouth_gain_scales_the_opening_and_nothing_else(gain):
    track = speaking()
    changed = track.styled(Style(mouth=gain))
    assert gaps(changed) == pytest.approx(gain * gaps(track), abs=1e-5)
    assert mouth_width(changed.landmarks) == pytest.approx(mouth_width(track.landmarks), abs=1e-5)
    still = np.r_[0:5, 12:17, LIP_UNRELATED]
    assert changed.landmarks[:, still] == pytest.approx(track.landmarks[:, still], abs=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.7])
def test_expression_strength_scales_the_shape_and_leaves_the_opening(strength):
    track = speaking()
    changed = track.styled(Style(expression=strength))
    assert gaps(changed) == pytest.approx(gaps(track), abs=1e-5)
    rest = shut_mouth(track.identity)
    before, after = (shut_mouth(t.landmarks) - rest for t in (track, changed))
    assert after == pytest.approx(strength * before, abs=1e-5)
    corners = track.landmarks[:, 54, 0] - track.landmarks[:, 48, 0]
    assert corners.std() > 0.01
    assert np.std(changed.landmarks[:, 54, 0] - changed.landmarks[:, 48, 0]) == pytest.approx(
        strength * corners.std(), abs=1e-5
    )


def test_smoothing_is_a_gaussian_in_time():
    track = speaking()
    changed = track.styled(Style(smoothing=0.08)).landmarks
    expected = gaussian_filter1d(track.landmarks, 2, axis=0, mode="nearest", truncate=3)
    assert changed == pytest.approx(expected, abs=1e-5)
    assert len(changed) == len(track.landmarks)


def test_a_track_holds_what_a_face_can_have():
    track = speaking(0.2)
    with pytest.raises(UserError, match="landmarks holds numbers beyond 10 eye distances"):
        replace(track, landmarks=track.landmarks * np.nan)
    with pytest.raises(UserError, match="identity must hold 68 points of 3 numbers"):
        replace(track, identity=track.identity[:, :2])


def test_the_default_style_changes_nothing():
    track = speaking()
    assert np.array_equal(track.styled(Style()).landmarks, track.landmarks)


def test_the_size_of_motion_follows_the_person():
    assert own_style((0.0, 0.0), 1.0) == Style()  # a picture, or a mouth that never speaks
    assert own_style((0.2, 0.1), 0.0) == Style()
    usual, large, small = (own_style((own * 0.053, own * 0.036), 1.0) for own in (1.0, 1.6, 0.7))
    assert (usual.mouth, usual.expression) == pytest.approx((1.0, 1.0))
    assert 1.3 < large.mouth < 1.6  # not all of it: the next sentence is not like this one
    assert 1.2 < large.expression < large.mouth
    assert 0.7 < small.mouth < 1 > small.expression > 0.7
    huge = own_style((9.0, 9.0), 1.0)
    assert huge.mouth == huge.expression == 1.8


def test_holding_freezes_its_range_alone():
    track = speaking()
    held = track.hold(1.0, 2.0).landmarks
    assert (held[25:50] == track.landmarks[25]).all()
    assert np.array_equal(held[:25], track.landmarks[:25])
    assert np.array_equal(held[50 + RAMP :], track.landmarks[50 + RAMP :])


def test_shutting_closes_its_range_alone():
    track = speaking()
    changed = track.shut(1.0, 2.0)
    assert gaps(changed)[25:50] == pytest.approx(0, abs=1e-6)
    outside = np.r_[0 : 25 - RAMP, 50 + RAMP : 75]
    assert np.array_equal(changed.landmarks[outside], track.landmarks[outside])
    assert lip_opening(track.landmarks)[25:50].max() > 0.1
    assert np.abs(np.diff(gaps(changed))).max() < 0.6 * gaps(track).max()  # no jump


def test_retiming_stretches_its_range_and_moves_what_follows():
    track = speaking()
    slow = track.retime(1.0, 2.0, 2.0).landmarks
    assert len(slow) == 100
    assert np.array_equal(slow[:25], track.landmarks[:25])
    assert np.array_equal(slow[75:], track.landmarks[50:])
    assert slow[25:75:2] == pytest.approx(track.landmarks[25:50], abs=1e-6)
    assert len(track.retime(0.0, 3.0, 1.0).landmarks) == 25


def test_splicing_takes_the_other_motion_on_the_own_face():
    one, other = speaking(2.0), speaking(3.0, seed=1)
    other = replace(other, identity=other.identity + 0.25, landmarks=other.landmarks + 0.25)
    both = one.splice(other, 1.0).landmarks
    assert len(both) == 75
    assert np.array_equal(both[: 25 - RAMP], one.landmarks[: 25 - RAMP])
    assert both[25 + RAMP :] == pytest.approx(other.landmarks[25 + RAMP :] - 0.25, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.hold(2.0, 1.0),
        lambda t: t.hold(float("nan"), 1.0),
        lambda t: t.shut(3.0, 4.0),
        lambda t: t.retime(0.0, 1.0, 0.0),
        lambda t: t.retime(0.0, 1.0, float("nan")),
        lambda t: t.retime(0.0, 1.0, 1e9),
        lambda t: t.splice(t, 3.0),
        lambda t: t.styled(Style(mouth=-1)),
        lambda t: t.styled(Style(expression=float("nan"))),
        lambda t: t.styled(Style(smoothing=2)),
    ],
)
def test_impossible_changes_get_a_sentence(change):
    with pytest.raises(UserError):
        change(speaking())


def test_a_part_that_is_too_long_is_told_both_ends():
    with pytest.raises(UserError, match=r"99999 s is no length .*; give 0.04 to 7200 s"):
        speaking().retime(0.0, 1.0, 99999)


def test_a_track_that_was_not_changed_is_generate(face_video, speech_wav, tmp_path):
    model = talker()
    expected = [image for _, image in model.generate(face_video, speech_wav, seed=5)]
    model.track(face_video, speech_wav, seed=5).save(tmp_path / "t.json")
    track = Track.load(tmp_path / "t.json")
    assert track.made["audio"] == speech_wav.name
    made = [image for _, image in model.generate(face_video, speech_wav, seed=track.seed, motion=track)]
    assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))
    louder = list(model.generate(face_video, speech_wav, seed=5, style=Style(mouth=2)))
    edited = list(model.generate(face_video, speech_wav, seed=5, motion=track.styled(Style(mouth=2))))
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(louder, edited, strict=True))
    assert any(not np.array_equal(a, b) for (_, a), b in zip(louder, expected, strict=True))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_the_command_makes_changes_and_renders(
    face_video, speech_wav, tmp_path, shipped, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    common = ["--face", face_video, "--audio", speech_wav, "--model", shipped]
    assert run("motion", *common, "--seed", 2, "--out", "t.json") == 0
    assert run("generate", *common, "--seed", 2, "--out", "a.mp4") == 0
    assert run("generate", *common, "--motion", "t.json", "--out", "b.mp4") == 0
    generated, rendered = read_clip(tmp_path / "a.mp4"), read_clip(tmp_path / "b.mp4")
    assert np.array_equal(generated.frames, rendered.frames)
    assert np.array_equal(generated.audio, rendered.audio)
    edits = ["--splice", "t.json@0.5", "--retime", "0-0.2=0.4", "--hold", "0.2-0.3", "--shut", "0.6-0.8"]
    edits += ["--mouth-gain", 1.5, "--smoothing", 0.04]
    wanted = ["--out", "new.json", "--preview", "p.mp4", "--audio", speech_wav]
    assert run("motion", "--track", "t.json", *edits, *wanted) == 0
    track, new = Track.load("t.json"), Track.load("new.json")
    expected = track.splice(track, 0.5).retime(0, 0.2, 0.4).hold(0.2, 0.3).shut(0.6, 0.8)
    assert np.array_equal(new.landmarks, expected.styled(Style(1.5, 1.0, 0.04)).landmarks)
    assert len(new.made["edits"]) == 5
    clip = read_clip("p.mp4")
    assert len(clip.frames) == len(new.landmarks)
    assert len(clip.audio) > 16_000
    for bad in (
        ["--hold", "1"],
        ["--shut", "a-b"],
        ["--splice", "t.json"],
        ["--retime", "0-1"],
        ["--face", "x"],
        ["--audio", speech_wav],
        ["--seed", 0],
        ["--steps", 2],
        ["--model", "tiny"],
        ["--choose", "largest"],
        ["--device", "cpu"],
    ):
        assert run("motion", "--track", "t.json", "--out", "n.json", *bad) == 2
    assert run("motion", "--track", "t.json") == 2
    assert run("motion", "--out", "n.json") == 2
    assert not (tmp_path / "n.json").exists()


def test_no_output_of_the_command_takes_the_place_of_a_file(face_video, speech_wav, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speaking(0.2).save("t.json")
    speaking(0.2).save("u.json")
    common = ["--face", face_video, "--audio", speech_wav]
    inputs = (face_video, speech_wav, Path("t.json"), Path("u.json"))
    before = {path: path.read_bytes() for path in inputs}
    for outputs in (
        [*common, "--out", face_video],
        [*common, "--out", speech_wav],
        [*common, "--preview", speech_wav],
        [*common, "--out", "p.mp4", "--preview", "p.mp4"],
        ["--track", "t.json", "--preview", "t.json"],
        ["--track", "t.json", "--splice", "u.json@0.1", "--out", "u.json"],
    ):
        assert run("motion", *outputs) == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    assert run("motion", "--track", "t.json", "--shut", "0-0.1", "--out", "t.json") == 0  # changed in place


def test_the_preview_shows_the_mouth(tmp_path):
    from moditalker.motion.preview import SIZE, save_preview

    track = speaking(0.4)
    wide = replace(track, landmarks=np.repeat(track.landmarks[:1], 10, axis=0))
    wide.landmarks[5:, [65, 66, 67]] -= [0, 0.2, 0]
    save_preview(wide, tmp_path / "p.mp4")
    frames = read_clip(tmp_path / "p.mp4").frames.astype(int)
    assert frames.shape == (10, SIZE, SIZE, 3)
    change = np.abs(frames[9] - frames[0]).sum(-1).sum(1)  # by rows
    assert change[: SIZE // 2].sum() < 0.1 * change[SIZE // 2 :].sum()
