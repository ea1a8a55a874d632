"""The stages together, with real features and motion and a video stage that is no network."""

from __future__ import annotations

import gc
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from standins import ASTRONAUT, PaintedMouth, needs_gpu, small_config, talker, untrained_atom

from moditalker import config as configuration
from moditalker.errors import UserError
from moditalker.features.face import identity
from moditalker.features.face.shape import frontalize
from moditalker.geometry.align import transform
from moditalker.geometry.points import lip_opening, shut_mouth
from moditalker.geometry.pose import Affine
from moditalker.media import AudioReader, VideoReader, read_clip, sound
from moditalker.talker.retarget import Wish
from moditalker.talker.saving import Kept
from moditalker.talker.talker import MoDiTalker
from moditalker.video.blend import Blender
from moditalker.video.model import VideoModel
from moditalker.video.stage import VideoSampler
from moditalker.weights.files import save_weights


@pytest.fixture(scope="module")
def made(face_video, speech_wav):
    """The video of 20 frames whose frames 8 to 13 have no face."""
    model = talker()
    video = model.generate(face_video, speech_wav, seed=1)
    return model, video, list(video)


def test_every_frame_has_an_answer(made, face_video):
    _, video, pairs = made
    originals = [frame.image for frame in VideoReader(face_video)]
    assert len(pairs) == 20
    assert [frame.time for frame, _ in pairs] == [Fraction(i, 20) for i in range(len(pairs))]
    assert video.kept == [Kept(8, 13, "no face")]
    changed = [not np.array_equal(image, frame.image) for frame, image in pairs]
    assert changed == [not 8 <= i <= 13 for i in range(len(pairs))]
    for i, (frame, _) in enumerate(pairs):
        assert np.array_equal(frame.image, originals[i])


def test_outside_the_mouth_region_the_frame_is_the_source(made):
    _, _, pairs = made
    frame, image = pairs[3]
    touched = (frame.image != image).any(-1)
    assert 0.01 < touched.mean() < 0.3
    rows = np.flatnonzero(touched.any(1))
    assert rows[0] > 70  # below the astronaut's eyes


def test_the_generated_mouth_fades_where_the_face_is_lost(made):
    _, _, pairs = made
    change = [np.abs(image.astype(float) - frame.image).max() for frame, image in pairs]
    assert change[7] < 0.8 * change[4]
    assert change[14] < 0.8 * change[17]


def test_each_shot_has_its_own_anchor(made):
    model, _, _ = made
    first, *_, last = model.sampler.identities
    assert not np.array_equal(first, last)
    # The second shot is the first one mirrored: so is its anchor, about.
    mirrored = last[:, ::-1].astype(float)
    assert np.abs(mirrored - first).mean() < 0.7 * np.abs(last.astype(float) - first).mean()


def test_at_rest_the_mouth_is_shut_whatever_the_anchor(made):
    """An anchor may have an open mouth, as a shot may begin in the middle of a word."""
    _, video, _ = made
    identity, face = video.motion.identity, next(iter(video.face))
    opened = identity.copy()
    opened[[56, 57, 58, 65, 66, 67]] += 3 * (identity[57] - identity[51]) / 4  # the lower lip
    assert lip_opening(opened[None])[0] > 0.1
    wish = Wish(video.motion, [np.repeat(shut_mouth(identity)[None], 3, 0)], 25.0)
    wish.advance(0.0)
    face = replace(face, frontal=frontalize(face.landmarks[None], video.face.anchor.neutral)[0][0])
    posed = wish.posed(face, replace(video.face.anchor, frontal=opened))
    assert lip_opening(posed)[0] < 0.01


