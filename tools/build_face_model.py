"""Learn the face model that ships with the package (`src/moditalker/assets/face_model.safetensors`).

    python tools/build_face_model.py POINTS [--out FILE] [--leave-out s30 s31 s32] [--most 40]

POINTS: a folder of `SPEAKER_CLIP.npz`, each with `points` (S, 468 or 478 or 68, 3): the face mesh of every
frame in pixels (NaN where there was no face), as `moditalker.features.face.tracker.FaceTracker` finds them.
`--videos FOLDER` makes them first, from `SPEAKER/CLIP.*`.

What is learned, in this order: the mean face (symmetric, upright at the speakers' mean pitch); within each
clip, what of the shape follows the head pose while lip opening and mouth width stay the same (ridge
regression): its covariance over clips is `contamination`, its mean over speakers `trace`; of what is left,
the principal directions, apart for lip-related points and for brows and eyes: the expressions; the resting
shapes of the clips: the identities; last, how much people nod with each expression: `sway`. Speakers count
alike, and every face is also seen mirrored.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moditalker.features.face.shape import ASSET, WEIGHTS, FaceModel
from moditalker.geometry.points import (
    BROWS,
    EYE_LEFT,
    EYE_RIGHT,
    LIP_RELATED,
    MESH_TO_68,
    MIRROR,
    eye_distance,
    lip_opening,
    mouth_width,
)
from moditalker.geometry.pose import FLIP, Pose, procrustes, remove_pose

Float = NDArray[np.float64]
SHAKE = np.radians(0.15)  # of an estimated pose: ridge for clips in which the head hardly moves
CAUTION = 300.0  # contamination counts as so many times its measured variance: unseen people differ


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument("--leave-out", nargs="*", default=[], help="speakers or SPEAKER_CLIP")
    parser.add_argument("--most", type=int, default=40, help="clips of one speaker")
    parser.add_argument("--source", default="GRID audiovisual corpus (Cooke et al. 2006), CC BY 4.0")
    options = parser.parse_args()
    if options.videos:
        extract(options.videos, options.points)
    clips = read(options.points, set(options.leave_out), options.most)
    print(f"{sum(map(len, clips.values()))} frames, clips: {dict(Counter(map(speaker, clips)))}")
    build(clips).save(options.out, {"source": options.source, "license": "CC-BY-4.0"})
    print(f"{options.out}: {options.out.stat().st_size} bytes")


def extract(videos: Path, out: Path) -> None:
    """Write the face mesh of every video `SPEAKER/CLIP.*`."""
    from moditalker.features.face.tracker import FaceTracker
    from moditalker.media import VideoReader

    tracker = FaceTracker()
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in videos.glob("*/*") if p.is_file()):
        reader = VideoReader(path)
        faces = list(tracker.track((frame.image for frame in reader), float(reader.info.fps)))
        points = [np.full((468, 3), np.nan) if face is None else face.points[:468] for face in faces]
        np.savez(out / f"{path.parent.name}_{path.stem}.npz", points=np.stack(points).astype(np.float32))


def speaker(clip: str) -> str:
    return clip.split("_")[0]


def read(folder: Path, leave_out: set[str], most: int) -> dict[str, Float]:
    """Clip -> (S, 68, 3) image points, frames without a face left out."""
    clips: dict[str, Float] = {}
    count: Counter[str] = Counter()
    for path in sorted(folder.glob("*.npz")):
        name = speaker(path.stem)
        if {name, path.stem} & leave_out or count[name] >= most:
            continue
        points = np.load(path)["points"].astype(np.float64)
        points = points if points.shape[1] == 68 else points[:, MESH_TO_68]
        points = points[np.isfinite(points).all((1, 2))]
        if len(points) >= 25:
            clips[path.stem] = points
            count[name] += 1
    if not clips:
        raise SystemExit(f"{folder} holds no clips")
    return clips


def build(
    clips: dict[str, Float], identities: int = 8, lips: int = 10, upper: int = 4, directions: int = 80
) -> FaceModel:
    """Learn a model from clips named SPEAKER_CLIP, (S, 68, 3) image points each."""
    share = {clip: weight / len(clips[clip]) for clip, weight in shares(clips).items()}  # of a frame
    mean = mean_face(clips)
    poses = {clip: procrustes(points, mean, WEIGHTS) for clip, points in clips.items()}
    shapes = {clip: remove_pose(points, poses[clip]).reshape(-1, 204) for clip, points in clips.items()}

    # What follows the pose, and what is left: within clips, at equal lips.
    following, slope = np.zeros((204, 204)), np.zeros((3, 204))
    left = []
    for clip, points in clips.items():
        angles = centred(np.radians(poses[clip].angles()))
        mouth = centred(np.stack([lip_opening(points), mouth_width(points)], axis=-1))
        causes, shape = np.concatenate([angles, mouth], axis=1), centred(shapes[clip])
        ridge = np.diag([len(points) * SHAKE**2] * 3 + [1e-6] * 2)
        slopes = np.linalg.solve(causes.T @ causes + ridge, causes.T @ shape)[:3]
        part = angles @ slopes
        following += share[clip] * part.T @ part
        slope += share[clip] * len(points) * slopes
        left.append(np.sqrt(share[clip]) * (shape - part))
    trace = slope.reshape(3, 68, 3)
    trace = (trace + np.array([-1, 1, -1])[:, None, None] * mirrored(trace)) / 2
    contamination = directions_of(CAUTION * following, directions)
    still = np.concatenate(left).reshape(-1, 68, 3)
    expression = np.concatenate(
        [
            directions_of(covariance(still, LIP_RELATED), lips),
            directions_of(covariance(still, np.concatenate([BROWS, EYE_RIGHT, EYE_LEFT])), upper),
        ]
    )
    model = FaceModel(
        mean,
        np.zeros((68, 3, 0)),
        expression.reshape(-1, 68, 3).transpose(1, 2, 0),
        contamination.reshape(-1, 68, 3),
        trace,
    )
    resting = np.stack([model.neutral(points) for points in clips.values()]) - mean
    weights = np.array([share[clip] * len(points) for clip, points in clips.items()])
    flat = resting.reshape(len(resting), 204) * np.sqrt(weights)[:, None]
    identity = directions_of(flat.T @ flat, identities)
    model = replace(model, identity_basis=identity.reshape(-1, 68, 3).transpose(1, 2, 0))
    return replace(model, sway=sway(model, clips, share))


def shares(clips: dict[str, Float]) -> dict[str, float]:
    """The weight of each clip: speakers count alike, but a single clip not as much as twenty. Sums to 1."""
    count = Counter(map(speaker, clips))
    weights = {clip: min(count[speaker(clip)], 5) / count[speaker(clip)] for clip in clips}
    total = sum(weights.values())
    return {clip: weight / total for clip, weight in weights.items()}


def mean_face(clips: dict[str, Float]) -> Float:
    """Symmetric; origin and scale as in `moditalker.geometry.points`; upright at the speakers' mean pitch."""
    weights = shares(clips)
    mean = next(iter(clips.values()))[0] * FLIP
    for _ in range(8):
        poses = {clip: procrustes(points, mean, WEIGHTS) for clip, points in clips.items()}
        mean = np.asarray(
            sum(weights[clip] * remove_pose(points, poses[clip]).mean(0) for clip, points in clips.items())
        )
        mean = (mean + mirrored(mean)) / 2
        pitch = np.radians(sum(weights[clip] * pose.angles()[:, 1].mean() for clip, pose in poses.items()))
        turn = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        mean = (mean - WEIGHTS @ mean / WEIGHTS.sum()) @ turn.T
        mean = mean / eye_distance(mean)
    return mean


