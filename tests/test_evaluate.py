"""moditalker evaluate: pairs, failures beside figures, resuming, the report."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_video as write
from scipy.ndimage import gaussian_filter
from scipy.stats import bootstrap
from skimage import data
from standins import grid_clip, needs_grid

from moditalker import cli
from moditalker.errors import UserError
from moditalker.evaluate.measures import GROUPS, MEASURES, choose
from moditalker.evaluate.observe import Case, Observer, build_case, observe
from moditalker.evaluate.pairs import Pair, read_pairs, write_pairs
from moditalker.evaluate.report import as_html, show, worst_first
from moditalker.evaluate.run import Results, Settings, evaluate, evaluate_sets, summarize
from moditalker.evaluate.sets import SETS
from moditalker.features.face.tracker import FaceTracker
from moditalker.media import through_codec
from moditalker.metrics.given import READERS
from moditalker.metrics.lips import best_lag
from moditalker.weights.named import GIVEN

DOCUMENT = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
PORTRAIT = data.astronaut()[0:240, 100:340]


def drifting(count: int = 20, by: int = 1) -> np.ndarray:
    return np.stack([np.roll(PORTRAIT, i * by // 4, axis=1) for i in range(count)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, speech_wav) -> Path:
    """reference/ and generated/ of four pairs: equal, blurred, and two that cannot be measured."""
    root = tmp_path_factory.mktemp("pairs")
    for side in ("reference", "generated"):
        (root / side).mkdir()
    frames = drifting()
    for name in ("equal", "blurred", "short", "<i>broken"):
        write(root / "reference" / f"{name}.mkv", frames, speech_wav)
    write(root / "generated" / "equal.mp4", frames)
    write(root / "generated" / "blurred.mp4", gaussian_filter(frames, (0, 2, 2, 0)))
    write(root / "generated" / "short.mp4", frames[:10])
    (root / "generated" / "<i>broken.mp4").write_bytes(b"not a video")
    return root


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_a_folder_of_pairs_becomes_a_report_and_the_second_run_measures_nothing(
    corpus, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(corpus)
    command, other, *_ = re.findall(r"```bash\nmoditalker (.*?)\n```", DOCUMENT)  # the page's own
    assert other.startswith("evaluate benchmark ")
    assert run(*command.split()) == 1  # two of four failed
    said = capsys.readouterr().err
    assert "lpips: not measured; the weights lpips-alex are not in" in said
    assert "short: " in said
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    videos = {video["name"]: video for video in report["videos"]}
    assert "10 frames" in videos["short"]["error"]
    assert "cannot be read" in videos["<i>broken"]["error"]
    assert set(report["missing_weights"]) == {
        name for name, entry in (MEASURES | SETS).items() if entry.weights
    }
    equal, blurred = videos["equal"]["values"], videos["blurred"]["values"]
    assert equal["psnr"] == equal["psnr_frame"] == "inf"
    assert equal["ssim"] == equal["lip_correlation"] == equal["lip_amplitude"] == pytest.approx(1)
    assert equal["seam"] == equal["flicker"] == equal["cpbd_ratio"] == pytest.approx(1)
    assert equal["mouth_detail"] == pytest.approx(1)
    assert blurred["mouth_detail"] < 0.6
    zeros = ("lip_lag", "lmd_mouth", "lmd_face_px", "background", "drift", "head_motion")
    assert [equal[name] for name in zeros] == [0] * len(zeros)
    assert blurred["psnr"] < 45
    assert blurred["ssim"] < 0.98
    assert blurred["cpbd"] < equal["cpbd"]
    assert "no sound" in videos["equal"]["reasons"]["silence"]
    assert report["summary"]["ssim"]["videos"] == 2
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "2 of 4 videos" in markdown
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<i>" not in page  # what is in names is text, not markup
    assert page.index("&lt;i&gt;broken") < page.index(">blurred<") < page.index(">equal<")  # worst first
    for picture in re.findall(r'src="([^"]+)"', page):
        assert (tmp_path / "report" / picture).read_bytes()[:2] == b"\xff\xd8"

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "report" / "videos").iterdir()}
    assert len(kept) == 6
    (corpus / "generated" / "<i>broken.mp4").unlink()  # now it is missing, which costs no worker much
    assert run(*command.split(), "--metrics", "all") == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "report" / "videos").iterdir()} == kept
    again = json.loads((tmp_path / "report" / "report.json").read_text())
    assert again["summary"] == report["summary"]
    assert "no such file" in {v["name"]: v for v in again["videos"]}["<i>broken"]["error"]


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker()


def test_videos_that_do_not_go_together_get_their_sentence(corpus, tmp_path, tracker, monkeypatch):
    reference = corpus / "reference" / "equal.mkv"
    frames = drifting(8)
    smaller = write(tmp_path / "smaller.mp4", frames[:, :200, :200])
    slower = write(tmp_path / "slower.mp4", frames, fps=20)
    empty = write(tmp_path / "empty.mp4", np.full((8, 64, 64, 3), 128, np.uint8))
    for generated, sentence in (
        (smaller, "pixels"),
        (slower, "frames a second"),
        (empty, "no face in 8 frames"),
        (tmp_path / "nothing.mp4", "no such file"),
    ):
        with pytest.raises(UserError, match=sentence):
            build_case(Pair("x", generated, reference), Observer(tracker))
    monkeypatch.setattr("moditalker.evaluate.observe.MAX_BYTES", 10**6)
    with pytest.raises(UserError, match="--seconds"):
        observe(reference, tracker)


def test_a_video_of_an_odd_size_goes_with_the_even_one_made_of_it(tmp_path, tracker):
    frames = drifting(8)[:, :, :-1]
    reference, made = (
        write(tmp_path / "a.mkv", frames),
        write(
            tmp_path / "b.mp4",
            np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge"),
        ),
    )
    case = build_case(Pair("x", made, reference), Observer(tracker))
    assert case.generated.frames.shape == case.reference.frames.shape == frames.shape


def test_what_a_pair_lacks_is_said_and_the_rest_is_measured(corpus, tmp_path, tracker, speech_wav):
    from PIL import Image

    from moditalker.evaluate.measures import measure

    Image.fromarray(PORTRAIT).save(tmp_path / "face.png")
    generated = write(tmp_path / "made.mkv", drifting(25), speech_wav)
    speech = corpus / "reference" / "equal.mkv"
    case = build_case(Pair("x", generated, None, tmp_path / "face.png", speech), Observer(tracker))
    assert case.face is not None
    assert case.face.picture
    assert len(case.generated.frames) == 20
    names = [name for name in MEASURES if not MEASURES[name].weights]
    values, reasons = measure(case, names)
    assert reasons["psnr"] == "the pair has no reference"
    assert reasons["seam"] == "the face is a picture"
    assert values["cpbd"] is not None
    assert values["lip_correlation"] is not None
    silent = build_case(Pair("x", corpus / "generated" / "equal.mp4", None, None, speech), Observer(tracker))
    assert "no sound" in measure(silent, ["silence"])[1]["silence"]
    assert measure(silent, ["seam"])[1]["seam"] == "the pair has no face clip"


def test_a_manifest_of_an_office_program(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("Name;Generated;Reference\r\nx;a.mp4;b.mp4\r\n;;\r\n")
    (pair,) = read_pairs(tmp_path / "pairs.csv")
    assert (pair.name, pair.generated.name, pair.reference.name) == ("x", "a.mp4", "b.mp4")


def test_a_manifest_finds_files_of_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths were given from where the manifest was written, and it is read from elsewhere."""
    (tmp_path / "data").mkdir()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    made, real = Path("runs/one/a.mp4"), Path("data/a.mp4")
    write_pairs(Path("runs/one/pairs.jsonl"), [Pair("a", made, reference=real)])
    monkeypatch.chdir(tmp_path / "data")
    (pair,) = read_pairs(tmp_path / "runs" / "one" / "pairs.jsonl")
    assert pair.reference is not None
    assert pair.reference.resolve() == tmp_path / real
    assert pair.generated.resolve() == tmp_path / made