def test_a_shot_that_begins_turned_away_has_its_own_anchor(made):
    model, video, _ = made
    frames = [
        replace(frame, cut=i in (0, 4), shot=i // 4, yaw=60.0 if i in (4, 5) else 0.0)
        for i, frame in enumerate(list(video.face)[:8])
    ]
    track = replace(video.face, frames=lambda: iter(frames))
    targets = list(model.video(track, None).targets.seen())
    assert targets[3].anchor is track.anchor is not targets[6].anchor
    assert targets[6].anchor is targets[7].anchor
    again = replace(
        track, frames=lambda: iter([*frames, *(replace(f, cut=f is frames[0]) for f in frames[:4])])
    )
    assert list(model.video(again, None).targets.seen())[-1].anchor is track.anchor


def test_same_seed_same_frames_and_another_seed_other_frames(made, face_video, speech_wav):
    _, _, pairs = made
    for seed, same in ((1, True), (2, False)):
        again = [image for _, image in talker().generate(face_video, speech_wav, seed=seed)]
        assert all(np.array_equal(a, image) for a, (_, image) in zip(again, pairs, strict=True)) is same


def test_a_video_can_be_iterated_twice(made):
    _, video, pairs = made
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(video, pairs, strict=True))
    assert video.kept == [Kept(8, 13, "no face")]


def test_sound_is_decoded_once_and_each_frame_is_cropped_once(face_video, speech_wav, tmp_path, monkeypatch):
    """From the files to the saved one; the second shot's identity is chosen from its own first frames."""
    decode, warp = sound.decoded, identity.warp
    decoded: list[int] = []
    cropped: list[np.ndarray] = []

    def counted(*args):
        for frame in decode(*args):
            decoded.append(frame.samples)
            yield frame

    def warped(images, *args):
        cropped.append(images.base)
        return warp(images, *args)

    monkeypatch.setattr(sound, "decoded", counted)
    monkeypatch.setattr(identity, "warp", warped)
    talker().generate(face_video, speech_wav, seed=1).save(tmp_path / "out.mkv")
    reading = sum(decoded)
    whole = len(AudioReader(speech_wav).read())
    # Its first packet, which tells what time 0 is, is looked at by the reader and by the writer.
    assert whole <= reading <= whole + 2 * max(decoded)
    assert max(decoded) < whole / 4
    assert len(cropped) > 14
    assert len({id(image) for image in cropped}) == len(cropped)


def test_save_writes_the_frames_the_sound_and_a_report(made, tmp_path, speech_wav):
    _, video, pairs = made
    told: list[tuple[str, int, int]] = []
    video = replace(video, progress=lambda *state: told.append(state))
    out = tmp_path / "out.mkv"
    report = video.save(out, lossless=True)
    written = [frame.image for frame in VideoReader(out)]
    assert all(np.array_equal(a, image) for a, (_, image) in zip(written, pairs, strict=True))
    assert np.array_equal(AudioReader(out).read(), AudioReader(speech_wav).read())
    assert report["frames"] == len(pairs)
    assert (report["width"], report["height"], report["fps"]) == (256, 256, 20.0)
    assert report["audio_seconds"] == pytest.approx(1.02)
    assert report["frames_without_face"] == {
        "count": 6,
        "ranges": [{"first": 8, "last": 13, "reason": "no face"}],
        "action": "the source's frame was kept",
    }
    assert report["preset"] == "untrained"
    assert report["seed"] == 1
    stages = report["seconds"]
    assert {"preparing", "speech", "motion", "face", "video", "paste", "write", "total"} <= set(stages)
    assert "waiting" not in stages
    assert max(v for k, v in stages.items() if k != "total") <= stages["total"]
    assert stages["total"] <= sum(v for k, v in stages.items() if k != "total") + 0.5
    assert report["peak_rss_bytes"] > 1e8
    assert told[-1] == ("generating", len(pairs), video.face.expected)


def test_a_picture_gives_ceil_of_seconds_times_fps_frames(speech_wav):
    frames = list(talker().generate(ASTRONAUT, speech_wav))
    assert len(frames) == ceil(AudioReader(speech_wav).seconds * 25)
    assert all(not np.array_equal(frame.image, image) for frame, image in frames)


def test_steps_one_by_one_are_generate(made, face_video, speech_wav):
    model, _, pairs = made
    speech = model.speech(speech_wav)
    face = model.face(face_video, speech.seconds)
    motion = model.motion(speech, face, seed=1)
    video = model.video(face, motion, seed=1)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(video, pairs, strict=True))
    features, track = speech.array(), motion.array()
    assert features.shape == (2 * len(track), model.speech_encoder.width)
    assert len(track) == ceil(speech.seconds * 25)