def sway(model: FaceModel, clips: dict[str, Float], share: dict[str, float]) -> Float:
    """(Ke, 3): regression of the head's rotation within a clip on the expression."""
    size = model.expression_basis.shape[-1]
    square, product = np.zeros((size, size)), np.zeros((size, 3))
    for clip, points in clips.items():
        _, expression, pose = model.fit(points)
        change, turns = centred(expression), centred(rotation_vectors(pose))
        square += share[clip] * change.T @ change
        product += share[clip] * change.T @ turns
    return np.asarray(np.linalg.solve(square + 1e-3 * np.eye(size), product))


def rotation_vectors(pose: Pose) -> Float:
    """Small rotations against the clip's mean, in the head's own axes: (S, 3), radians."""
    u, _, vt = np.linalg.svd(pose.rotation.mean(0))
    turns = (u @ vt).T @ pose.rotation
    return (
        np.stack(
            [
                turns[:, 2, 1] - turns[:, 1, 2],
                turns[:, 0, 2] - turns[:, 2, 0],
                turns[:, 1, 0] - turns[:, 0, 1],
            ],
            -1,
        )
        / 2
    )


def centred(values: Float) -> Float:
    return values - values.mean(0)


def mirrored(shapes: Float) -> Float:
    """(..., 68, 3) of the face in the mirror."""
    return shapes[..., MIRROR, :] * np.array([-1.0, 1.0, 1.0])


def covariance(shapes: Float, points: NDArray[np.intp]) -> Float:
    """(204, 204), of these points alone; the others stay where they are."""
    kept = np.zeros_like(shapes)
    kept[:, points] = shapes[:, points]
    flat = kept.reshape(len(kept), 204)
    return flat.T @ flat


def directions_of(scatter: Float, count: int) -> Float:
    """(count, 204): strongest directions of a covariance (204, 204) made symmetric, times their deviation."""
    flipped = mirrored(mirrored(scatter.reshape(204, 68, 3)).reshape(204, 204).T.reshape(204, 68, 3))
    values, vectors = np.linalg.eigh((scatter + flipped.reshape(204, 204).T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))).T[::-1][:count]


if __name__ == "__main__":
    main()
