"""Speech features: chunks do not matter, context is bounded, errors help."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moditalker.config import SpeechConfig
from moditalker.errors import UserError
from moditalker.features.speech.encoders import (
    FRAME,
    HubertEncoder,
    SpeechEncoder,
    load_speech_encoder,
    log_mel,
    mel_filters,
)

WHISPER = SpeechConfig(encoder="whisper", source="", layers=(2, 3), width=768)
LIVE = replace(WHISPER, window=0.08, after=0.18)
CORE = 2 * 16_000  # samples for which one window of the default gives features
CONTEXT = 16_000  # samples of sound that it also sees, on either side


def babble(samples: int, seed: int = 0) -> np.ndarray:
    """Something with formants and pauses: harmonics under a slow envelope, and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16_000
    tone = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 12))
    return (0.2 * tone * np.sin(2 * np.pi * 2.1 * t) ** 2 + 0.003 * rng.normal(size=samples)).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def whisper() -> SpeechEncoder:
    return load_speech_encoder(WHISPER)


def test_two_vectors_a_frame_for_any_length(whisper: SpeechEncoder) -> None:
    for samples in (0, 1, 160, FRAME, FRAME + 1, CORE - 1, CORE, 3 * CORE + 12_345):
        features = whisper(babble(samples))
        assert features.shape == (2 * -(-samples // FRAME), 768)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()


@pytest.mark.parametrize("config", [WHISPER, LIVE])
def test_stream_does_not_depend_on_chunks(config: SpeechConfig) -> None:
    encoder = load_speech_encoder(config)
    sound = babble(3 * 16_000 + 77)
    whole = encoder(sound)
    for size in (501, 16_000, 48_000):
        pieces = encoder.stream(sound[i : i + size] for i in range(0, len(sound), size))
        np.testing.assert_array_equal(np.concatenate(list(pieces)), whole)


def test_short_windows_hear_little_ahead() -> None:
    """The future is not there: whatever follows the look-ahead, the features are the same."""
    encoder = load_speech_encoder(LIVE)
    assert encoder.ahead == pytest.approx(0.08 + 0.18 + 200 / 16_000)
    a = babble(2 * 16_000)
    for until in (16_000, 20_123):
        b = a.copy()
        b[until:] = 0.3 * np.random.default_rng(1).normal(size=len(b) - until)
        same = np.abs(encoder(a) - encoder(b)).max(1) == 0
        free = int((until / 16_000 - encoder.ahead) * 50) + 1  # vectors that start so early
        assert same[:free].all()
        assert not same[free + 5 :].any()


def test_stream_gives_features_as_soon_as_the_look_ahead_is_there(whisper: SpeechEncoder) -> None:
    given = 0

    def chunks():
        nonlocal given
        for i in range(0, 6 * 16_000, 1600):
            given = i + 1600
            yield babble(6 * 16_000)[i : i + 1600]

    first = next(whisper.stream(chunks()))
    assert len(first) == CORE // 320
    assert given <= CORE + CONTEXT + 1600 + 1600


def test_features_do_not_look_further_than_their_window(whisper: SpeechEncoder) -> None:
    a = babble(8 * 16_000)
    b = a.copy()
    b[CORE + CONTEXT + 1000 :] = 0  # beyond the first window and its context
    np.testing.assert_array_equal(whisper(a)[:100], whisper(b)[:100])
    assert np.abs(whisper(a)[250:] - whisper(b)[250:]).max() > 0.1


def test_mel_filters_against_their_definition() -> None:
    filters = mel_filters().numpy()
    hertz = np.linspace(0, 8000, 201)
    assert filters.shape == (80, 201)
    # unit area: a flat spectrum gives the same in wide and narrow bands (narrow ones see few bins)
    np.testing.assert_allclose(filters[40:].sum(1) * 40.0, 1.0, atol=0.12)
    centres = (filters * hertz).sum(1) / filters.sum(1)
    assert (np.diff(centres) > 0).all()
    np.testing.assert_allclose(
        np.diff(centres[5:20]), np.diff(centres[5:20]).mean(), rtol=0.6
    )  # linear below 1 kHz
    ratio = centres[61:79] / centres[60:78]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.01)  # logarithmic above


def test_log_mel_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="the optional extra `hubert` is not installed")
    sound = babble(3 * 16_000)
    theirs = transformers.WhisperFeatureExtractor(chunk_length=3)(sound, sampling_rate=16_000)[
        "input_features"
    ][0]
    ours = log_mel(torch.from_numpy(np.pad(sound, 200, mode="reflect"))).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_silence_and_tone_differ_and_repeat(whisper: SpeechEncoder) -> None:
    silence = whisper(np.zeros(CORE, np.float32))
    assert np.isfinite(silence).all()
    assert np.abs(whisper(babble(CORE)) - silence).mean() > 0.1


def test_wrong_settings_are_answered() -> None:
    with pytest.raises(UserError, match="0 to 3"):
        load_speech_encoder(SpeechConfig(encoder="whisper", layers=(9,), width=384))
    with pytest.raises(UserError, match="768"):
        load_speech_encoder(SpeechConfig(encoder="whisper", layers=(2, 3), width=384))
    with pytest.raises(UserError, match="choose one of"):
        load_speech_encoder(SpeechConfig(encoder="wav2lip"))  # type: ignore[arg-type]


def small_hubert(folder: Path) -> SpeechConfig:
    transformers = pytest.importorskip("transformers", reason="the optional extra `hubert` is not installed")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7
    )
    transformers.HubertModel(config).save_pretrained(folder)
    return SpeechConfig(encoder="hubert", source=str(folder), layers=(1, 2), width=64)


def test_hubert_from_a_folder(tmp_path: Path) -> None:
    encoder = load_speech_encoder(small_hubert(tmp_path))
    assert isinstance(encoder, HubertEncoder)
    sound = babble(3 * 16_000 + 5)
    whole = encoder(sound)
    assert whole.shape == (2 * 76, 64)
    pieces = encoder.stream(sound[i : i + 4096] for i in range(0, len(sound), 4096))
    np.testing.assert_array_equal(np.concatenate(list(pieces)), whole)


def test_hubert_missing_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the optional extra `hubert` is not installed")
    with pytest.raises(UserError, match="no HuBERT model"):
        load_speech_encoder(SpeechConfig(source=str(tmp_path / "nowhere")))
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"moditalker\[hubert\]"):
        load_speech_encoder(SpeechConfig(source=str(tmp_path)))