def test_a_name_that_no_file_has_costs_its_own_pair(tmp_path, capsys):
    rows = [{"name": name, "generated": f"{name}\0.mp4", "reference": "b.mp4"} for name in "ab"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("evaluate", "pairs", tmp_path / "pairs.jsonl", "--out", tmp_path / "report") == 1
    videos = json.loads((tmp_path / "report" / "report.json").read_text())["videos"]
    assert ["no such file" in video["error"] for video in videos] == [True, True]


def test_manifests(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"generated": "a.mp4", "reference": "b.mp4"}\n\n')
    assert read_pairs(tmp_path) == [Pair("0001 a", tmp_path / "a.mp4", tmp_path / "b.mp4")]
    pairs = [
        Pair("one", tmp_path / "a.mp4", face=tmp_path / "f.png", speech=Path("/elsewhere/s.mpg")),
        Pair("two", tmp_path / "sub" / "a.mp4", tmp_path / "b.mp4"),
    ]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["name", "generated", "reference", "face"], ["one", "a, b.mp4", "r.mp4", ""]])
    assert read_pairs(tmp_path / "x.csv") == [Pair("one", tmp_path / "a, b.mp4", tmp_path / "r.mp4")]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl", "", "holds no pair"),
        ("x.jsonl", "{", "line 1: this is not JSON"),
        ("x.jsonl", "[" * 100_000, "line 1: this is not JSON"),
        ("x.jsonl", "[1]", "pair 1: texts under the names"),
        ("x.jsonl", '{"generated": 3, "reference": "b"}', "pair 1: texts"),
        ("x.jsonl", '{"generated": "a", "refrence": "b"}', "refrence is not known"),
        ("x.jsonl", '{"generated": "a"}', "generated is needed, and one of"),
        ("x.csv", "generated,reference\na,b,c\n", "texts under the names"),
        ("x.jsonl", '{"name": "n", "generated": "a", "face": "b"}\n' * 2, "one name"),
    ],
)
def test_manifests_that_are_wrong(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_pairs(tmp_path / name)


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_pairs(tmp_path / "nothing")
    with pytest.raises(UserError, match="nor the folders reference and generated"):
        read_pairs(tmp_path)
    for side in ("reference", "generated"):
        (tmp_path / side).mkdir()
    with pytest.raises(UserError, match="hold no video"):
        read_pairs(tmp_path)
    (tmp_path / "reference" / "a.mp4").touch()
    assert read_pairs(tmp_path) == [
        Pair("a", tmp_path / "generated" / "a.mp4", tmp_path / "reference" / "a.mp4")
    ]
    (tmp_path / "reference" / "a.mkv").touch()
    with pytest.raises(UserError, match="two videos of one name"):
        read_pairs(tmp_path)


def test_the_page_names_every_metric_group_and_weight():
    named = set(re.findall(r"`([a-z0-9_-]+)`", DOCUMENT))
    assert named >= {*MEASURES, *SETS, *GROUPS, *READERS}
    rows = re.findall(r'^\{.*"generated".*\}$', DOCUMENT, flags=re.M)
    assert all(json.loads(row).keys() <= {"name", "generated", "reference", "face", "speech"} for row in rows)
    for entry in GIVEN.values():
        for part in re.findall(r"moditalker weights add \S+", entry.how):
            assert part in DOCUMENT


def test_metrics_are_chosen_by_name_and_group():
    assert choose("all") == [*MEASURES, *SETS]
    assert choose("psnr, ssim,psnr") == ["psnr", "ssim"]
    assert choose("lips") == list(GROUPS["lips"])
    assert set(sum(GROUPS.values(), ())) == set(MEASURES)
    with pytest.raises(UserError, match="pnsr: not known"):
        choose("pnsr")
    with pytest.raises(UserError, match="at least one"):
        choose(",")


def test_intervals_are_scipys_bootstrap():
    values = np.random.default_rng(0).gamma(2, 1, 40)
    ours = summarize(values)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert (ours.mean, ours.median, ours.videos) == (values.mean(), np.median(values), 40)
    perfect = summarize([math.inf] * 3)
    assert (perfect.mean, perfect.low, perfect.high) == (math.inf,) * 3
    with pytest.raises(ValueError, match="no value"):
        summarize([])


def test_the_worst_come_first_and_markup_is_text():
    record = {"reasons": {}, "lip_opening": {"generated": [0.1, None, 0.2]}, "fps": 25}
    videos = [
        {"name": "good", "key": "a", "values": {"psnr": "inf", "lip_lag": 0.0}, **record},
        {"name": "<b>bad", "key": "b", "values": {"psnr": 20.0, "lip_lag": -3.0}, **record},
        {"name": "none", "error": "<script>alert(1)</script>"},
    ]
    results = Results(Settings(("psnr", "lip_lag")), videos, {}, {"lpips": "<i>"})
    assert worst_first(results) == [2, 1, 0]
    page = as_html(results, {}, [2, 1, 0])
    assert "<script>" not in page
    assert "<b>bad" not in page
    assert "∞" in page
    assert [show(value) for value in (None, math.nan, 0.12345, 12.345)] == ["–", "–", "0.123", "12.3"]


def test_the_codec_is_the_same_for_all_and_every_time():
    frames = drifting(12, 4)[:, :-1, :-1]  # an odd size
    first = through_codec(frames, 25)
    assert first.shape == frames.shape
    assert all(np.array_equal(first, through_codec(frames, 25)) for _ in range(3))
    assert 0 < np.abs(first.astype(int) - frames).mean() < 4


def test_what_comes_again_is_looked_at_once_and_only_so_much_is_kept(corpus, tracker, monkeypatch):
    one, other = (corpus / "reference" / f"{name}.mkv" for name in ("equal", "blurred"))
    observer = Observer(tracker, again=[one, other])
    first = build_case(Pair("x", corpus / "generated" / "equal.mp4", one), observer)
    again = build_case(Pair("y", corpus / "generated" / "blurred.mp4", one), observer)
    assert first.face is again.face  # with all that is known of it
    assert list(observer.kept) == [one]
    monkeypatch.setattr("moditalker.evaluate.observe.KEPT_BYTES", first.generated.frames.nbytes * 1.5)
    observer.look(other)
    assert list(observer.kept) == [other]
    assert np.array_equal(observer.look(one).landmarks, first.generated.landmarks)


def test_what_one_process_saw_another_need_not_look_for(corpus, tracker, tmp_path, monkeypatch):
    path = corpus / "reference" / "equal.mkv"
    first = Observer(tracker, again=[path], cache=tmp_path).look(path)
    monkeypatch.setattr(FaceTracker, "track", None)
    again = Observer(tracker, again=[path], cache=tmp_path).look(path)
    assert np.array_equal(again.frames, first.frames)
    assert np.array_equal(again.landmarks, first.landmarks, equal_nan=True)
    assert np.array_equal(again.sound, first.sound)
    assert again.fps == first.fps
    with pytest.raises(TypeError):
        Observer(tracker, 0.4, again=[path], cache=tmp_path).look(path)  # less of it is something else


def test_whole_frames_that_are_large_are_looked_at_less_often(corpus, tracker):
    case = build_case(
        Pair("x", corpus / "generated" / "blurred.mp4", corpus / "reference" / "blurred.mkv"),
        Observer(tracker),
    )
    count, height, width = case.generated.frames.shape[:3]
    assert range(count)[case.whole(count * height * width)] == range(count)
    assert len(range(count)[case.whole(4 * height * width)]) == 4
    assert range(count)[case.whole(count * height * width, 5)] == range(0, count, 5)


@pytest.mark.slow
def test_many_sets_at_once_give_the_figures_of_each(corpus, tmp_path):
    reference, made = corpus / "reference" / "equal.mkv", corpus / "generated"
    sets = {tmp_path / name: [Pair(name, made / f"{name}.mp4", reference)] for name in ("equal", "blurred")}
    names = ["psnr", "seam", "lip_correlation", "cpbd_ratio"]
    found = evaluate_sets(sets, names)
    for name in ("equal", "blurred"):
        alone = evaluate(sets[tmp_path / name], tmp_path / "alone" / name, names)
        assert found[tmp_path / name].videos == alone.videos
    assert evaluate(sets[tmp_path / "equal"], tmp_path / "equal", names) == found[tmp_path / "equal"]


@needs_grid
def test_lag_and_leakage_of_real_clips(tracker):
    """The lips of one clip against its own, and against another's that it is said to be driven by."""
    one, other = observe(grid_clip("s1/bbaf2n"), tracker), observe(grid_clip("s1/bbaf3s"), tracker)
    case = Case(one, None, face=one, speech=other)
    assert MEASURES["leakage"].function(case) == pytest.approx(1)
    assert MEASURES["leakage"].function(Case(other, None, face=one, speech=other)) == pytest.approx(
        0, abs=1e-6
    )
    for lag in (-10, -3, 1, 7):
        late = np.roll(one.opening, lag)[12:-12]
        assert best_lag(late, one.opening[12:-12], 12)[0] == lag
