"""Every setting of the project: frozen dataclasses are the schema and hold the defaults.

The defaults are the paper's. Each number's provenance stands beside it: [paper], [released] (the
authors' published code) or [ours].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

from moditalker.config.limits import BOUNDS
from moditalker.errors import UserError


@dataclass(frozen=True)
class Range:
    """The values that a number may take, both ends included."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


# A field's type holds its rule, which is checked when a configuration is read.
Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(1e-12)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(*BOUNDS["seed"])]


@dataclass(frozen=True)
class SpeechConfig:
    """Speech features: waveform at 16 kHz -> (2S, width) at 50 Hz."""

    encoder: Literal["hubert", "whisper"] = "hubert"  # [paper], or [ours: tiny.en, in the package]
    source: str = "facebook/hubert-large-ls960-ft"  # folder or hub name; unused by "whisper"
    layers: tuple[CountOrZero, ...] = (24,)  # hidden states that are concatenated; 0 = before the first layer
    width: Count = 1024  # width of the concatenation
    window: Positive = 2.0  # seconds of sound that one window encodes, in steps of 0.04 [ours]
    before: Positive = 1.0  # seconds that it also sees before these, in steps of 0.02 [ours]
    after: Positive = 1.0  # seconds that it also sees after these [ours]


@dataclass(frozen=True)
class CropConfig:
    """The aligned face crop, and the part of it that the video stage generates."""

    size: Count = 256  # side of the square crop, pixels [paper]
    region_top: CountOrZero = 0  # first generated row; the region ends at the crop's bottom
    pose_rows: CountOrZero = 128  # rows from the top in pose frames [paper: the upper half]
    eye_distance: NotNegative = 0.0  # pixels between the eye centres; 0: the crop is the whole frame [paper]
    eye_row: NotNegative = 0.0  # row of the eye centres, pixels
    smoothing: NotNegative = 1.5  # Gaussian deviation of the alignment's smoothing, frames at 25 Hz [ours]


@dataclass(frozen=True)
class DiffusionConfig:
    """One diffusion process (Eqs. 1-3) and its sampling."""

    schedule: Literal["cosine", "sqrt-linear"] = "cosine"  # sqrt-linear: linspace(sqrt(a), sqrt(b), T)^2
    timesteps: Count = 1000  # T
    beta_start: Share = 0.0015  # sqrt-linear only [released]
    beta_end: Share = 0.0195  # sqrt-linear only [released]
    predict: Literal["x0", "noise"] = "x0"  # x0 [paper], noise [released MToV]
    clip: NotNegative = 1.0  # predicted x0 is clamped to [-clip, clip]; 0: no clamp
    sampling_steps: Count = 50  # DDIM steps
    eta: Share = 1.0  # 0: deterministic, 1: DDPM-like
    guidance: NotNegative = 1.0  # w in uncond + w (cond - uncond); 1: off
    start: CountOrZero = 0  # 0: start from pure noise; else from a first estimate noised to this timestep


@dataclass(frozen=True)
class AtomConfig:
    """AToM, the audio-to-motion transformer (paper section 3, Fig. 2)."""

    width: Count = 512  # D of each branch
    layers: Count = 8
    heads: Count = 8
    feed_forward: Count = 1024
    frames: Count = 156  # S of a window at 25 fps
    dropout: Share = 0.1
    condition_dropout: Share = 0.25  # probability that both conditions are dropped together
    disentangled: bool = True  # lip-related and lip-unrelated branches (Table 2, IV)
    landmark_embedding: bool = True  # l_id as a condition (Table 2, III)
    residual: bool = True  # predict L - l_id rather than L (Table 2, II)
    audio_to_upper: bool = False  # audio also reaches the lip-unrelated branch, through FiLM [released]
    scale: Positive = 1.0  # residual landmarks are multiplied by this before noising
    audio_window: CountOrZero = 0  # frames of audio that the lips see to each side [ours]; 0: all [paper]
    merge_residual: bool = False  # attention to l_id is added to merged branches [ours]; off: replaces them
    first_estimate: CountOrZero = 0  # speech components of a first estimate of the motion [ours]; 0: none
    estimate_layers: CountOrZero = 0  # convolutions in the first estimate [ours]; 0: it is linear
    alone: bool = False  # the transformer learns x0 [paper], not the remainder of a first estimate
    added: Share = 1.0  # share of its output added to the estimate; if alone, in place of it [ours]
    own_size: Share = 0.0  # 1 scales motion fully to the source's own lip motion, 0 not at all [ours]
    overlap: CountOrZero = 25  # frames that neighbouring windows share and blend [ours]
    causal: bool = False  # a frame depends on later speech for `ahead` frames only [ours]
    ahead: CountOrZero = 0  # frames of later speech that a frame depends on, if causal