def test_lips_that_move_more_in_the_source_move_more(made, face_video, speech_wav, monkeypatch):
    model, _, _ = made
    atom = replace(model.motion_stage.atom.config, own_size=1.0)
    monkeypatch.setattr(model.motion_stage.atom, "config", atom)
    speech = model.speech(speech_wav)
    face = model.face(face_video, speech.seconds)
    assert all(move >= 0 for move in face.anchor.moves)
    sizes = []
    for move in (0.0, 0.053, 0.08):
        person = replace(face, anchor=replace(face.anchor, moves=(move, 0.036)))
        sizes.append(lip_opening(model.motion(speech, person).array()).std())
    assert sizes[0] == pytest.approx(sizes[1])
    assert sizes[2] == pytest.approx(sizes[1] * (0.08 / 0.053) ** 0.75, rel=1e-3)


def test_the_landmark_track_can_be_edited(made, face_video, speech_wav):
    model, _, pairs = made
    speech = model.speech(speech_wav)
    face = model.face(face_video, speech.seconds)
    motion = model.motion(speech, face, seed=1)
    wider = motion.array() + 0.1 * (motion.array() - motion.identity)
    wider[:, 57] -= 0.2  # the lower lip
    wider[:, 66] -= 0.2
    edited = list(model.video(face, motion.edited(wider), seed=1))
    assert any(not np.array_equal(a, b) for (_, a), (_, b) in zip(edited, pairs, strict=True))


def test_motion_keeps_its_pace_at_any_frame_rate(made, face_video, speech_wav):
    """The wanted landmarks of frame i are the track at its time: 20 fps here, 25 Hz there."""
    _, video, _ = made
    track = video.motion.array()
    targets = [t for t in video.targets.wished(video.targets.seen()) if t.wanted is not None]
    exact = [t for t in targets if t.face.frame.time * 25 % 1 == 0]
    assert exact
    for target in exact[:3]:
        points = target.face.landmarks[None]
        said = track[int(target.face.frame.time * 25)] - shut_mouth(video.motion.identity)
        frontal = shut_mouth(target.anchor.frontal) + said
        posed = Affine.fitted(frontalize(points, target.anchor.neutral)[0], points).posed(frontal[None])
        assert target.wanted == pytest.approx(transform(posed, target.face.matrix[None])[0], abs=1e-3)


def test_memory_of_frames_in_flight_is_bounded(speech_wav, tmp_path):
    """However long the sound, only a fixed number of frames is alive at a time."""
    import gc
    import weakref

    sound = AudioReader(speech_wav).read()
    long = write_wav(tmp_path / "long.wav", np.tile(sound, 2))
    model = talker()
    model.sampler = PaintedMouth(model.config.crop.region_top)
    alive: list[weakref.ref] = []
    most = 0
    for _, image in model.generate(ASTRONAUT, long):
        alive = [ref for ref in [*alive, weakref.ref(image)] if ref() is not None]
        most = max(most, len(alive))
    gc.collect()
    assert most < 60


@pytest.mark.parametrize("extend", ["pingpong", "loop", "hold"])
def test_longer_speech_continues_the_video(face_video, speech_wav, tmp_path, extend):
    sound = AudioReader(speech_wav).read()
    long = write_wav(tmp_path / "long.wav", np.tile(sound, 2)[:20_000])
    frames = [frame for frame, _ in talker().generate(face_video, long, extend=extend)]
    assert len(frames) == ceil(AudioReader(long).seconds * 20)
    index = {"pingpong": 18, "loop": 0, "hold": 19}[extend]
    assert frames[20].index == index


