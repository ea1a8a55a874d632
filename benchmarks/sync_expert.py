"""How well mouth-audio match tells right sound from wrong, on people it never saw: docs/lab/sync.md's tables.

    python benchmarks/sync_expert.py CLIPS --split SPLIT --people s30,s31,s32 [--weights FILE]

CLIPS is a dataset of `moditalker prepare`. Each clip is judged with its own sound, with its sound moved by
frames both ways (silence fills the gap), and with the sound of other clips, of the same person and of others.
Beside it, two baselines that look at detected lips: the correlation of their opening with the sound's level,
and with what ridge regression, fitted to the training people, makes of the same speech features.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from moditalker.data.clips import VideoClip, read_clip
from moditalker.data.parts import find_data, parse_speakers
from moditalker.data.shards import Sample
from moditalker.features.speech.encoders import FRAME
from moditalker.geometry.points import lip_opening
from moditalker.metrics.lips import correlation
from moditalker.metrics.sync import auc
from moditalker.metrics.sync_expert import Expert, Match, compare_embeddings, load_expert

SHIFTS = (2, 4, 8)
PLANTED = range(11)
WRONG = 2  # other clips of each kind
CONTEXT = 4  # frames to either side that the regression hears
FITTED = 120  # clips that it is fitted to

Array = NDArray[np.floating]
Pictures = NDArray[np.uint8]
Scores = dict[str, list[list[float]]]  # by kind of sound, a list for each clip


@dataclass(frozen=True)
class Trial:
    """A clip, and the sounds that it is judged with, by kind; sounds are speech features (2S, D)."""

    clip: VideoClip
    waveform: Array
    sounds: dict[str, list[Array]]


def shifted(sound: Array, frames: int) -> Array:
    """The sound ``frames`` later (the lips come early), as long as before."""
    out, samples = np.zeros_like(sound), abs(frames) * FRAME
    if frames >= 0:
        out[samples:] = sound[: len(sound) - samples]
    else:
        out[:-samples] = sound[samples:]
    return out


def make_trials(samples: list[Sample], expert: Expert) -> list[Trial]:
    clips, waves = [read_clip(sample) for sample in samples], []
    for clip, sample in zip(clips, samples, strict=True):
        wave, length = sample["audio"].astype(np.float32), len(clip.crops) * FRAME
        waves.append(np.pad(wave, (0, max(0, length - len(wave))))[:length])
    own = [expert.encoder(wave) for wave in waves]
    rng, trials = np.random.default_rng(0), []
    for number, (clip, wave) in enumerate(zip(clips, waves, strict=True)):
        sounds = {"own": [own[number]]}
        for shift in PLANTED[1:]:
            moved = [shifted(wave, sign * shift) for sign in ((1, -1) if shift in SHIFTS else (1,))]
            sounds[f"{shift} frames"] = [expert.encoder(one) for one in moved]
        for kind, same in (("same voice", True), ("other voice", False)):
            others = [i for i, c in enumerate(clips) if i != number and (c.speaker == clip.speaker) == same]
            sounds[kind] = [own[i] for i in rng.choice(others, size=WRONG, replace=False)] if others else []
        trials.append(Trial(clip, wave, sounds))
    return trials


def judge(expert: Expert, trials: list[Trial], damage: Callable[[Pictures], Pictures]) -> list[dict]:
    """For each trial what the expert says of each sound, by kind."""
    found = []
    for trial in trials:
        lips, matches = expert.embed_lips(damage(trial.clip.crops)), {}
        for kind, sounds in trial.sounds.items():
            matches[kind] = []
            for speech in sounds:
                sound = expert.embed_sound(speech)
                frames = min(len(lips), len(sound))
                matches[kind].append(compare_embeddings(lips[:frames], sound[:frames]))
        found.append(matches)
    return found


# ---------------------------------------------------------------------------------------------- baselines


def whole(rows: Array) -> Array:
    """Means of pairs of features, with their neighbours: (2S, D) -> (S, (2 CONTEXT + 1) D)."""
    frames = rows.reshape(len(rows) // 2, 2, -1).mean(1)
    padded = np.pad(frames, ((CONTEXT, CONTEXT), (0, 0)), "edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT + 1, 0).reshape(len(frames), -1)


class Ridge:
    """Lip opening from 64 principal components of speech features, at each clip's own mean and deviation."""

    def __init__(self, speech: list[Array], openings: list[Array]) -> None:
        every = np.concatenate(speech).astype(np.float64)
        self.mean = every.mean(0)
        values, vectors = np.linalg.eigh(np.cov((every - self.mean).T))
        self.basis = vectors[:, -64:] / np.sqrt(values[-64:])
        x = np.concatenate([whole((one - self.mean) @ self.basis) for one in speech])
        y = np.concatenate([(one - one.mean()) / one.std() for one in openings])
        gram = x.T @ x
        self.weights = np.linalg.solve(gram + 1e-2 * gram.trace() / len(gram) * np.eye(len(gram)), x.T @ y)

    def __call__(self, speech: Array) -> Array:
        return whole((speech - self.mean) @ self.basis) @ self.weights


