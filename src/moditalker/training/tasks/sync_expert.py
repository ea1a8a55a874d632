"""Task ``sync-expert``: mouths and sounds that belong together become alike, all others different."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moditalker.config import Config
from moditalker.data.clips import read_clip
from moditalker.data.shards import Sample
from moditalker.data.sounds import coloured, other_room
from moditalker.errors import UserError
from moditalker.features.speech.encoders import FRAME, SpeechEncoder
from moditalker.metrics.sync import MOST, auc
from moditalker.metrics.sync_expert import Match, SyncExpert, compare, grey
from moditalker.training.tasks.atom import whiten

FRAMES = 48  # per sample
ROOMS = 2  # versions of each clip's sound in other rooms and noises
FEATURE_NOISE = 0.2  # on speech features, in units of their deviation
VOICE_SHARE = 0.7  # deviation of the share of two voices' mean difference that is added
SPEAKER_WEIGHT = 0.3  # a speaker of n clips is drawn with weight n^0.3
SURROUND = 12  # pixels of the crop around the expert's input, for shifts and turns
COMPRESSED, BLURRED = 0.3, 0.4  # shares of samples
WRONG = 2  # wrong sounds per clip in validation


@dataclass(frozen=True)
class SyncClip:
    """A prepared clip as the expert's training sees it."""

    speaker: str
    surround: NDArray[np.uint8]  # (S, side, side) grey: the expert's input and SURROUND pixels around it
    speech: NDArray[np.float16]  # (1 + rooms, 2S, D), the first as recorded

    def mouths(self, side: int) -> Tensor:
        """Inputs of the expert, (S, side, side)."""
        part = torch.from_numpy(self.surround[:, SURROUND:-SURROUND, SURROUND:-SURROUND]).float() / 255
        return F.adaptive_avg_pool2d(part, side)


@dataclass(frozen=True)
class SyncBatch:
    """Samples; each row of ``mouths`` belongs to the same row of ``speech``."""

    mouths: Tensor  # (B, S, side, side)
    speech: Tensor  # (B, 2S, D)