def test_mistakes_are_sentences(tmp_path, speech_wav, face_video):
    model = talker()
    empty = tmp_path / "grey.png"

    Image.new("RGB", (200, 200), "grey").save(empty)
    with pytest.raises(UserError, match="no face was found in the picture"):
        model.generate(empty, speech_wav)
    with pytest.raises(UserError, match=r"there is no such file"):
        model.generate(tmp_path / "missing.mp4", speech_wav)
    with pytest.raises(UserError, match="sound"):
        model.generate(ASTRONAUT, ASTRONAUT)
    with pytest.raises(UserError, match=r"is one of the inputs"):
        model.generate(face_video, speech_wav).save(face_video)
    head = tmp_path / "head.mp4"
    head.write_bytes(b"taken")
    video = model.generate(face_video, speech_wav)
    moved = replace(video, face=replace(video.face, head=head))
    with pytest.raises(UserError, match=r"head.mp4: is one of the inputs"):
        moved.save(head)
    assert head.read_bytes() == b"taken"
    (out := tmp_path / "there.mp4").touch()
    with pytest.raises(UserError, match=r"missing.wav: there is no such file"):
        model.generate(face_video, speech_wav).save(out, audio="missing.wav")
    with pytest.raises(UserError, match=r"weights 'missing' do not exist"):
        MoDiTalker.from_pretrained("missing")


@pytest.mark.parametrize(
    "numbers", [{"seed": -1}, {"seed": 1.5}, {"seed": 2**63}, {"seed": True}, {"steps": 0}, {"steps": 1001}]
)
def test_numbers_out_of_bounds_are_told_before_any_work(numbers, made, face_video, speech_wav):
    model, video, _ = made
    (name, value), *_ = numbers.items()
    says = f"{name} is {value}; it must be a whole number from"
    for begin in (
        lambda: model.generate(face_video, speech_wav, **numbers),
        lambda: model.stream(face_video, [], **numbers),
        lambda: model.motion([], video.face, **numbers),
        lambda: model.video(video.face, video.motion, **numbers),
    ):
        with pytest.raises(UserError, match=says):
            begin()


def test_numbers_of_numpy_are_numbers(made):
    model, video, _ = made
    made = model.video(video.face, video.motion, np.int64(3), np.int32(2))
    assert (type(made.seed), type(made.steps)) == (int, int)


def test_another_way_to_go_on_is_told(made):
    with pytest.raises(UserError, match="extend is 'never'"):
        made[0].face(ASTRONAUT, 1, extend="never")


@pytest.mark.parametrize("choose", [True, float("nan"), 1.5, (1.0, float("inf")), (1, 2, 3), None])
def test_faces_that_cannot_be_chosen(choose, made):
    with pytest.raises(UserError, match="no face is called"):
        made[0].face(ASTRONAUT, 1, choose=choose)


def test_faces_are_chosen_by_numbers_and_places_of_any_kind(made):
    model = made[0]
    first = model.face(ASTRONAUT, 1, choose=0).anchor.landmarks
    for choose in (np.int64(0), [220, 120], np.array([220.0, 120.0])):
        assert np.array_equal(model.face(ASTRONAUT, 1, choose=choose).anchor.landmarks, first)
    with pytest.raises(UserError, match="face 1 was asked for, and at most 1 can be seen at once"):
        model.face(ASTRONAUT, 1, choose=1)


@pytest.mark.parametrize(
    "track",
    [
        np.zeros((0, 68, 3)),
        np.zeros((2, 204)),
        np.zeros((2, 68, 2)),
        np.full((2, 68, 3), np.nan),
        np.full((2, 68, 3), 11.0),
        "track",
    ],
)
def test_tracks_that_no_face_can_have(track, made):
    motion = made[1].motion
    with pytest.raises(UserError, match=r"the track (must hold 68 points|holds numbers beyond 10)"):
        motion.edited(track)


@pytest.mark.parametrize("block", [np.zeros(8), np.zeros((4, 3)), np.nan])
def test_features_that_are_none(block, made):
    model, video, _ = made
    features = block if np.ndim(block) else np.full((4, model.speech_encoder.width), block)
    with pytest.raises(UserError, match=r"finite ones of shape \(n, \d+\) are expected"):
        model.motion([features], video.face).array()


