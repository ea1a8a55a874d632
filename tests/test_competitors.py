"""Other models of a benchmark: how they are written, found, loaded and told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moditalker.errors import UserError
from moditalker.evaluate.competitors import (
    SPOKEN,
    Competitor,
    keep_or_refuse,
    load,
    read_competitors,
    versions,
    weights_of,
)
from moditalker.weights.files import save_weights


@pytest.fixture
def parts(tmp_path: Path, shipped: Path) -> dict[str, Path]:
    """A folder with AToM alone, one with the video stage alone, and one that has neither."""
    folders = {name: tmp_path / name for name in ("atom", "mtov", "nothing")}
    for name, folder in folders.items():
        folder.mkdir()
        if name != "nothing":
            shutil.copy(shipped / f"{name}.safetensors", folder)
    return folders


def test_a_competitor_is_a_name_weights_and_settings() -> None:
    text = (
        "Previous clip=runs/a,b=1/mtov,mtov.anchor=previous,mtov.conditions=[identity,landmarks],atom.scale=2"
    )
    (one,) = read_competitors([text])
    assert one == Competitor(
        "Previous clip",
        "runs/a,b=1/mtov",
        ("mtov.anchor=previous", "mtov.conditions=[identity,landmarks]", "atom.scale=2"),
    )
    assert one.slug == "previous-clip"
    assert read_competitors(["a=tiny", "b=tiny"]) == [Competitor("a", "tiny"), Competitor("b", "tiny")]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["tiny"], "NAME=WEIGHTS is expected"),
        (["=tiny"], "NAME=WEIGHTS is expected"),
        (["..=tiny"], "NAME=WEIGHTS is expected"),
        (["a|b=tiny"], "NAME=WEIGHTS is expected"),
        (["a=,mtov.anchor=previous"], "NAME=WEIGHTS is expected"),
        (["A b=tiny", "a-B=tiny"], "a row 'a-b' already"),
        (["linear=tiny"], "a row 'linear' already"),
    ],
)
def test_competitors_that_are_wrong(texts: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_competitors(texts)


def test_what_a_source_lacks_is_the_benchmarked_models(shipped: Path, parts: dict[str, Path]) -> None:
    atom, video = parts["atom"] / "atom.safetensors", parts["mtov"] / "mtov.safetensors"
    assert weights_of(str(shipped), "tiny") == {"model": str(shipped)}
    assert weights_of("tiny", "other") == {"model": "tiny"}
    for source in (parts["atom"], atom):
        assert weights_of(str(source), "tiny") == {"model": "tiny", "motion": atom}
    for source in (parts["mtov"], video):
        assert weights_of(str(source), "tiny") == {"model": "tiny", "video": video}
    renamed = video.rename(video.with_name("of-a-person.safetensors"))
    assert weights_of(str(renamed), "tiny") == {"model": "tiny", "video": renamed}
    save_weights(parts["nothing"] / "x.safetensors", {}, {})
    with pytest.raises(UserError, match="another part"):
        weights_of(str(parts["nothing"] / "x.safetensors"), "tiny")
    with pytest.raises(UserError, match=r"^x: weights .* do not exist"):
        load(Competitor("x", str(parts["nothing"])), "tiny")


def test_settings_are_others_than_those_of_training(shipped: Path, parts: dict[str, Path]) -> None:
    settings = ("mtov.anchor=previous", "atom.overlap=1")
    talker = load(Competitor("previous", str(parts["atom"]), settings), str(shipped))
    assert talker.sampler.config.mtov.anchor == talker.config.mtov.anchor == "previous"  # type: ignore[attr-defined]
    assert talker.config.atom.overlap == talker.atom.config.overlap == 1
    plain = load(Competitor("plain", str(shipped)), str(shipped))
    assert plain.config.mtov.anchor == "source"
    for setting, sentence in (
        ("atom.layers=2", "do not fit this network"),
        ("mtov.channels=64", "do not fit this network"),
        ("mtov.ancor=previous", "nearest known key is mtov.anchor"),
    ):
        with pytest.raises(UserError, match=sentence) as error:
            load(Competitor("mine", str(shipped), (setting,)), str(shipped))
        assert str(error.value).startswith("mine: ")


def test_videos_of_other_weights_under_one_name_are_refused(
    tmp_path: Path, shipped: Path, parts: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    one = Competitor("mine", str(parts["atom"]))
    keep_or_refuse([one], str(shipped), out)
    keep_or_refuse([one, Competitor("other", str(shipped), ("mtov.anchor=previous",))], str(shipped), out)
    keep_or_refuse([one], str(shipped), out)
    keep_or_refuse(
        [Competitor("mine", one.source, ("atom.overlap=1",))], str(shipped), out
    )  # none is made yet
    keep_or_refuse([one], str(shipped), out)
    for name in ("self-mine", "cross-other"):
        (out / "videos" / name).mkdir(parents=True)
        (out / "videos" / name / "a.mp4").touch()
    keep_or_refuse([one], str(shipped), out)
    with pytest.raises(UserError, match="other weights or settings"):
        keep_or_refuse([Competitor("mine", one.source, ("mtov.anchor=previous",))], str(shipped), out)
    with pytest.raises(UserError, match="other weights or settings"):
        keep_or_refuse([Competitor("other", one.source)], str(shipped), out)
    (out / "videos" / "self").mkdir()
    (out / "videos" / "self" / "a.mp4").touch()
    keep_or_refuse([one], str(shipped), out)
    with pytest.raises(UserError, match="preset tiny"):
        keep_or_refuse([], "tiny", out)


def test_videos_made_by_other_options_are_refused(tmp_path: Path, shipped: Path) -> None:
    out, made = tmp_path / "out", {"seconds": 3.0, "away": 1.0}
    keep_or_refuse([], str(shipped), out, {"seconds": 2.0, "away": 1.0})
    keep_or_refuse([], str(shipped), out, made)  # none is there yet
    (out / "videos" / "landmarks").mkdir(parents=True)
    (out / "videos" / "landmarks" / "a.mp4").touch()
    keep_or_refuse([], str(shipped), out, made)
    with pytest.raises(UserError, match="made with --seconds 3 --away 1; say so"):
        keep_or_refuse([], str(shipped), out, {"seconds": 2.0, "away": 1.0})


def test_who_brings_no_video_stage_has_no_row_of_real_landmarks(parts: dict[str, Path]) -> None:
    one, other, whole = read_competitors(
        [f"a={parts['atom']},atom.overlap=1", f"b={parts['atom']},mtov.anchor=previous", "c=tiny"]
    )
    assert one.kinds == SPOKEN
    assert "landmarks" in other.kinds
    assert "landmarks" in whole.kinds


def test_versions_are_rows_of_weights_that_compose(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"do not compose.*leave --versions out"):
        versions(str(shipped))
    described = {"config": {"compose": {"enabled": True}}}
    monkeypatch.setattr("moditalker.evaluate.competitors.describe", lambda path: described)
    first, alone = versions(str(shipped))
    assert (first.settings, alone.settings) == (("compose.enabled=false",), ("compose.inside=nothing",))
