"""Converts the authors' checkpoints to a folder that `MoDiTalker.from_pretrained` opens.

Each ``convert_*`` takes the authors' state and returns ours, and the names that were dropped because no
computation uses them. A rule is a line: a pattern for the beginning of the authors' name, and our name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moditalker.config import Config, to_dict
from moditalker.errors import UserError
from moditalker.motion.atom import Atom
from moditalker.video.autoencoder import Autoencoder
from moditalker.video.model import VideoModel
from moditalker.weights.files import save_weights
from moditalker.weights.named import sha256

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]


class Converted(NamedTuple):
    """A state under our names, and the authors' names that have no use."""

    state: State
    dropped: list[str]


def read_checkpoint(path: str | Path) -> State:
    """Tensors of an untrusted ``.pt`` file, by name: no code in it is run.

    The authors nest the state under ``model_state_dict`` (AToM) and prefix names by ``diffusion_model.``
    (UNet); both are taken off. Raises UserError where the file cannot be read or holds no tensors.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give the authors' checkpoint file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickles; the error below says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch's reader raise anything, KeyError too
        reason = error.strerror if isinstance(error, OSError) else "it is damaged or holds other things"
        raise UserError(f"{path} is not a file of plain tensors: {reason}; it was not opened") from None
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    state = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        raise UserError(f"{path} holds no tensors by name; give the authors' checkpoint file")
    return strip(state, ("module.", "diffusion_model."))


def strip(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> State:
    """Names without the prefixes that wrappers put before them."""
    stripped = {}
    for name, tensor in state.items():
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        stripped[name] = tensor
    return stripped


def rename(state: Mapping[str, Tensor], rules: Rules) -> Converted:
    """Apply the first rule whose pattern matches a name up to a dot or its end; drop what no rule knows."""
    converted = Converted({}, [])
    for name, tensor in state.items():
        for pattern, ours in rules:
            match = re.match(rf"(?:{pattern})(?=\.|$)", name)
            if match:
                converted.state[match.expand(ours) + name[match.end() :]] = tensor
                break
        else:
            converted.dropped.append(name)
    return converted


ATOM: Rules = (
    (r"time_mlp\.1", r"time.0"),
    (r"to_time_cond\.0", r"time_vector"),
    (r"to_time_tokens\.0", r"time_tokens"),
    (r"null_cond_hidden", r"null_speech_vector"),
    (r"null_cond_embed", r"speech_encoder.null"),
    (r"face_null_cond_embed", r"landmark_encoder.null"),
    (r"cond_projection", r"speech_encoder.project"),
    (r"face_projection", r"landmark_encoder.project"),
    (r"non_attn_cond_projection", r"speech_encoder.pool"),
    (r"non_attn_face_projection", r"landmark_encoder.pool"),
    (r"cond_encoder\.(\d+)\.norm1", r"speech_encoder.layers.\1.norm"),
    (r"cond_encoder\.(\d+)\.norm2", r"speech_encoder.layers.\1.feed_forward.norm"),
    (r"cond_encoder\.(\d+)\.linear1", r"speech_encoder.layers.\1.feed_forward.inner"),
    (r"cond_encoder\.(\d+)\.linear2", r"speech_encoder.layers.\1.feed_forward.outer"),
    (r"cond_encoder\.(\d+)\.self_attn", r"speech_encoder.layers.\1.self_attention.attention"),
    (r"face_encoder\.(\d+)\.norm1", r"landmark_encoder.layers.\1.norm"),
    (r"face_encoder\.(\d+)\.norm2", r"landmark_encoder.layers.\1.feed_forward.norm"),
    (r"face_encoder\.(\d+)\.linear1", r"landmark_encoder.layers.\1.feed_forward.inner"),
    (r"face_encoder\.(\d+)\.linear2", r"landmark_encoder.layers.\1.feed_forward.outer"),
    (r"face_encoder\.(\d+)\.self_attn", r"landmark_encoder.layers.\1.self_attention.attention"),
    (r"norm_cond", r"memory_norm"),
    (r"input_projection_lip", r"inputs.0"),
    (r"input_projection_wo_lip", r"inputs.1"),
    (r"seqTransDecoder\.stack\.(\d+)\.(film\d)\.block", r"blocks.\1.\2.scale_and_shift"),
    (r"seqTransDecoder\.stack\.(\d+)\.(norm\d)", r"blocks.\1.\2"),
    (r"seqTransDecoder\.stack\.(\d+)\.self_attn", r"blocks.\1.self_attention.attention"),
    (r"seqTransDecoder\.stack\.(\d+)\.multihead_attn", r"blocks.\1.cross_attention"),
    (r"seqTransDecoder\.stack\.(\d+)\.linear3", r"blocks.\1.out"),
    (r"final_layer", r"out"),
)


def split_attention(state: Mapping[str, Tensor]) -> State:
    """Torch's packed ``in_proj`` into query, key and value."""
    result = {}
    for name, tensor in state.items():
        if ".in_proj_" in name:
            stem, kind = name.split("in_proj_")
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[f"{stem}{part}.{kind}"] = piece.clone()
        else:
            result[name.replace(".out_proj.", ".out.")] = tensor
    return result