def test_atom_and_settings_of_their_own(shipped, tmp_path):
    config = small_config()
    other = replace(
        config, atom=replace(config.atom, layers=2), crop=replace(config.crop, eye_row=20.0), preset="other"
    )
    state, tree = untrained_atom(other).state_dict(), configuration.to_dict(other)
    save_weights(tmp_path / "atom.safetensors", state, tree)
    settings = ("mtov.anchor=previous", "atom.overlap=1")
    model = MoDiTalker.from_pretrained(shipped, motion=tmp_path / "atom.safetensors", overrides=settings)
    assert (model.atom.config.layers, model.config.atom.layers) == (2, 2)
    assert model.config.crop == config.crop == model.sampler.config.crop  # the picture stays the folder's
    assert model.sampler.config.mtov.anchor == "previous"
    with pytest.raises(UserError, match="do not fit this network"):
        MoDiTalker.from_pretrained(shipped, motion=shipped / "mtov.safetensors")
    save_weights(tmp_path / "mtov.safetensors", VideoModel(other).state_dict(), tree)
    with pytest.raises(UserError, match="give weights of one crop"):
        MoDiTalker.from_pretrained(shipped, video=tmp_path / "mtov.safetensors")


def test_each_stage_is_set_up_as_its_own_weights_say(shipped, tmp_path):
    config = small_config()
    video, path = replace(config, mtov=replace(config.mtov, overlap=1)), tmp_path / "mtov.safetensors"
    save_weights(path, VideoModel(video).state_dict(), configuration.to_dict(video))
    model = MoDiTalker.from_pretrained(shipped, video=path)
    assert model.config.mtov.overlap == 1 != config.mtov.overlap
    assert model.config.atom == config.atom


def test_a_failure_leaves_no_file_behind(made, tmp_path):
    _, video, _ = made

    def broken(*_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        replace(video, progress=broken).save(tmp_path / "out.mp4")
    assert not list(Path(tmp_path).iterdir())


@needs_gpu
def test_a_gpu_makes_the_video_that_a_cpu_makes(face_video, speech_wav, weights):
    one, other = (
        np.stack(
            [
                image
                for _, image in MoDiTalker.from_pretrained(weights, device).generate(face_video, speech_wav)
            ]
        )
        for device in ("cpu", "cuda")
    )
    assert one.shape == other.shape
    assert np.square(one.astype(float) - other).mean() < 0.5


@pytest.fixture(scope="module")
def composed(face_video, speech_wav):
    """The same video, put together out of the person's own pixels."""
    video = composing().generate(face_video, speech_wav, seed=1)
    return video, list(video)


def composing() -> MoDiTalker:
    model = talker()
    config = configuration.override(model.config, ["compose.enabled=true", "compose.inside=nothing"])
    parts = model.speech_encoder, model.tracker, model.atom, model.sampler
    return MoDiTalker(config, *parts, "untrained")


def test_a_second_face_of_the_same_size_is_mentioned(tmp_path, shipped):
    from skimage import data

    portrait = data.astronaut()[0:320, 60:380]
    Image.fromarray(np.concatenate([portrait, portrait[:, ::-1]], 1)).save(tmp_path / "two.png")
    Image.fromarray(portrait).save(tmp_path / "one.png")
    talker = MoDiTalker.from_pretrained(shipped)
    two, one = (talker.face(tmp_path / name, 1) for name in ("two.png", "one.png"))
    assert ["2 faces" in note and "--choose" in note for note in two.source.notes] == [True]
    assert one.source.notes == []
    assert talker.face(tmp_path / "two.png", 1, choose=0).source.notes == []


def test_composed_frames_keep_the_contracts(composed):
    """Every frame has an answer, fades where the face is lost, and is the source's above the mouth."""
    video, pairs = composed
    assert len(pairs) == 20
    assert video.kept == [Kept(8, 13, "no face")]
    changed = [not np.array_equal(image, frame.image) for frame, image in pairs]
    assert changed == [not 8 <= i <= 13 for i in range(len(pairs))]
    rows = np.flatnonzero((pairs[3][0].image != pairs[3][1]).any((1, 2)))
    assert rows[0] > 70  # below the astronaut's eyes
    change = [np.abs(image.astype(float) - frame.image).max() for frame, image in pairs]
    assert change[7] < change[4]


def test_composed_frames_need_no_network_and_are_the_same_again(composed, face_video, speech_wav):
    video, pairs = composed
    model = composing()
    again = [image for _, image in model.generate(face_video, speech_wav, seed=1)]
    assert all(np.array_equal(a, image) for a, (_, image) in zip(again, pairs, strict=True))
    assert model.sampler.identities == []
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(video, pairs, strict=True))


