"""The configuration: presets, files, overrides, and the sentence that answers each mistake."""

from __future__ import annotations

from importlib import resources

import pytest
import yaml

from moditalker import config
from moditalker.config import Config
from moditalker.errors import UserError


def test_paper_is_the_defaults():
    assert config.load("paper") == Config()


@pytest.mark.parametrize("preset", config.PRESETS)
def test_presets_survive_dump_and_dict(preset, tmp_path):
    resolved = config.load(preset)
    assert resolved.preset == preset
    assert config.from_dict(config.to_dict(resolved)) == resolved
    file = tmp_path / "config.yaml"
    file.write_text(config.dump(resolved))
    assert config.load(file=file) == resolved


@pytest.mark.parametrize("preset", ["tiny", "released"])
def test_presets_hold_only_differences(preset):
    tree = yaml.safe_load((resources.files("moditalker.config") / "presets" / f"{preset}.yaml").read_text())
    default = config.to_dict(Config())
    for section, values in tree.items():
        same = {k for k in values if values[k] == default[section][k]} if isinstance(values, dict) else set()
        assert not same, f"{preset}.yaml repeats the default of {section}: {same}"


def test_later_sources_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: tiny\natom:\n  layers: 3\n  heads: 2\n")
    resolved = config.load(
        file=file, overrides=["atom.heads=8", "mtov_diffusion.eta=5e-1", "speech.layers=[1]"]
    )
    assert resolved.preset == "tiny"
    assert resolved.crop.size == 128  # the preset that the file names
    assert (resolved.atom.layers, resolved.atom.heads) == (3, 8)
    assert resolved.mtov_diffusion.eta == 0.5
    assert resolved.speech.layers == (1,)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("atom.wdth=3", "atom.wdth = 3: unknown key; the nearest known key is atom.width"),
        (
            "plane_channels=3",
            "plane_channels = 3: unknown key; the nearest known key is autoencoder.plane_channels",
        ),
        ("atom.width=wide", "atom.width = 'wide': a whole number is expected"),
        ("atom.width=1.5", "atom.width = 1.5: a whole number is expected"),
        ("atom.residual=1", "atom.residual = 1: true or false is expected"),
        ("atom.heads=true", "atom.heads = True: a whole number is expected"),
        ("atom.layers=0", "atom.layers = 0: must be at least 1"),
        ("mtov_diffusion.eta=1.2", "mtov_diffusion.eta = 1.2: must be between 0 and 1"),
        ("mtov_diffusion.eta=.nan", "mtov_diffusion.eta = nan: must be between 0 and 1"),
        ("speech.encoder=wav2vec", "speech.encoder = 'wav2vec': must be 'hubert' or 'whisper'"),
        ("speech.layers=2", "speech.layers = 2: a list is expected"),
        ("speech.layers=[-1]", "speech.layers = -1: must be at least 0"),
        ("atom=3", "atom = 3: keys are expected, such as atom.width"),
        ("atom.overlap=64", "atom.overlap = 64: must be below atom.frames"),
        ("autoencoder.height=80", "must be the crop's generated part, 72 x 128"),
        (
            "mtov_diffusion.start=1001",
            "mtov_diffusion.start = 1001: must not exceed",
        ),
        ("atom.width", "section.key=value is expected"),
        ("atom.width=[", "the value is not YAML"),
        ("atom.width=2026-99-99", "the value is not YAML"),
        ("atom.width=" + "[" * 5000, "the value is not YAML"),
        ("preset=zzz", "--preset"),
        ("atom_training.seed=99999999999999999999", "must be between 0 and 9.22337e+18"),
        ("autoencoder.head_dim=7", "autoencoder.head_dim = 7: must be a multiple of 4"),
        ("atom_diffusion.predict=noise", "atom_diffusion.predict = noise: must be x0"),
        ("mtov_diffusion.predict=noise", "mtov.first_estimate = true: mtov_diffusion.predict must be x0"),
        ("mtov.channels=10", "mtov.channels = 10: must be a multiple of 32"),
    ],
)
def test_a_mistake_is_named(assignment, sentence):
    with pytest.raises(UserError) as caught:
        config.load("tiny", overrides=[assignment])
    assert sentence in str(caught.value)


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(
        UserError, match="preset 'tinny' does not exist; there are live, paper, released, tiny"
    ):
        config.load("tinny")
    with pytest.raises(UserError, match=r"missing.yaml: cannot be read \(No such file"):
        config.load(file=tmp_path / "missing.yaml")
    file = tmp_path / "list.yaml"
    file.write_text("a: [")
    with pytest.raises(UserError, match=r"list.yaml: is not YAML"):
        config.load(file=file)
    file.write_text("- 1\n")
    with pytest.raises(UserError, match="keys and values are expected"):
        config.load(file=file)


def test_every_default_obeys_its_own_rule():
    assert config.from_dict(config.to_dict(Config())) == config.check(Config())