@dataclass(frozen=True)
class AutoencoderConfig:
    """Tri-plane autoencoder (paper section 3, Eq. 5)."""

    frames: Count = 16  # S of a clip
    height: Count = 256
    width: Count = 256
    patch: Count = 8
    dim: Count = 384  # D of a token
    encoder_layers: CountOrZero = 8
    decoder_layers: CountOrZero = 8
    heads: Count = 8
    head_dim: Count = 64
    feed_forward: Count = 4  # width of the feed-forward, in units of dim
    plane_channels: Count = 4
    collapse: Literal["transformer", "mean"] = "transformer"  # transformer [paper], mean [ours]
    collapse_layers: CountOrZero = 4
    collapse_heads: Count = 4
    collapse_feed_forward: Count = 512
    residual: bool = False  # planes hold the difference from the identity frame [ours]
    decoder: Literal["pixels", "warp"] = "pixels"  # pixels [paper]; warp: warp the identity frame [ours]


@dataclass(frozen=True)
class MToVConfig:
    """MToV's diffusion UNet over the three planes (paper section 3, Eq. 6)."""

    channels: Count = 128
    multipliers: tuple[Count, ...] = (1, 2, 4, 4)
    blocks: Count = 2  # residual blocks a level
    attention: tuple[Count, ...] = (1, 2, 4)  # downsampling factors that have per-plane attention
    heads: Count = 8
    identity_planes: Literal["all", "hw"] = "all"  # all [paper]; hw: zeros in the other two [released]
    condition_layers: CountOrZero = 0  # layers of landmark and pose encoders; 0: the autoencoder's number
    landmark_frames: Literal["discs", "gaussians"] = "discs"  # white discs [paper]; soft, by part [ours]
    first_estimate: bool = False  # landmark and pose planes give an estimate, the UNet the rest [ours]
    normalise: bool = False  # diffuse planes scaled to unit variance [ours]
    conditions: tuple[Literal["identity", "pose", "landmarks", "audio"], ...] = (
        "identity",
        "pose",
        "landmarks",
    )  # conditions of the UNet (Table 3, V); audio comes by cross-attention (IV)
    # x_id of later clips: the source's [ours], or the previous generated frame [paper].
    anchor: Literal["source", "previous"] = "source"
    texture: bool = False  # correct the model's error, measured on the source's own frames [ours]
    teeth: Share = 0.0  # weight of source frames with open mouths between the lips [ours]
    known_texture: bool = False  # the weights hold this person's texture slopes [ours: adapt]
    texture_stride: Count = 4  # the error is measured on one frame in so many [ours]
    overlap: CountOrZero = 4  # frames that neighbouring clips share and blend [ours]