def test_the_network_makes_what_no_frame_shows(speech_wav, monkeypatch):
    monkeypatch.setattr("moditalker.video.references.INSIDE", 1000.0)  # she smiles, and shows her teeth
    model = composing()
    config = configuration.override(model.config, ["compose.inside=mtov"])
    model = MoDiTalker(config, model.speech_encoder, model.tracker, model.atom, PaintedMouth(56), "untrained")
    list(model.generate(ASTRONAUT, speech_wav))
    assert len(model.sampler.identities) == 1


def test_its_own_landmarks_make_a_composed_frame_again(face_video):
    """Without a motion the mouth comes from other frames at the same place: about the same picture."""
    model = composing()
    face = model.face(face_video, 1)
    pairs = list(replace(model.video(face, None), provenance=None))
    errors = [np.abs(image.astype(float) - frame.image).mean() for frame, image in pairs]
    assert max(errors) < 0.5


def test_the_paper_and_the_released_code_run_without_any_rule_of_ours(face_video, speech_wav, monkeypatch):
    """Nothing stands around the two networks: no rule is asked, no frame of the source lends its mouth."""
    for preset in ("paper", "released"):
        config = configuration.load(preset)
        assert config.rules == configuration.RulesConfig()
        assert not config.compose.enabled
        assert not config.mtov.texture
        assert not config.mtov.teeth
        assert not config.atom.first_estimate
    rules = [f"rules.{rule}=false" for rule in ("silence", "uncross", "steady", "light", "colours", "grain")]
    model = talker()
    config = configuration.override(model.config, [*rules, "mtov.texture=false", "mtov.teeth=0"])
    stage = VideoSampler(VideoModel(config))
    model = MoDiTalker(config, model.speech_encoder, model.tracker, model.atom, stage, "untrained")

    def asked(*_: object) -> None:
        raise AssertionError("a rule of ours")

    for rule in (
        "motion.stage.hush",
        "motion.stage.uncrossed",
        "geometry.pose.Affine.error",
        "video.stage.gains",
    ):
        monkeypatch.setattr(f"moditalker.{rule}", asked)
    for rule in ("_match", "_same"):
        monkeypatch.setattr(Blender, rule, asked)
    assert len(list(model.generate(face_video, speech_wav))) == 20


def test_weights_of_the_first_version_run_by_all_rules():
    tree = configuration.to_dict(configuration.load("paper"))
    del tree["rules"]
    assert all(vars(configuration.from_dict(tree).rules).values())


def test_faces_and_sounds_may_be_in_memory(face_video, speech_wav, tmp_path):
    """Arrays, pictures, open files and chunks give the frames that their files give."""
    model = talker()
    sound, picture = AudioReader(speech_wav).read(), Image.open(ASTRONAUT).convert("RGB")
    expected = [image for _, image in model.generate(ASTRONAUT, speech_wav)]
    with ASTRONAUT.open("rb") as face, speech_wav.open("rb") as audio:
        given = [
            (picture, speech_wav),
            (np.asarray(picture), sound),
            (face, audio),
            (ASTRONAUT, np.array_split(sound, 5)),
        ]
        for one, other in given:
            made = [image for _, image in model.generate(one, other)]
            assert len(made) == len(expected)
            assert max(np.abs(a.astype(int) - b).max() for a, b in zip(made, expected, strict=True)) <= 3
    video = model.generate(np.asarray(picture), sound)
    folders = [held.folder for held in (*video.holds, *video.face.holds)]
    video.save(tmp_path / "talking.mp4")
    assert read_clip(tmp_path / "talking.mp4").audio is not None
    del video
    gc.collect()
    assert not any(folder.exists() for folder in folders)
    for face, audio in ((np.zeros((4, 4)), sound), (picture, np.zeros((4, 2))), (picture, np.zeros(2))):
        with pytest.raises(UserError):
            model.generate(face, audio)
    with speech_wav.open(encoding="latin-1") as text, pytest.raises(UserError, match="open it as bytes"):
        model.generate(picture, text)