def follows(opening: Array, other: Array) -> float:
    frames = min(len(opening), len(other))
    return correlation(opening[:frames], other[:frames])


def fit_ridge(samples: list[Sample], expert: Expert) -> Ridge:
    heard, seen = [], []
    for sample in samples[:: max(1, len(samples) // FITTED)]:
        clip, wave = read_clip(sample), sample["audio"].astype(np.float32)
        frames = min(len(clip.crops), len(wave) // FRAME)
        heard.append(expert.encoder(wave[: frames * FRAME]))
        seen.append(lip_opening(clip.landmarks[:frames]))
    return Ridge(heard, seen)


# ------------------------------------------------------------------------------------------------ damages


def compressed(crops: Pictures, crf: int) -> Pictures:
    """Frames through H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = *crops.shape[1:3], "yuv420p"
        stream.time_base = Fraction(1, 25)
        for number, crop in enumerate(crops):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def smaller(crops: Pictures, factor: int) -> Pictures:
    """Means of squares, put back in place of their pixels."""
    s, h, w, c = crops.shape
    means = crops.reshape(s, h // factor, factor, w // factor, factor, c).mean((2, 4))
    return means.repeat(factor, 1).repeat(factor, 2).round().astype(np.uint8)


def noisy(crops: Pictures, deviation: float) -> Pictures:
    noise = np.random.default_rng(0).normal(0, deviation, crops.shape)
    return (crops + noise).clip(0, 255).round().astype(np.uint8)


DAMAGES: dict[str, Callable[[Pictures], Pictures]] = {
    "H.264, CRF 28": lambda crops: compressed(crops, 28),
    "H.264, CRF 38": lambda crops: compressed(crops, 38),
    "a quarter of the resolution": lambda crops: smaller(crops, 4),
    "noise of 10 grey levels": lambda crops: noisy(crops, 10),
    "half the brightness": lambda crops: crops // 2,
    "moved by 3 pixels of the crop": lambda crops: np.roll(crops, (3, 3), (1, 2)),
}

# ------------------------------------------------------------------------------------------------- tables


def interval(statistic: Callable[[NDArray[np.intp]], float], count: int) -> str:
    """A statistic of resampled clips, as "value (2.5 % to 97.5 %)"."""
    rng = np.random.default_rng(0)
    low, high = np.percentile([statistic(rng.integers(0, count, count)) for _ in range(500)], [2.5, 97.5])
    return f"{statistic(np.arange(count)):.3f} ({low:.3f}-{high:.3f})"


def row(title: str, scores: Scores, kinds: list[str]) -> None:
    """AUC of the clips' own sound against each other kind, with its bootstrap interval over clips."""
    right, cells = np.array(scores["own"])[:, 0], []
    for kind in kinds:
        wrong = np.array(scores[kind])
        cells.append(interval(lambda i, w=wrong: auc(right[i], w[i].ravel()), len(right)))
    print(f"| {title} | {len(right)} | " + " | ".join(cells) + " |", flush=True)


def head(*titles: str) -> None:
    print("\n| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))


def scores(found: list[dict], figure: Callable[[Match], float]) -> Scores:
    return {kind: [[figure(m) for m in one[kind]] for one in found] for kind in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--people", required=True, help="who is judged, comma-separated; never trained on")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--quick", action="store_true", help="the first table alone, without baselines")
    arguments = parser.parse_args()
    expert = load_expert(arguments.weights)
    people = parse_speakers(arguments.people)
    data = find_data(arguments.clips, arguments.split, people)
    trials = make_trials([sample for sample in data.validation if sample.speaker in people], expert)
    found = judge(expert, trials, lambda crops: crops)

    kinds = [*(f"{shift} frames" for shift in SHIFTS), "same voice", "other voice"]
    head("AUC of the own sound against", "clips", *kinds)
    row("**`match`**", scores(found, lambda m: m.match), kinds)
    for person in sorted(people):
        chosen = [one for one, trial in zip(found, trials, strict=True) if trial.clip.speaker == person]
        row(f"`match`, {person}", scores(chosen, lambda m: m.match), kinds)
    row("`contrast`", scores(found, lambda m: m.contrast), kinds)
    row("`confidence`", scores(found, lambda m: m.confidence), kinds)
    if not arguments.quick:
        ridge = fit_ridge(data.train, expert)
        openings = [lip_opening(trial.clip.landmarks) for trial in trials]
        regressed = {
            kind: [
                [follows(opening, ridge(speech)) for speech in trial.sounds[kind]]
                for opening, trial in zip(openings, trials, strict=True)
            ]
            for kind in ("own", *kinds)
        }
        row("ridge regression and lip opening", regressed, kinds)
        levels: Scores = {kind: [] for kind in ("own", *kinds)}
        loud = [np.log10((t.waveform.reshape(-1, FRAME) ** 2).mean(1) + 1e-6) for t in trials]
        for number, (opening, trial) in enumerate(zip(openings, trials, strict=True)):
            others = {
                same: [
                    i
                    for i, t in enumerate(trials)
                    if i != number and (t.clip.speaker == trial.clip.speaker) == same
                ][:WRONG]
                for same in (True, False)
            }
            levels["own"].append([follows(opening, loud[number])])
            for shift in SHIFTS:
                moved = [(opening[shift:], loud[number]), (opening, loud[number][shift:])]
                levels[f"{shift} frames"].append([follows(a, b) for a, b in moved])
            levels["same voice"].append([follows(opening, loud[i]) for i in others[True]])
            levels["other voice"].append([follows(opening, loud[i]) for i in others[False]])
        row("sound's level and lip opening", levels, kinds)

    head("AUC of `match`: above, against", *kinds[1:])
    matches = scores(found, lambda m: m.match)
    wrong = [m for kind in kinds[3:] for one in matches[kind] for m in one]
    for number, kind in enumerate(kinds[:3]):
        above = [m for one in matches[kind] for m in one]
        later = [[m for one in matches[k] for m in one] for k in kinds[number + 1 : 3]]
        cells = [""] * number + [f"{auc(above, below):.3f}" for below in later]
        cells += [f"{auc(above, [m for one in matches[k] for m in one]):.3f}" for k in kinds[3:]]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    print(f"\nmedian match: own {np.median(matches['own']):.3f}, others' sound {np.median(wrong):.3f}")
    if arguments.quick:
        return

    head("sound later by", "offset found exactly", "within a frame")
    own = np.array([one["own"][0].offset for one in found])
    for shift in PLANTED:
        kind = f"{shift} frames" if shift else "own"
        expected = own - shift if shift else np.zeros_like(own)
        error = np.abs(np.array([one[kind][0].offset for one in found]) - expected)
        print(f"| {shift} frames | {(error == 0).mean():.2f} | {(error <= 1).mean():.2f} |")

    head("crops damaged by", "clips", *kinds)
    for title, damage in DAMAGES.items():
        harmed = judge(expert, trials, damage)
        in_time = np.mean([abs(one["own"][0].offset) <= 1 for one in harmed])
        row(f"{title} ({in_time:.2f} in time)", scores(harmed, lambda m: m.match), kinds)


if __name__ == "__main__":
    main()
