"""The authors' names to ours, and reading files that nobody vouches for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moditalker import MoDiTalker, cli
from moditalker.config import AtomConfig, AutoencoderConfig, MToVConfig, load
from moditalker.errors import UserError
from moditalker.motion.atom import Atom
from moditalker.talker.convert import convert_atom, convert_autoencoder, convert_unet, read_checkpoint
from moditalker.video.autoencoder import Autoencoder, plane_shape
from moditalker.video.mtov import MToV
from moditalker.weights.files import load_weights


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def layer(name: str, *shape: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(shape[0])}


def conv(name: str, into: int, out: int, *kernel: int) -> dict[str, Tensor]:
    return layer(name, out, into, *kernel)


def norm(name: str, width: int) -> dict[str, Tensor]:
    return layer(name, width)


def unet_state(config: MToVConfig, plane_channels: int) -> dict[str, Tensor]:
    """Names and shapes of the authors' UNet of any size, as the ADM family lays its blocks out."""
    c = config.channels
    state = {**layer("time_embed.0", 4 * c, c), **layer("time_embed.2", 4 * c, 4 * c)}

    def residual(name: str, into: int, out: int) -> None:
        state.update(norm(f"{name}.in_layers.0", into) | conv(f"{name}.in_layers.2", into, out, 3, 3))
        state.update(layer(f"{name}.emb_layers.1", 2 * out, 4 * c) | norm(f"{name}.out_layers.0", out))
        state.update(conv(f"{name}.out_layers.3", out, out, 3, 3))
        if into != out:
            state.update(conv(f"{name}.skip_connection", into, out, 1, 1))

    def attention(name: str, width: int) -> None:
        state.update(norm(f"{name}.norm", width) | conv(f"{name}.qkv", width, 3 * width, 1))
        state.update(conv(f"{name}.proj_out", width, width, 1))

    state.update(conv("input_blocks.0.0", 4 * plane_channels, c * config.multipliers[0], 3, 3))
    channels, number, skips = c * config.multipliers[0], 1, [c * config.multipliers[0]]
    levels = len(config.multipliers)
    for level, multiplier in enumerate(config.multipliers):
        for _ in range(config.blocks):
            residual(f"input_blocks.{number}.0", channels, c * multiplier)
            channels = c * multiplier
            if 2**level in config.attention:
                attention(f"input_blocks.{number}.1", channels)
            attention(f"input_attns.{number}", channels)
            skips.append(channels)
            number += 1
        if level < levels - 1:
            residual(f"input_blocks.{number}.0", channels, channels)
            attention(f"input_attns.{number}", channels)
            skips.append(channels)
            number += 1
    residual("middle_block.0", channels, channels)
    attention("middle_block.1", channels)
    residual("middle_block.2", channels, channels)
    attention("mid_attn", channels)
    number = 0
    for level in reversed(range(levels)):
        for i in range(config.blocks + 1):
            width = c * config.multipliers[level]
            residual(f"output_blocks.{number}.0", channels + skips.pop(), width)
            channels, part = width, 1
            if 2**level in config.attention:
                attention(f"output_blocks.{number}.1", channels)
                part = 2
            if level and i == config.blocks:
                residual(f"output_blocks.{number}.{part}", channels, channels)
            attention(f"output_attns.{number}", channels)
            number += 1
    return state | norm("out.0", channels) | conv("out.2", channels, plane_channels, 3, 3)


@pytest.mark.parametrize(
    "config",
    [
        MToVConfig(channels=32, identity_planes="hw"),
        MToVConfig(channels=32, multipliers=(2, 1, 3), blocks=1, attention=(4,)),
        MToVConfig(channels=64, multipliers=(1,), blocks=3, attention=()),
    ],
    ids=["released", "attention low", "one level"],
)
def test_unet_of_any_size(config: MToVConfig) -> None:
    theirs = unet_state(config, 4)
    dead = {f"output_bg_blocks.{name}": tensor for name, tensor in layer("0.0.out_layers.3", 2).items()}
    ours = MToV(config, plane_shape(AutoencoderConfig()), 4)
    converted, dropped = convert_unet(
        {f"diffusion_model.{name}": tensor for name, tensor in (theirs | dead).items()}
    )
    assert shapes(converted) == shapes(ours.state_dict())
    assert dropped == list(dead)