def convert_atom(state: Mapping[str, Tensor]) -> Converted:
    """The authors' motion decoder -> :class:`moditalker.motion.atom.Atom` under preset ``released``."""
    converted = rename(strip(state, ("module.",)), ATOM)
    return Converted(split_attention(converted.state), converted.dropped)


UNET: Rules = (
    (r"time_embed", r"time"),
    (r"input_blocks\.-1\.0", r"input"),
    (r"input_blocks\.(\d+)\.0", r"encoder.\1.block"),
    (r"input_blocks\.(\d+)\.1", r"encoder.\1.within"),
    (r"input_attns\.(\d+)", r"encoder.\1.across"),
    (r"middle_block\.0", r"middle.block"),
    (r"middle_block\.1", r"middle.within"),
    (r"middle_block\.2", r"middle.then"),
    (r"mid_attn", r"middle.across"),
    (r"output_blocks\.(\d+)\.0", r"decoder.\1.block"),
    (r"output_blocks\.(\d+)\.[12](?=\.(?:in|emb|out)_layers)", r"decoder.\1.then"),
    (r"output_blocks\.(\d+)\.1", r"decoder.\1.within"),
    (r"output_attns\.(\d+)", r"decoder.\1.across"),
    (r"out", r"out"),
)

UNET_PARTS: Rules = (
    (r"(.*)\.in_layers\.0", r"\1.norm1"),
    (r"(.*)\.in_layers\.2", r"\1.conv1"),
    (r"(.*)\.emb_layers\.1", r"\1.scale_and_shift.1"),
    (r"(.*)\.out_layers\.0", r"\1.norm2"),
    (r"(.*)\.out_layers\.3", r"\1.conv2"),
    (r"(.*)\.skip_connection", r"\1.skip"),
    (r"(.*)\.proj_out", r"\1.out"),
    (r".*", r"\g<0>"),
)


def convert_unet(state: Mapping[str, Tensor]) -> Converted:
    """The authors' UNet -> :class:`moditalker.video.mtov.MToV` under preset ``released``."""
    numbered = {}  # their input convolution is number 0 of the blocks; ours stands apart
    for name, tensor in strip(state, ("module.", "diffusion_model.")).items():
        name = re.sub(r"^(input_blocks|input_attns)\.(\d+)", lambda m: f"{m[1]}.{int(m[2]) - 1}", name)
        numbered[name] = tensor.squeeze(-1) if tensor.ndim == 3 else tensor  # 1x1 convolution of a sequence
    converted = rename(numbered, UNET)
    return Converted(rename(converted.state, UNET_PARTS).state, converted.dropped)


def _collapse(theirs: str, ours: str) -> Rules:
    """One plane of the autoencoder."""
    layer = rf"{theirs}_quant_attn\.layers\.(\d+)"
    to_planes, from_planes = "encoder.to_planes", "decoder.from_planes"
    return (
        (rf"{theirs}_token", rf"{to_planes}.collapse.{ours}.token"),
        (rf"{theirs}_pos_embedding", rf"{to_planes}.collapse.{ours}.position"),
        (rf"{layer}\.([01])\.norm", rf"{to_planes}.collapse.{ours}.layers.\1.\2.norm"),
        (rf"{layer}\.0\.fn\.to_qkv", rf"{to_planes}.collapse.{ours}.layers.\1.0.qkv"),
        (rf"{layer}\.0\.fn\.to_out\.0", rf"{to_planes}.collapse.{ours}.layers.\1.0.out"),
        (rf"{layer}\.1\.fn\.net\.0", rf"{to_planes}.collapse.{ours}.layers.\1.1.inner"),
        (rf"{layer}\.1\.fn\.net\.3", rf"{to_planes}.collapse.{ours}.layers.\1.1.outer"),
        (rf"pre_{theirs}", rf"{to_planes}.project.{ours}"),
        (rf"post_{theirs}", rf"{from_planes}.project.{ours}"),
    )


_LAYER = r"(encoder|decoder)\.layers\.(\d+)"
_OUR_LAYER = r"\1.transformer.layers.\2"