@dataclass(frozen=True)
class ComposeConfig:
    """Composition of frames, at the source's own size, from the person's own pixels [ours]."""

    enabled: bool = False  # off: MToV's region is pasted into the frame [paper]
    # The inside of the mouth, if no frame of the source shows it: painted, MToV's, or nothing.
    inside: Literal["painter", "mtov", "nothing"] = "painter"
    # Leave faces alone that are covered, shaking or at the picture's edge; keep things in front of a face.
    confidence: bool = True
    looks: Count = 96  # most frames of a shot from which mouths are taken
    lag: CountOrZero = 8  # frames of delay before the look of a frame is chosen
    change: NotNegative = 80.0  # cost of a change of the look, squared pixels of a crop of 128


@dataclass(frozen=True)
class RulesConfig:
    """Rules around the two networks [ours]; all off: the networks alone [paper, released]."""

    silence: bool = False  # shut the mouth while a detector hears no voice
    uncross: bool = False  # inner lips that would cross only touch
    steady: bool = False  # stop lips at rest from shaking with the detected landmarks
    light: bool = False  # bring a face to the identity's light for MToV, and back
    colours: bool = False  # match colours of the pasted region to the skin around it
    grain: bool = False  # give the pasted region the grain of the source's frame


@dataclass(frozen=True)
class RecordingsConfig:
    """The varied recordings that AToM learns from [ours]. Shares are of all recordings; 0: none."""

    repeats: Positive = 10.0  # recordings of each second of the data, on average
    seconds: Positive = 10.0  # length of a recording, about
    most: Count = 4000  # most recordings; one of 10 s takes about 1 MB
    imbalance: Share = 0.5  # a person of n seconds is drawn with weight n^imbalance; 0: all people alike
    favoured: tuple[str, ...] = ()  # people drawn three times as often: free speakers
    plain: Share = 0.6  # share of training windows from unchanged clips, not varied recordings
    silent: Share = 0.12  # share without speech: silence, noise, music, beeps, applause; the mouth is shut
    voice: Share = 0.5  # share with pitch and formants of a larger or smaller throat
    room: Share = 0.7  # share in another room
    behind: Share = 0.4  # share with noise, music or another voice behind the speech
    channel: Share = 0.3  # share through a telephone or a low-rate codec


@dataclass(frozen=True)
class AtomLossConfig:
    """Weights of Eq. 4 and of the terms added to it."""

    points: NotNegative = 1.0  # Eq. 4 [paper]; 7.5 [released]
    velocity: NotNegative = 0.0  # error of frame differences [paper: none]; 1.5 [released]
    gap: NotNegative = 0.0  # squared error of the inner lips' distance [ours]
    spread: NotNegative = 0.0  # squared error of the mouth's width [ours]
    lips: Positive = 1.0  # weight of a lip point's error; the upper face's x and y have 1 [ours]
    jaw: Positive = 1.0  # weight of a jaw point's error
    depth: Positive = 1.0  # weight of an error along z
    last_step: Share = 0.0  # share of windows trained at t = T - 1, where sampling starts [ours]
    # Groups of people; each gets a first estimate that never saw it, whose remainder the transformer learns
    # [ours]. 0: one estimate, of all people.
    folds: CountOrZero = 0
    amplitude: NotNegative = 0.0  # squared log ratio of deviations of opening and width in a window [ours]
    closure: NotNegative = 0.0  # squared error of the gap while the real lips touch [ours]


@dataclass(frozen=True)
class PixelLossConfig:
    """Weights of Eq. 5, which compares a clip with the real one."""

    l1: NotNegative = 1.0  # [paper]; 4 [released]
    lpips: NotNegative = 1.0  # [paper]; 4 [released]
    lpips_frames: CountOrZero = 0  # frames of a clip, drawn at random, that LPIPS sees; 0: all [paper]
    gradient: NotNegative = 0.0  # L1 of the pixels' differences right and down [ours]
    mouth: Positive = 1.0  # weight of the pixels around the mouth, over those of the face [ours]
    interior: NotNegative = 0.0  # weight added between the lips: teeth are few pixels [ours]
    outside: Share = 1.0  # weight of pixels beyond the face, which paste-back does not show [ours]
    plane_noise: NotNegative = 0.0  # noise on the planes while the autoencoder trains [ours]
    hidden_landmarks: Share = 0.0  # share of clips whose landmarks the autoencoder's decoder lacks [ours]