def test_atom_names() -> None:
    """Packed projections come apart in the order query, key, value."""
    packed = torch.arange(12.0)[:, None].expand(12, 4)
    converted, dropped = convert_atom(
        {
            "seqTransDecoder.stack.3.multihead_attn.in_proj_weight": packed,
            "seqTransDecoder.stack.3.multihead_attn.out_proj.bias": torch.ones(4),
            "seqTransDecoder.stack.10.linear3.bias": torch.ones(8),
            "seqTransDecoder.stack.10.linear2.bias": torch.ones(4),
            "null_cond_hidden": torch.zeros(1, 4),
            "somebody.elses": torch.zeros(1),
        }
    )
    assert {name: tensor.flatten()[0].item() for name, tensor in converted.items()} == {
        "blocks.3.cross_attention.query.weight": 0,
        "blocks.3.cross_attention.key.weight": 4,
        "blocks.3.cross_attention.value.weight": 8,
        "blocks.3.cross_attention.out.bias": 1,
        "blocks.10.out.bias": 1,
        "null_speech_vector": 0,
    }
    assert dropped == ["seqTransDecoder.stack.10.linear2.bias", "somebody.elses"]


def attention(name: str, width: int) -> dict[str, Tensor]:
    """Torch's own attention, packed."""
    packed = {
        f"{name}.in_proj_weight": torch.empty(3 * width, width),
        f"{name}.in_proj_bias": torch.empty(3 * width),
    }
    return packed | layer(f"{name}.out_proj", width, width)


