"""What is painted between lips: where teeth are, whose light they are in, and that it can be learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interior_task import InteriorTask, Mouth, learn_tint
from test_compose import face

from moditalker.config import load
from moditalker.errors import UserError
from moditalker.geometry.looks import Look
from moditalker.video.flow import outline_distance
from moditalker.video.interior import Interior, Place, load_interior, skin_around

SKIN = np.array([0.75, 0.55, 0.45])
REST = face()
UPPER_LIP = REST[62, 1]  # of the shut mouth
X = REST[62, 0]


def column(*below: float, x: float = X) -> np.ndarray:
    """Places so many pixels below the shut lips."""
    return np.array([[x, UPPER_LIP + y] for y in below])


@pytest.fixture(scope="module")
def shipped() -> Interior:
    return load_interior()


def test_upper_teeth_stay_while_the_jaw_takes_the_lower_ones_along():
    small, wide = (Place.of(face(opening), REST, column(1.0, 4.0)) for opening in (4.0, 9.0))
    assert torch.equal(small.upper, wide.upper)
    assert small.upper[0].tolist() == pytest.approx([0, 1.0])
    assert wide.moves[0] == pytest.approx(face(9.0)[8, 1] - REST[8, 1], abs=1e-4)
    torch.manual_seed(0)
    interior = Interior().requires_grad_(False)
    interior.jaw.copy_(torch.tensor([1.0, 0.0, 0.0]))
    interior.behind[-1].bias.fill_(-9)
    interior.behind[-1].weight.zero_()
    interior.light[-1].weight.zero_()
    interior.light[-1].bias.zero_()
    edge = {}
    for opening in (12.0, 16.0):
        down = np.linspace(6, 26, 200)
        light = interior(Place.of(face(opening), REST, column(*down))).mean(1)
        edge[opening] = down[int((light > 0.3).float().argmax())]
    moved = face(16.0)[8, 1] - face(12.0)[8, 1]
    assert edge[16.0] - edge[12.0] == pytest.approx(moved, abs=0.3)


def test_a_place_does_not_depend_on_the_crops_size():
    one, two = (Place.of(k * face(9.0), k * REST, k * column(1.0, 4.0, 6.0), k) for k in (1, 2))
    for a, b in zip(vars(one).values(), vars(two).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_turned_head_turns_the_teeth():
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = Place.of(face(9.0) @ turn.T, REST @ turn.T, column(1.0, 4.0) @ turn.T)
    assert torch.allclose(turned.upper, Place.of(face(9.0), REST, column(1.0, 4.0)).upper, atol=1e-4)


def test_shipped_layers_are_a_mouth(shipped):
    """Teeth at either lip, dark between them: weights of chance have none of it."""
    wide = face(14.0)
    tooth, dark, lower = shipped.paint(wide, REST, column(0.5, 5.5, 12.5, x=X - 2), SKIN).mean(1).tolist()
    assert tooth > 3 * dark
    assert lower > 2 * dark
    assert dark < 0.25
    sides = shipped.paint(wide, REST, np.concatenate([column(0.5, x=X + 9), column(0.5, x=X - 2)]), SKIN)
    assert sides[0].mean() < sides[1].mean()  # corners are in the shade


def test_teeth_are_in_the_light_of_the_face(shipped):
    at = column(0.5, x=X - 2)
    bright, dim = (shipped.paint(face(9.0), REST, at, light * SKIN)[0] for light in (0.8, 0.4))
    assert dim.mean() < 0.7 * bright.mean()
    warm, cold = (
        shipped.paint(face(9.0), REST, at, np.array(c))[0] for c in ([0.8, 0.5, 0.3], [0.6, 0.55, 0.6])
    )
    assert warm[0] - warm[2] > cold[0] - cold[2]
    assert shipped.paint(face(9.0), REST, at, np.ones(3) * 5).max() < 0.9


def test_stone_has_no_teeth_and_grey_pictures_have_no_colours(shipped):
    at = column(0.5, x=X - 2)
    stone = np.array([0.6, 0.59, 0.58])
    assert shipped.paint(face(9.0), REST, at, stone).max() < 0.25
    grey = shipped.paint(face(9.0), REST, at, stone, grey=True)[0]
    assert grey.min() > 0.25
    assert torch.equal(grey, grey[:1].expand(3))


def test_skin_is_seen_around_the_lips():
    places = np.stack(np.meshgrid(np.arange(128), np.arange(128)), axis=-1)
    near = np.abs(outline_distance(places, REST) - 5) < 3.5
    crop = np.zeros((128, 128, 3), np.uint8)
    crop[near] = [200, 100, 50]
    one = Look(crop, np.eye(2, 3), crop, REST)
    assert skin_around(one, 1.0) * 255 == pytest.approx([200, 100, 50])
    assert skin_around(one, 30.0).max() == 0  # nothing is that far: the whole crop


def mouths(count: int, enamel: tuple[float, float, float] = (0.8, 0.75, 0.6)) -> list[Mouth]:
    """Mouths whose upper teeth end 3 pixels below the shut lips, with dark below."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        wanted = face(float(rng.uniform(5, 12)))
        x, y = rng.uniform(-8, 8, 400) + X, rng.uniform(0, 1, 400)
        places = np.stack([x, UPPER_LIP + y * (wanted[66, 1] - UPPER_LIP)], axis=1)
        colours = np.where(places[:, 1:] < UPPER_LIP + 3, enamel, [0.1, 0.03, 0.03])
        parts = places, colours, wanted, REST, SKIN
        made.append(Mouth(*(np.asarray(part, np.float32) for part in parts)))
    return made


@pytest.mark.slow
def test_it_is_learnt_and_the_colour_of_teeth_too():
    torch.manual_seed(0)
    task = InteriorTask(load("tiny"), mouths(16), batch=4)
    before = task.validate()["l1"]
    optimizer = torch.optim.Adam(task.model.parameters(), 5e-3)
    rng, generator = np.random.default_rng(0), torch.Generator()
    for _ in range(150):
        loss, _ = task.loss(task.batch(rng), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.validate()["l1"] < 0.35 * before
    assert task.preview().ndim == 3
    interior = task.model.interior.requires_grad_(False)
    learn_tint(interior, mouths(3, (0.4, 0.3, 0.2)), [])
    painted = interior.paint(face(9.0), REST, column(1.0), SKIN)[0]
    assert painted.tolist() == pytest.approx([0.4, 0.3, 0.2], abs=0.08)


def test_too_few_mouths_are_said():
    with pytest.raises(UserError, match="3 open mouths were found; at least 8 are needed"):
        InteriorTask(load("tiny"), mouths(3), batch=4)
