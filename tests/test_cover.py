"""What is in front of a face: the network, what it learns from, and what the shipped weights see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from covers.examples import examples, seen
from covers.people import People, find_people
from covers.task import CoverTask, collated
from covers.things import THINGS
from PIL import Image, ImageDraw, ImageFont

from moditalker.config import load
from moditalker.features.face.confidence import HIDDEN, lips_covered
from moditalker.features.face.cover import SIDE, Cover, inputs, load_cover, outlined
from moditalker.weights import named

CROP = load("tiny").crop


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """One free face: the astronaut."""
    from skimage import data

    path = tmp_path_factory.mktemp("people") / "astronaut.png"
    Image.fromarray(data.astronaut()[0:300, 60:400]).save(path)
    return find_people([("astronaut", path)], 3, CROP, log=lambda _: None)


def test_faces_are_found_aligned_and_kept(people, tmp_path):
    assert people.crops.shape == (1, 128, 128, 3)
    eyes = people.landmarks[0, 36:48]
    assert np.allclose(eyes.mean(0), [63.5, 26], atol=2)
    people.save(tmp_path / "faces.npz")
    again = People.load(tmp_path / "faces.npz")
    assert (again.crops == people.crops).all()
    assert (again.landmarks == people.landmarks).all()
    assert list(again.names) == ["astronaut"]
    assert len(again.of({"astronaut"}, without=True).names) == 0


def test_outlines_are_where_the_landmarks_are(people):
    face, lips, gap = outlined(people.landmarks[0])
    assert face.shape == (SIDE, SIDE)
    assert face.sum() > 3 * lips.sum() > 3 * gap.sum() >= 0
    x, y = (people.landmarks[0, 48:60] - [16, 32]).mean(0) * SIDE / 96
    rows, columns = np.mgrid[:SIDE, :SIDE]
    assert (lips * columns).sum() / lips.sum() == pytest.approx(x, abs=1.5)
    assert (lips * rows).sum() / lips.sum() == pytest.approx(y, abs=1.5)


@pytest.mark.slow
def test_it_costs_little():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        Cover()(torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE))
    assert counter.get_total_flops() < 0.05e9
    assert named.find("cover").stat().st_size < 1 << 20


def test_every_weight_learns():
    model = Cover()
    model(torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 3, SIDE, SIDE)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_crop_of_another_size_is_refused(people):
    with pytest.raises(ValueError, match="is needed"):
        inputs(np.zeros((256, 256, 3), np.uint8), people.landmarks[0])


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.__name__)
def test_things_that_are_put_in_front(people, thing):
    rng = np.random.default_rng(1)
    picture = people.crops[0] / np.float32(255)
    shares = []
    for _ in range(4):
        colours, share = thing(picture, people.landmarks[0], picture, rng)
        assert colours.shape == (128, 128, 3)
        assert share.shape == (128, 128)
        assert share.min() >= 0
        assert share.max() <= 1
        assert np.isfinite(colours).all()
        shares.append(share.mean())
    assert 0 < np.mean(shares) < 0.9


def test_examples_come_from_the_seed_alone_and_free_ones_are_free(people):
    one, two = (examples(people, 0, np.random.default_rng(3), 2) for _ in range(2))
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
    rng = np.random.default_rng(4)
    for _ in range(4):
        picture, outlines, covered = examples(people, 0, rng, free=1.0)[0]
        assert picture.shape == outlines.shape == (3, SIDE, SIDE)
        assert covered.shape == (SIDE, SIDE)
        assert covered.max() == 0
    assert max(float(examples(people, 0, rng, free=0.0)[0][2].max()) for _ in range(4)) > 0.9


def test_pictures_and_what_covers_them_move_together(people):
    rng = np.random.default_rng(5)
    white = np.zeros((128, 128, 3), np.float32)
    white[80:100, 50:80] = 1
    for _ in range(5):
        picture, _, covered = seen(white, people.landmarks[0], white[..., 0], rng)
        bright = picture.mean(0) > (picture.mean(0).min() + picture.mean(0).max()) / 2
        assert ((covered > 0.5) == bright).float().mean() > 0.95


@pytest.mark.slow
def test_it_learns_one_batch(people):
    torch.manual_seed(0)
    task = CoverTask(load("tiny"), people, people, batch=4)
    batch = task.batch(np.random.default_rng(0))
    optimizer = torch.optim.Adam(task.model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss, _ = task.loss(batch, torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    task.fixed = task.fixed[:32]
    figures = task.validate()
    assert set(figures) == {"iou", "false_alarms", "missed"}
    assert task.preview().shape == (12 * SIDE, 8 * SIDE, 3)


# --- the shipped weights -----------------------------------------------------------------------------------


def share(crop: np.ndarray, landmarks: np.ndarray) -> float:
    front = load_cover().covered(crop, landmarks)
    assert front.shape == (128, 128)
    assert front.dtype == np.float32
    assert front.min() >= 0
    assert front.max() <= 1
    return lips_covered(front, landmarks)


def test_a_free_face_is_free(people):
    crop, points = people.crops[0], people.landmarks[0]
    for picture in (crop, crop // 2):
        assert share(picture, points) <= HIDDEN


def drawn(crop: np.ndarray, landmarks: np.ndarray, what: str) -> np.ndarray:
    picture = Image.fromarray(crop)
    drawing = ImageDraw.Draw(picture)
    x, y = landmarks[48:68].mean(0).tolist()
    if what == "hand":
        skin = tuple(np.median(crop[50:90, 45:60].reshape(-1, 3), 0).astype(int).tolist())
        for k in range(4):
            dark = tuple(int(0.7 * c) for c in skin)
            drawing.line([(x + 60, y + 30 + 9 * k), (x - 12, y - 14 + 9 * k)], fill=dark, width=11)
            drawing.line([(x + 60, y + 30 + 9 * k), (x - 12, y - 14 + 9 * k)], fill=skin, width=8)
    elif what == "microphone":
        drawing.rectangle((x - 5, y + 10, x + 9, 128), fill=(25, 25, 28))
        drawing.ellipse((x - 12, y - 8, x + 16, y + 22), fill=(40, 40, 44))
    elif what == "caption":
        text, font = "what was said", ImageFont.load_default(16)
        drawing.text((8, y - 8), text, fill="white", font=font, stroke_width=1, stroke_fill="black")
    elif what == "mask":
        jaw = [tuple(point) for point in landmarks[2:15].tolist()]
        drawing.polygon([*jaw, tuple(landmarks[29].tolist())], fill=(120, 165, 200))
    return np.asarray(picture)


@pytest.mark.parametrize("what", ["hand", "microphone", "mask"])
def test_what_is_in_front_is_seen(people, what):
    crop, points = people.crops[0], people.landmarks[0]
    assert share(drawn(crop, points, what), points) > HIDDEN


def test_examples_make_a_batch(people):
    batch = collated(examples(people, 0, np.random.default_rng(0), 3))
    assert batch.pictures.shape == batch.outlines.shape == (3, 3, SIDE, SIDE)
    assert load_cover()(batch.pictures, batch.outlines).shape == batch.covered.shape == (3, SIDE, SIDE)


def test_only_named_weights_are_loaded(tmp_path: Path):
    from moditalker.errors import UserError

    with pytest.raises(UserError, match="does not exist"):
        load_cover(tmp_path / "none.safetensors")