def atom_state(config: AtomConfig, speech_width: int) -> dict[str, Tensor]:
    """Names and shapes of the authors' AToM of any size, with parameters that no computation uses."""
    d, hidden = config.width, config.feed_forward
    state = layer("time_mlp.1", 4 * d, d) | layer("to_time_cond.0", d, 4 * d)
    state |= layer("to_time_tokens.0", 2 * d, 4 * d) | layer("to_face_cond.0", d, 4 * d)
    state |= {"null_cond_hidden": torch.empty(1, d), "rotary.freqs": torch.empty(d // 2)}
    for name, prefix, width, length in (
        ("cond", "", speech_width, 2 * config.frames),
        ("face", "face_", 204, config.frames),
    ):
        state[f"{prefix}null_cond_embed"] = torch.empty(1, length, d)
        state |= layer(f"{name}_projection", d, width) | norm(f"non_attn_{name}_projection.0", d)
        state |= layer(f"non_attn_{name}_projection.1", d, d) | layer(f"non_attn_{name}_projection.3", d, d)
        for i in range(2):
            part = f"{name}_encoder.{i}"
            state |= norm(f"{part}.norm1", d) | norm(f"{part}.norm2", d) | attention(f"{part}.self_attn", d)
            state |= layer(f"{part}.linear1", hidden, d) | layer(f"{part}.linear2", d, hidden)
            state[f"{part}.rotary.freqs"] = torch.empty(d // 2)
    state |= norm("norm_cond", d) | layer("final_layer", 204, 2 * d) | layer("input_projection", d, 204)
    state |= layer("input_projection_lip", d, 111) | layer("input_projection_wo_lip", d, 93)
    for i in range(config.layers):
        part = f"seqTransDecoder.stack.{i}"
        for number in (1, 2, 3):
            state |= norm(f"{part}.norm{number}", d) | layer(f"{part}.film{number}.block.1", 2 * d, d)
        state |= attention(f"{part}.self_attn", d) | attention(f"{part}.multihead_attn", d)
        state |= layer(f"{part}.linear1", hidden, d) | layer(f"{part}.linear2", d, hidden)
        state |= layer(f"{part}.linear3", 2 * d, d)
    return state


def autoencoder_state(config: AutoencoderConfig) -> dict[str, Tensor]:
    """Names and shapes of the authors' autoencoder of any size."""
    d, inner = config.dim, config.heads * config.head_dim
    state = {"coords": torch.empty(16, 1)}
    for part, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        state[f"{part}.frame_rot_emb.inv_freqs"] = torch.empty(config.head_dim // 2)
        for i in range(layers):
            for number in (0, 1):
                name = f"{part}.layers.{i}.{number}"
                state |= norm(f"{name}.norm", d) | layer(f"{name}.fn.to_out.0", d, inner)
                state[f"{name}.fn.to_qkv.weight"] = torch.empty(3 * inner, d)
            wide = config.feed_forward * d
            name = f"{part}.layers.{i}.2"
            state |= norm(f"{name}.norm", d) | layer(f"{name}.fn.net.0", 2 * wide, d)
            state |= layer(f"{name}.fn.net.3", d, wide)
    state |= layer("encoder.to_patch_embedding", d, 3 * config.patch**2)
    state["to_pixel.1.weight"] = torch.empty(d, 3, config.patch, config.patch)
    state["to_pixel.1.bias"] = torch.empty(3)
    lengths = {"xy": config.frames, "yt": config.height // config.patch, "xt": config.width // config.patch}
    for plane, length in lengths.items():
        state |= {
            f"{plane}_token": torch.empty(1, 1, d),
            f"{plane}_pos_embedding": torch.empty(1, length + 1, d),
        }
        state |= conv(f"pre_{plane}", d, config.plane_channels, 1, 1)
        state |= conv(f"post_{plane}", config.plane_channels, d, 1, 1)
        attended = config.collapse_heads * (d // 8)
        for i in range(config.collapse_layers):
            name = f"{plane}_quant_attn.layers.{i}"
            state |= norm(f"{name}.0.norm", d) | layer(f"{name}.0.fn.to_out.0", d, attended)
            state[f"{name}.0.fn.to_qkv.weight"] = torch.empty(3 * attended, d)
            state |= norm(f"{name}.1.norm", d)
            state |= layer(f"{name}.1.fn.net.0", config.collapse_feed_forward, d)
            state |= layer(f"{name}.1.fn.net.3", d, config.collapse_feed_forward)
    return state


SMALL = [
    *("speech.encoder=whisper", "speech.layers=[2, 3]", "speech.width=768"),
    *("crop.size=64", "crop.pose_rows=32", "crop.eye_distance=20", "crop.eye_row=13"),
    *("atom.width=32", "atom.layers=2", "atom.heads=2", "atom.feed_forward=48", "atom.frames=24"),
    *("atom.overlap=4", "atom_diffusion.sampling_steps=2"),
    *("autoencoder.height=64", "autoencoder.width=64", "autoencoder.dim=32", "autoencoder.encoder_layers=1"),
    *("autoencoder.decoder_layers=1", "autoencoder.collapse_layers=1", "autoencoder.heads=2"),
    *("mtov.channels=32", "mtov.multipliers=[1, 2]", "mtov.blocks=1", "mtov.heads=4"),
    "mtov_diffusion.sampling_steps=2",
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as the authors' code saves them, of small networks with random weights."""
    folder, config = tmp_path_factory.mktemp("theirs"), load("released", overrides=SMALL)
    torch.manual_seed(0)

    def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: 0.1 * torch.randn(tensor.shape) for name, tensor in state.items()}

    unet = {f"diffusion_model.{k}": v for k, v in filled(unet_state(config.mtov, 4)).items()}
    contents = {
        "atom": {"model_state_dict": filled(atom_state(config.atom, 768)), "epoch": 3},
        "autoencoder": filled(autoencoder_state(config.autoencoder)),
        "landmark-autoencoder": {
            f"module.{name}": tensor for name, tensor in filled(autoencoder_state(config.autoencoder)).items()
        },
        "diffusion": unet,
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in contents}


def convert(out: Path, theirs: dict[str, Path], *names: str, settings: list[str] = SMALL) -> int:
    files = [word for name in names for word in (f"--{name}", str(theirs[name]))]
    with pytest.raises(SystemExit) as left:
        cli.main(
            ["weights", "convert", *files, "--out", str(out), *(f"--set={setting}" for setting in settings)]
        )
    return int(left.value.code or 0)


def test_a_folder_that_from_pretrained_opens(
    tmp_path: Path, theirs: dict[str, Path], face_video: Path, speech_wav: Path
) -> None:
    out = tmp_path / "out"
    assert convert(out, theirs, *theirs) == 0
    files = {"atom", "autoencoder", "landmark-autoencoder", "mtov"}
    assert {path.name for path in out.iterdir()} == {f"{name}.safetensors" for name in files}
    talker = MoDiTalker.from_pretrained(out)
    report = talker.generate(face_video, speech_wav, provenance=None).save(tmp_path / "talking.mp4")
    assert report["frames"] > 0
    # What the parts hold is what the files held, each where it belongs.
    read = {name: torch.load(path, weights_only=True) for name, path in theirs.items()}
    state, about = load_weights(out / "mtov.safetensors")
    assert set(about["source"]) == {"autoencoder.pt", "landmark-autoencoder.pt", "diffusion.pt"}
    rgb, landmarks = read["autoencoder"], read["landmark-autoencoder"]
    for part in ("autoencoder.encoder", "pose_encoder"):
        assert torch.equal(state[f"{part}.embed.weight"], rgb["encoder.to_patch_embedding.weight"])
    embed = landmarks["module.encoder.to_patch_embedding.weight"]
    assert torch.equal(state["landmark_encoder.embed.weight"], embed)
    first = read["diffusion"]["diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(state["unet.input.weight"], first)
    atom = load_weights(out / "atom.safetensors")[0]
    assert torch.equal(atom["out.weight"], read["atom"]["model_state_dict"]["final_layer.weight"])


def test_without_diffusion_there_is_motion_but_no_video(
    tmp_path: Path,
    theirs: dict[str, Path],
    face_video: Path,
    speech_wav: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert convert(tmp_path / "out", theirs, "atom", "autoencoder") == 0
    assert "the diffusion is missing" in capsys.readouterr().out
    assert not (tmp_path / "out" / "mtov.safetensors").exists()
    talker = MoDiTalker.from_pretrained(tmp_path / "out")
    assert talker.track(face_video, speech_wav).landmarks.shape[1:] == (68, 3)
    with pytest.raises(UserError, match="no video stage"):
        talker.generate(face_video, speech_wav).save(tmp_path / "talking.mp4")
    assert not (tmp_path / "talking.mp4").exists()


def test_files_that_do_not_fit_leave_nothing(
    tmp_path: Path, theirs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wrong = {**theirs, "autoencoder": theirs["atom"]}
    assert convert(out, theirs) == 2
    assert "at least one" in capsys.readouterr().err
    assert convert(out, theirs, "atom", "diffusion") == 2
    assert "both autoencoders" in capsys.readouterr().err
    assert convert(out, wrong, "atom", "autoencoder") == 2
    assert "not this part, or of another size" in capsys.readouterr().err
    assert convert(out, theirs, "atom", settings=[*SMALL, "atom.layers=3"]) == 2
    assert "--set atom.width=256" in capsys.readouterr().err
    assert not out.exists()


def test_what_is_missing_is_noticed() -> None:
    atom = Atom(AtomConfig(width=16, layers=1, heads=2, frames=4), 8)
    autoencoder = Autoencoder(
        AutoencoderConfig(dim=16, encoder_layers=1, decoder_layers=1, collapse_layers=1)
    )
    for model, converted in ((atom, convert_atom({})), (autoencoder, convert_autoencoder({}))):
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(converted.state)


def test_read_nested_and_wrapped(tmp_path: Path) -> None:
    weight = torch.randn(2, 3)
    contents = (
        {"model_state_dict": {"a.weight": weight}, "optimizer_state_dict": {"step": 5}},
        {"diffusion_model.a.weight": weight, "epoch": 3},
        {"state_dict": {"module.diffusion_model.a.weight": weight}},
    )
    for content in contents:
        torch.save(content, tmp_path / "theirs.pt")
        state = read_checkpoint(tmp_path / "theirs.pt")
        assert list(state) == ["a.weight"]
        assert torch.equal(state["a.weight"], weight)


class Trap:
    """Pickled code: opening it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    for save in (lambda c, p: torch.save(c, p), lambda c, p: p.write_bytes(pickle.dumps(c))):
        save({"a": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
        with pytest.raises(UserError, match="not a file of plain tensors"):
            read_checkpoint(tmp_path / "trap.pt")
        assert not (tmp_path / "sprung").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pt"
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(path)
    with pytest.raises(UserError, match="not a file of plain tensors"):
        read_checkpoint(tmp_path)
    torch.save({"a": torch.zeros(1000)}, path)
    half = path.read_bytes()[:2000]
    for content in (b"", b"hello", half):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a file of plain tensors"):
            read_checkpoint(path)
    unnamed = {0: torch.zeros(1)}
    for nothing in ({}, [1, 2], {"epoch": 3}, {"model_state_dict": {"step": 1}}, unnamed):
        torch.save(nothing, path)
        with pytest.raises(UserError, match="holds no tensors"):
            read_checkpoint(path)
