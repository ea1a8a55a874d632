"""AToM: what the paper promises of its structure, on small networks with random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moditalker.config import AtomConfig, load
from moditalker.geometry.points import LIP_RELATED, shut_mouth
from moditalker.motion.atom import NUMBERS, Atom, AtomBlock, from_x0, to_x0

SMALL = AtomConfig(width=32, layers=2, heads=4, feed_forward=48, frames=10)
WIDTH = 24  # of speech


def build(config: AtomConfig = SMALL, seed: int = 0) -> Atom:
    torch.manual_seed(seed)
    return Atom(config, WIDTH).eval()


def inputs(batch: int = 2, frames: int = 10, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xt, t, speech, l_id."""
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, frames, NUMBERS, generator=g),
        torch.randint(0, 1000, (batch,), generator=g),
        torch.randn(batch, 2 * frames, WIDTH, generator=g),
        torch.randn(batch, NUMBERS, generator=g),
    )


def branches_of_first_block(atom: Atom, monkeypatch: pytest.MonkeyPatch, *args: Tensor) -> list[Tensor]:
    """What the first block's branches hand to the merge: lips, then the upper face."""
    outputs: list[Tensor] = []
    branch = AtomBlock.branch

    def recording(self: AtomBlock, *a: object) -> Tensor:
        outputs.append(branch(self, *a))  # type: ignore[arg-type]
        return outputs[-1]

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(AtomBlock, "branch", recording)
        atom(*args)
    return outputs[:2]