@dataclass(frozen=True)
class MToVLossConfig:
    """Weights of Eq. 6 and of the terms added to it, and varied inputs."""

    planes: NotNegative = 1.0  # weight of Eq. 6 [paper]
    pixels: NotNegative = 0.0  # weight of the decoded planes' `PixelLossConfig` [ours]
    last_step: Share = 0.0  # share of clips trained at t = T - 1, where sampling starts [ours]
    landmark_noise: NotNegative = 0.0  # noise, pixels: the landmarks in use are not exact either [ours]


@dataclass(frozen=True)
class AugmentationConfig:
    """Variation of clips, each as a whole [ours]; 0 leaves a kind out."""

    flip: Share = 0.5  # share of clips that are mirrored
    colour: NotNegative = 1.0  # size of changes of colour and contrast
    geometry: NotNegative = 1.0  # size of turning, scaling, shearing and shifting
    other_clip: Share = 0.0  # share of x_id from any clip of the person instead of the clip itself


@dataclass(frozen=True)
class DistillationConfig:
    """Fewer steps for the video stage (Salimans and Ho, 2022, "Progressive distillation")."""

    steps: Count = 1  # sampling steps of the student
    planes: NotNegative = 1.0  # weight of the planes' squared error
    pixels: NotNegative = 1.0  # weight of the decoded planes' L1


@dataclass(frozen=True)
class SyncExpertConfig:
    """The judge of mouth and sound, `metrics/sync_expert.py` [ours]."""

    top: CountOrZero = 56  # first row of its input, a square in the crop's middle
    extent: Count = 64  # side of that square, pixels of the crop
    side: Count = 32  # side to which it shrinks: a multiple of 8
    channels: Count = 16  # channels of the first convolution: a multiple of 8
    width: Count = 96  # D of either stream
    embedding: Count = 64  # E
    dropout: Share = 0.2


@dataclass(frozen=True)
class TrainingConfig:
    """The training of a task."""

    steps: Count = 600_000  # [paper: 300k AToM, 600k MToV]
    batch: Count = 4  # samples per part
    accumulate: Count = 1  # parts per step, shared by the processes: batch x accumulate samples a step
    learning_rate: Positive = 1e-4  # [paper]
    weight_decay: NotNegative = 0.01
    schedule: Literal["constant", "cosine"] = "constant"  # constant [paper]
    warmup: CountOrZero = 100  # steps
    clip_norm: Positive = 1.0
    ema: Share = 0.9999  # decay of the averaged weights [released AToM]
    validate_every: Count = 1000  # steps
    save_minutes: Positive = 3.0
    keep: Literal["last", "best"] = "last"  # final weights of a run; best: by validation
    seed: Seed = 0


# A network of a million parameters or fewer.
SMALL_NETWORK = TrainingConfig(
    steps=900,
    batch=12,
    learning_rate=1e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup=50,
    ema=0.99,
    validate_every=100,
)


@dataclass(frozen=True)
class Config:
    """The whole: one of these describes a model and travels with its weights."""

    preset: str = "paper"
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    atom: AtomConfig = field(default_factory=AtomConfig)
    atom_diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    mtov: MToVConfig = field(default_factory=MToVConfig)
    mtov_diffusion: DiffusionConfig = field(
        default_factory=lambda: DiffusionConfig(schedule="sqrt-linear", sampling_steps=100)
    )
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    atom_loss: AtomLossConfig = field(default_factory=AtomLossConfig)
    atom_recordings: RecordingsConfig = field(default_factory=RecordingsConfig)
    pixel_loss: PixelLossConfig = field(default_factory=PixelLossConfig)
    mtov_loss: MToVLossConfig = field(default_factory=MToVLossConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    # The model learns the colours, sides and exact pixels of one person, so none are varied.
    adaptation_augmentation: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(flip=0.0, colour=0.0, geometry=0.0)
    )
    adaptation_loss: MToVLossConfig = field(default_factory=MToVLossConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    atom_training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=300_000, batch=64))
    estimate_training: TrainingConfig = field(
        default_factory=lambda: dataclasses.replace(SMALL_NETWORK, validate_every=300)
    )
    autoencoder_training: TrainingConfig = field(default_factory=TrainingConfig)
    mtov_training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation_training: TrainingConfig = field(default_factory=TrainingConfig)
    adaptation_training: TrainingConfig = field(default_factory=TrainingConfig)
    sync_expert: SyncExpertConfig = field(default_factory=SyncExpertConfig)
    sync_expert_training: TrainingConfig = SMALL_NETWORK