def read_sync_clip(sample: Sample, config: Config, encoder: SpeechEncoder, rooms: int, seed: int) -> SyncClip:
    """Read a sample with its own sound and in other ``rooms``. UserError: it has no sound."""
    clip, waveform = read_clip(sample), sample["audio"].astype(np.float32)
    frames = min(len(clip.crops), len(waveform) // FRAME)
    waveform = waveform[: frames * FRAME]
    rng = np.random.default_rng((seed, int.from_bytes(sample.name.encode()[-8:], "big")))
    heard = [waveform]
    for _ in range(rooms):
        other = other_room(waveform, rng) * 10 ** (rng.uniform(-12, 3) / 20)
        other = other + 10 ** (rng.uniform(-75, -32) / 20) * coloured(len(other), rng)
        heard.append(np.clip(other, -1, 1).astype(np.float32))
    speech = np.stack([encoder(sound).astype(np.float16) for sound in heard])
    seen, size = config.sync_expert, config.crop.size
    left = (size - seen.extent) // 2
    rows, columns = (
        np.arange(low - SURROUND, low + seen.extent + SURROUND).clip(0, size - 1) for low in (seen.top, left)
    )
    surround = (255 * grey(clip.crops[:frames, rows][:, :, columns])).round().byte().numpy()
    return SyncClip(clip.speaker, surround, speech)


class SyncExpertTask:
    """The mouth-audio expert for `training.loop.fit`."""

    name = "sync-expert"

    def __init__(self, config: Config, train: list[SyncClip], validation: list[SyncClip]) -> None:
        self.config = config
        expert, crop = config.sync_expert, config.crop
        if expert.top + expert.extent > crop.size:
            raise UserError(
                f"configuration: sync_expert.top + extent = {expert.top + expert.extent}: must not exceed "
                f"crop.size = {crop.size}"
            )
        self.train = [clip for clip in train if len(clip.surround) >= FRAMES]
        self.validation = [clip for clip in validation if len(clip.surround) >= FRAMES]
        if len(self.train) < config.sync_expert_training.batch or len(self.validation) < 2:
            raise UserError(
                f"{len(self.train)} clips to train on and {len(self.validation)} to validate on have "
                f"{FRAMES} frames or more; {config.sync_expert_training.batch} (a batch) and 2 are needed"
            )
        speakers = [clip.speaker for clip in self.train]
        weight = np.array([speakers.count(speaker) ** (SPEAKER_WEIGHT - 1) for speaker in speakers])
        self.probability = weight / weight.sum()
        self.model = SyncExpert(config.sync_expert, config.speech.width)
        heard = np.concatenate([clip.speech[0, ::11] for clip in self.train]).astype(np.float32)
        whiten(self.model.sound.project, heard)
        self.feature_scale = float(heard.std(0).mean())
        self.voices = np.stack([clip.speech[0].mean(0, dtype=np.float32) for clip in self.train])

    def batch(self, rng: np.random.Generator) -> SyncBatch:
        """Draw random parts of different clips, with another camera, room and voice."""
        size = self.config.sync_expert_training.batch
        mouths, speech = [], []
        for index in rng.choice(len(self.train), size=size, replace=False, p=self.probability):
            clip = self.train[index]
            start = int(rng.integers(0, len(clip.surround) - FRAMES + 1))
            mouths.append(self._film(clip.surround[start : start + FRAMES], rng))
            room = clip.speech[rng.integers(0, len(clip.speech))]
            heard = room[2 * start : 2 * (start + FRAMES)].astype(np.float32)
            one, two = self.voices[rng.integers(0, len(self.voices), size=2)]
            heard = heard + np.float32(rng.normal(0, VOICE_SHARE)) * (one - two)
            heard = heard + FEATURE_NOISE * self.feature_scale * rng.standard_normal(heard.shape, np.float32)
            speech.append(torch.from_numpy(heard))
        return SyncBatch(torch.stack(mouths), torch.stack(speech))

    def _film(self, surround: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
        """The expert's input from a camera that turns, shifts, shakes, blurs, compresses and flickers.

        Its judgement must not depend on differences between a camera's picture and a generated one.
        """
        frames, side = len(surround), self.config.sync_expert.side
        if rng.random() < COMPRESSED:
            surround = np.stack([_compress(frame, int(rng.integers(15, 70))) for frame in surround])
        x = torch.from_numpy(surround)[:, None].float() / 255
        angle, size = rng.normal(0, 0.05), np.exp(rng.normal(0, 0.07) + rng.normal(0, 0.04, size=2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.array([[1, rng.normal(0, 0.04)], [0, 1]]) @ np.diag(size)
        if rng.random() < 0.5:
            turn = turn @ np.diag([-1, 1])
        shift = rng.normal(0, 2.5, size=2) + rng.uniform(0, 0.25) * rng.normal(size=(frames, 2))  # pixels
        extent, whole = self.config.sync_expert.extent, surround.shape[-1]
        theta = np.zeros((frames, 2, 3), np.float32)
        theta[:, :, :2], theta[:, :, 2] = turn * extent / whole, shift * 2 / whole
        grid = F.affine_grid(torch.from_numpy(theta), [frames, 1, extent, extent], align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        x = F.adaptive_avg_pool2d(x, side)
        if rng.random() < BLURRED:
            x = F.interpolate(x, scale_factor=rng.uniform(0.35, 0.9), mode="area")
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        x = x.clamp(1e-3, 1) ** float(np.exp(rng.normal(0, 0.25)))
        ramp = torch.linspace(-1, 1, side)
        x = x * (1 + 0.3 * rng.normal() * ramp) * (1 + 0.3 * rng.normal() * ramp[:, None])
        x = x * torch.from_numpy(1 + rng.uniform(0, 0.02) * rng.normal(size=(frames, 1, 1, 1))).float()
        x = x + float(rng.uniform(0, 0.03)) * torch.from_numpy(rng.standard_normal(x.shape, np.float32))
        return x[:, 0]

    def loss(self, batch: SyncBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Two contrasts: each frame against all frames of the batch (but its own neighbours), both ways
        [InfoNCE, van den Oord et al. 2018]; and each pair of clips against offsets and "unrelated".
        """
        lips, sound = self.model.lips(batch.mouths), self.model.sound(batch.speech)
        b, s = lips.shape[:2]
        logits = lips.flatten(0, 1) @ sound.flatten(0, 1).T * self.model.frame_scale.exp()  # BS BS
        place = torch.arange(b * s, device=logits.device)
        beside = (place[:, None] - place).abs() == 1
        beside = beside & (place[:, None] // s == place // s)
        logits = logits.masked_fill(beside, float("-inf"))
        frame = (F.cross_entropy(logits, place) + F.cross_entropy(logits.T, place)) / 2
        pairs = compare(lips, sound)  # B B 2 MOST + 1
        unrelated = self.model.unrelated.expand(b, b, 1)
        pairs = torch.cat([pairs, unrelated], dim=-1).permute(0, 2, 1) * self.model.clip_scale.exp()
        own = torch.eye(b, dtype=torch.bool, device=pairs.device)
        target = torch.where(own, MOST, 2 * MOST + 1)
        error = F.cross_entropy(pairs, target, reduction="none")
        clip = (error[own].mean() + error[~own].mean()) / 2
        return frame + clip, {"frame": frame.item(), "clip": clip.item()}

    def validate(self) -> dict[str, float]:
        """By speakers that train ("known") and others ("unseen"): AUC of `match` for the clips' own sound
        against it shifted by 2, 4, 8 frames and against other clips' sound; share of offsets within a frame.
        """
        known = {clip.speaker for clip in self.train}
        device = self.model.unrelated.device
        figures = {}
        for group in ("known", "unseen"):
            clips = [clip for clip in self.validation if (clip.speaker in known) == (group == "known")]
            if len(clips) < 2:
                continue
            shortest = min(len(clip.surround) for clip in clips)
            seen = torch.stack([c.mouths(self.config.sync_expert.side)[:shortest] for c in clips])
            heard = torch.stack([torch.from_numpy(c.speech[0, : 2 * shortest]).float() for c in clips])
            lips, sound = self.model.lips(seen.to(device)), self.model.sound(heard.to(device))
            pairs = compare(lips, sound).cpu().numpy()
            count = len(clips)
            right = [Match(pairs[i, i]) for i in range(count)]
            for shift in (2, 4, 8):
                late = compare(lips[:, shift:], sound[:, :-shift]).cpu().numpy()
                lower = [Match(late[i, i]).match for i in range(count)]
                figures[f"{group}.auc_{shift}"] = auc([one.match for one in right], lower)
            others = {(i, (i + k) % count) for i in range(count) for k in range(1, min(WRONG + 1, count))}
            wrong = [Match(pairs[pair]).match for pair in sorted(others)]
            figures[f"{group}.auc_wrong"] = auc([one.match for one in right], wrong)
            figures[f"{group}.in_time"] = float(np.mean([abs(one.offset) <= 1 for one in right]))
            figures[f"{group}.contrast"] = float(np.mean([one.contrast for one in right]))
        return figures

    def score(self, figures: dict[str, float]) -> float:
        """Average the contrast over the groups; it does not saturate."""
        return float(np.mean([value for name, value in figures.items() if name.endswith("contrast")]))

    def preview(self) -> NDArray[np.uint8]:
        """Similarity of each validation clip's mouth (rows) with its own sound by offset (columns)."""
        rows = []
        device = self.model.unrelated.device
        for clip in self.validation:
            seen = clip.mouths(self.config.sync_expert.side)[None].to(device)
            heard = torch.from_numpy(clip.speech[:1]).float().to(device)
            rows.append(compare(self.model.lips(seen), self.model.sound(heard))[0, 0].cpu())
        picture = (torch.stack(rows).clamp(0, 1) * 255).byte().numpy()
        return np.repeat(np.kron(picture, np.ones((8, 8), np.uint8))[..., None], 3, axis=-1)


def _compress(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress a grey picture as JPEG."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