@pytest.mark.parametrize("leak", [False, True], ids=["paper", "released"])
def test_audio_reaches_the_lips_only(leak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    atom = build(replace(SMALL, audio_to_upper=leak))
    xt, t, speech, l_id = inputs()
    lips, upper = branches_of_first_block(atom, monkeypatch, xt, t, speech, l_id)
    other_lips, other_upper = branches_of_first_block(atom, monkeypatch, xt, t, speech.flip(1), l_id)
    assert not torch.equal(lips, other_lips)
    assert torch.equal(upper, other_upper) is not leak


def test_zero_residual_is_l_id() -> None:
    l_id = torch.randn(2, NUMBERS)
    landmarks = from_x0(torch.zeros(2, 5, NUMBERS), l_id, replace(SMALL, scale=7.0))
    assert torch.equal(landmarks, l_id[:, None].expand(-1, 5, -1))


@pytest.mark.parametrize("residual", [True, False])
def test_residual_and_back(residual: bool) -> None:
    config = replace(SMALL, residual=residual, scale=3.0)
    landmarks, l_id = torch.randn(2, 5, NUMBERS), torch.randn(2, NUMBERS)
    x0 = to_x0(landmarks, l_id, config)
    assert torch.allclose(x0, 3 * (landmarks - l_id[:, None] if residual else landmarks))
    assert torch.allclose(from_x0(x0, l_id, config), landmarks, atol=1e-6)


@pytest.mark.parametrize("audio_window", [0, 3])
@pytest.mark.parametrize("landmark_embedding", [True, False])
@pytest.mark.parametrize("disentangled", [True, False])
def test_every_parameter_gets_a_gradient(
    disentangled: bool, landmark_embedding: bool, audio_window: int
) -> None:
    """Paper semantics and its ablations (Table 2) keep no dead weights."""
    atom = build(
        replace(
            SMALL,
            disentangled=disentangled,
            landmark_embedding=landmark_embedding,
            audio_window=audio_window,
        )
    )
    xt, t, speech, _ = inputs()
    # Were l_id the same in each frame, attention among its tokens could not matter, and had no gradient.
    l_id = torch.randn(2, 10, NUMBERS)
    output = atom(xt, t, speech, l_id, torch.tensor([True, False]))
    assert output.shape == (2, 10, NUMBERS)
    output.square().sum().backward()
    for name, parameter in atom.named_parameters():
        if name.endswith("key.bias"):  # adds the same to all scores of a query: softmax cannot see it
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize(("batch", "frames"), [(1, 10), (3, 7), (2, 1)])
def test_shapes_of_shorter_windows(batch: int, frames: int) -> None:
    assert build()(*inputs(batch, frames)).shape == (batch, frames, NUMBERS)


def test_windows_that_do_not_fit() -> None:
    atom = build()
    xt, t, speech, l_id = inputs(1, 11)
    with pytest.raises(ValueError, match="at most 10 frames"):
        atom(xt, t, speech, l_id)
    xt, t, speech, l_id = inputs(1, 10)
    with pytest.raises(ValueError, match="19 speech features; 2 a frame"):
        atom(xt, t, speech[:, :19], l_id)
    with pytest.raises(ValueError, match="9 frames of landmarks; the speech is of 10"):
        atom(xt[:, :9], t, speech, l_id)


@torch.no_grad()
def test_batch_is_its_samples() -> None:
    atom, batch = build(), inputs(2)
    both = atom(*batch)
    for i in range(2):
        assert torch.allclose(atom(*(x[i : i + 1] for x in batch)), both[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_identity_may_be_repeated_by_the_caller() -> None:
    atom, (xt, t, speech, l_id) = build(), inputs()
    repeated = l_id[:, None].expand(-1, 10, -1)
    assert torch.equal(atom(xt, t, speech, l_id), atom(xt, t, speech, repeated))


@torch.no_grad()
def test_conditions_are_encoded_once() -> None:
    atom, (xt, t, speech, l_id) = build(), inputs()
    conditions = atom.encode(speech, l_id)
    assert torch.equal(atom.denoise(xt, t, conditions), atom(xt, t, speech, l_id))


@torch.no_grad()
def test_dropped_conditions_say_nothing() -> None:
    atom, (xt, t, speech, l_id) = build(), inputs()
    drop = torch.tensor([True, False])
    one = atom(xt, t, speech, l_id, drop)
    other = atom(xt, t, speech.flip(1), -l_id, drop)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_audio_window() -> None:
    """A frame sees the audio and F_L within the window of its own time, and all time tokens."""
    atom = build(replace(SMALL, audio_window=2))
    _, _, mask = atom.positions(10, torch.device("cpu"))
    assert mask is not None
    assert mask.shape == (10, 20 + 2 + 10)
    assert mask[:, 20:22].all()
    assert mask[5, 22:].nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    assert mask[5, :20].nonzero().flatten().tolist() == list(range(7, 15))  # tokens centred 3.25 to 6.75
    assert build().positions(10, torch.device("cpu"))[2] is None


@pytest.mark.parametrize("preset", ["tiny", "paper", "released"])
def test_presets_build(preset: str) -> None:
    """At their full sizes, without memory for the weights."""
    config = load(preset)
    with torch.device("meta"):
        atom = Atom(config.atom, config.speech.width)
    assert len(atom.blocks) == config.atom.layers


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "paper", "released"])
def test_presets_run(preset: str) -> None:
    config = load(preset)
    frames, width = config.atom.frames, config.speech.width
    with torch.device("meta"):
        atom, xt = Atom(config.atom, width), torch.zeros(2, frames, NUMBERS)
        t, speech, l_id = torch.zeros(2), torch.zeros(2, 2 * frames, width), torch.zeros(2, NUMBERS)
        assert atom(xt, t, speech, l_id).shape == xt.shape


def test_first_estimate_is_linear_in_the_speech_near_a_frame() -> None:
    config = AtomConfig(width=16, layers=1, heads=2, frames=16, first_estimate=5)
    torch.manual_seed(0)
    estimate = Atom(config, WIDTH).first_estimate
    assert estimate is not None
    one, two = torch.randn(2, 1, 32, WIDTH)
    l_id = torch.zeros(1, 16, NUMBERS)
    middle = (estimate(one, l_id) + estimate(two, l_id)) / 2
    torch.testing.assert_close(estimate((one + two) / 2, l_id), middle, rtol=1e-4, atol=1e-5)
    changed = one.clone()
    changed[:, 30:] += 1
    moved = (estimate(changed, l_id) - estimate(one, l_id)).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [frame >= 15 - estimate.REACH for frame in range(16)]


def layered() -> Atom:
    config = load("tiny").atom
    torch.manual_seed(0)
    return Atom(replace(config, width=32, layers=1, first_estimate=16, dropout=0.0), 8).eval()


def test_so_much_is_added_to_the_estimate_once_trained() -> None:
    model = layered()
    torch.nn.init.normal_(model.out.weight)
    speech, l_id, xt, t = torch.randn(2, 32, 8), torch.randn(2, 204), torch.randn(2, 16, 204), torch.zeros(2)
    conditions = model.encode(speech, l_id)
    whole, estimate = model.denoise(xt, t.long(), conditions), conditions.estimate
    assert estimate is not None
    assert (whole - estimate).abs().max() > 0.1
    model.config = replace(model.config, added=0.25)
    torch.testing.assert_close(model.denoise(xt, t.long(), conditions), estimate + 0.25 * (whole - estimate))
    model.train()
    torch.testing.assert_close(model.denoise(xt, t.long(), conditions), whole)  # it learns all of it
    model.config = replace(model.config, alone=True)
    torch.testing.assert_close(model.denoise(xt, t.long(), conditions), whole - estimate)
    model.eval()  # the mean of both
    mixed = 0.75 * estimate + 0.25 * (whole - estimate)
    torch.testing.assert_close(model.denoise(xt, t.long(), conditions), mixed)
    given = model.encode(speech, l_id, estimate=torch.ones(2, 16, 204)).estimate
    assert given is not None
    assert torch.equal(given, torch.ones(2, 16, 204))


def test_an_estimate_with_layers_moves_lips_and_jaw_from_the_shut_mouth() -> None:
    model = layered()
    estimate, config = model.first_estimate, model.config
    assert estimate is not None
    speech, l_id = torch.randn(1, 40, 8), torch.randn(1, NUMBERS)
    made = from_x0(estimate(speech, l_id[:, None].expand(-1, 20, -1)), l_id, config)[0].unflatten(-1, (-1, 3))
    face = l_id[0].unflatten(-1, (-1, 3))
    assert torch.allclose(made[:, 17:48], face[17:48].expand(20, -1, -1), atol=1e-5)
    assert made[:, LIP_RELATED].std(0).min() > 0
    torch.nn.init.zeros_(estimate.map.weight)
    torch.nn.init.zeros_(estimate.map.bias)
    still = from_x0(estimate(speech, l_id[:, None].expand(-1, 20, -1)), l_id, config)[0].unflatten(
        -1, (-1, 3)
    )
    shut = torch.from_numpy(shut_mouth(face.numpy()))
    assert torch.allclose(still, shut.expand(20, -1, -1), atol=1e-5)


def test_an_estimate_with_layers_sees_no_further_than_its_convolutions() -> None:
    estimate = layered().first_estimate
    assert estimate is not None
    reach = 2 * (1 + 2 + 4 + 1)
    speech, l_id = torch.randn(1, 160, 8), torch.zeros(1, 80, NUMBERS)
    other = speech.clone()
    other[:, 80:] += 1  # from frame 40 on
    same = torch.isclose(estimate(speech, l_id), estimate(other, l_id), atol=1e-6).all(-1)[0]
    assert same[: 40 - reach].all()
    assert not same[40 - reach :].all()