GROUPS = 32  # groups of channels that MToV normalises


def check(config: Config) -> Config:
    """Return `config` if its parts fit together (single values were checked when they were read).

    Raises:
        UserError: they do not; it names the keys, their values and the rule.
    """
    crop, atom, auto, mtov = config.crop, config.atom, config.autoencoder, config.mtov
    expert = config.sync_expert
    region = (crop.size - crop.region_top, crop.size)
    extent = f"autoencoder.height x width = {auto.height} x {auto.width}"
    rules = {
        f"atom.width = {atom.width}: must be a multiple of 2 atom.heads": atom.width % (2 * atom.heads) == 0,
        "speech.layers = []: at least one is needed": bool(config.speech.layers),
        "mtov.multipliers = []: at least one is needed": bool(mtov.multipliers),
        f"atom.overlap = {atom.overlap}: must be below atom.frames": atom.overlap < atom.frames,
        f"atom.ahead = {atom.ahead}: must not exceed atom.overlap": not atom.causal
        or atom.ahead <= atom.overlap,
        f"mtov.overlap = {mtov.overlap}: must be below autoencoder.frames": mtov.overlap < auto.frames,
        f"crop.pose_rows = {crop.pose_rows}: must not exceed crop.size": crop.pose_rows <= crop.size,
        "atom_diffusion.predict = noise: must be x0, which AToM's loss (Eq. 4) is about": (
            config.atom_diffusion.predict == "x0"
        ),
        "mtov.first_estimate = true: mtov_diffusion.predict must be x0, which the estimate is added to": (
            not mtov.first_estimate or config.mtov_diffusion.predict == "x0"
        ),
        "compose.enabled = true: crop.eye_distance must be above 0": (
            not config.compose.enabled or crop.eye_distance > 0
        ),
        "autoencoder.decoder = warp: mtov.conditions must hold identity and landmarks": (
            auto.decoder != "warp" or {"identity", "landmarks"} <= set(mtov.conditions)
        ),
        f"sync_expert.side = {expert.side}, channels = {expert.channels}: must be multiples of 8": (
            expert.side % 8 == expert.channels % 8 == 0
        ),
        f"autoencoder.head_dim = {auto.head_dim}: must be a multiple of 4": auto.head_dim % 4 == 0,
        f"mtov.channels = {mtov.channels}: must be a multiple of {GROUPS}": mtov.channels % GROUPS == 0,
        f"{extent}: must be multiples of autoencoder.patch": auto.height % auto.patch
        == auto.width % auto.patch
        == 0,
        f"{extent}: must be the crop's generated part, {region[0]} x {region[1]}": (
            (auto.height, auto.width) == region
        ),
    }
    for name in ("atom_diffusion", "mtov_diffusion"):
        diffusion: DiffusionConfig = getattr(config, name)
        for key in ("sampling_steps", "start"):
            steps = getattr(diffusion, key)
            rules[f"{name}.{key} = {steps}: must not exceed {name}.timesteps"] = steps <= diffusion.timesteps
    for rule, holds in rules.items():
        if not holds:
            raise UserError(f"configuration: {rule}")
    return config