AUTOENCODER: Rules = (
    (r"encoder\.to_patch_embedding", r"encoder.embed"),
    (r"to_pixel\.1", r"decoder.to_pixels"),
    (rf"{_LAYER}\.0\.norm", rf"{_OUR_LAYER}.time.norm"),
    (rf"{_LAYER}\.0\.fn\.to_qkv", rf"{_OUR_LAYER}.time.qkv"),
    (rf"{_LAYER}\.0\.fn\.to_out\.0", rf"{_OUR_LAYER}.time.out"),
    (rf"{_LAYER}\.1\.norm", rf"{_OUR_LAYER}.space.norm"),
    (rf"{_LAYER}\.1\.fn\.to_qkv", rf"{_OUR_LAYER}.space.qkv"),
    (rf"{_LAYER}\.1\.fn\.to_out\.0", rf"{_OUR_LAYER}.space.out"),
    (rf"{_LAYER}\.2\.norm", rf"{_OUR_LAYER}.feed_forward.norm"),
    (rf"{_LAYER}\.2\.fn\.net\.0", rf"{_OUR_LAYER}.feed_forward.inner"),
    (rf"{_LAYER}\.2\.fn\.net\.3", rf"{_OUR_LAYER}.feed_forward.outer"),
    *_collapse("xy", "0"),
    *_collapse("yt", "1"),
    *_collapse("xt", "2"),
)


def convert_autoencoder(state: Mapping[str, Tensor]) -> Converted:
    """The authors' autoencoder -> :class:`moditalker.video.autoencoder.Autoencoder` under ``released``."""
    converted = rename(strip(state, ("module.",)), AUTOENCODER)
    for name, tensor in converted.state.items():
        if ".project." in name and tensor.ndim == 4:  # 1x1 convolution of a plane
            converted.state[name] = tensor.flatten(1)
    return converted


@dataclass(frozen=True)
class Checkpoints:
    """Paths of the authors' files; None: not given."""

    atom: Path | None = None
    autoencoder: Path | None = None  # of RGB clips
    landmark_autoencoder: Path | None = None
    diffusion: Path | None = None  # MToV's; the authors have not published it


def convert_checkpoints(files: Checkpoints, out: Path, config: Config) -> dict[str, list[str]]:
    """Convert the given files to safetensors.

    atom.safetensors; autoencoder.safetensors and landmark-autoencoder.safetensors; mtov.safetensors, the
    whole video stage, where the diffusion and both autoencoders are there: their RGB encoder encodes
    identity and pose frames, the landmark autoencoder's the landmark frames [released code].

    Args:
        config: preset ``released``, with other sizes where the checkpoints have them.

    Returns:
        The files written, and the authors' parameters without use that were left out for each.

    Raises:
        UserError: no file given, one that cannot be read, or one of another size or part.
    """
    written: dict[str, list[str]] = {}

    def read(path: Path, convert: Callable[[Mapping[str, Tensor]], Converted], model: nn.Module) -> Converted:
        converted = convert(read_checkpoint(path))
        try:
            model.load_state_dict(converted.state)
        except RuntimeError as error:
            raise UserError(f"{path}: {_mismatch(error)}") from error
        return converted

    def save(name: str, model: nn.Module, dropped: list[str], *sources: Path) -> None:
        about = {
            "source": {path.name: sha256(path) for path in sources},
            "licence": "none was stated by its authors: ask them before you pass it on",
        }
        save_weights(out / f"{name}.safetensors", model.state_dict(), to_dict(config), about)
        written[f"{name}.safetensors"] = dropped

    if not any(vars(files).values()):
        raise UserError("nothing to convert: give at least one of the authors' files")
    if files.diffusion and not (files.autoencoder and files.landmark_autoencoder):
        raise UserError("the diffusion works on the planes of both autoencoders: give these files too")
    # Everything is read and checked before anything is written.
    atom, video = Atom(config.atom, config.speech.width), VideoModel(config)
    landmark = Autoencoder(config.autoencoder)
    parts = (
        ("atom", files.atom, convert_atom, atom),
        ("autoencoder", files.autoencoder, convert_autoencoder, video.autoencoder),
        ("landmark-autoencoder", files.landmark_autoencoder, convert_autoencoder, landmark),
        ("unet", files.diffusion, convert_unet, video.unet),
    )
    dropped = {name: read(path, convert, model).dropped for name, path, convert, model in parts if path}
    for name, path, _, model in parts[:3]:
        if path:
            save(name, model, dropped[name], path)
    if files.diffusion and files.autoencoder and files.landmark_autoencoder:
        video.pose_encoder.load_state_dict(video.autoencoder.encoder.state_dict())
        video.landmark_encoder.load_state_dict(landmark.encoder.state_dict())
        sources = files.autoencoder, files.landmark_autoencoder, files.diffusion
        save("mtov", video, dropped["unet"], *sources)
    return written


def _mismatch(error: RuntimeError) -> str:
    """What torch says of a state that does not fit, as one sentence."""
    first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
    return (
        f"not this part, or of another size ({first[:200]}); give the right file, "
        "or its sizes by --set, such as --set atom.width=256"
    )
