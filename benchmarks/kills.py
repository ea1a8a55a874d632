"""Does work survive `kill -9` and a full disk? Runs from seeds, stopped at random moments, and run again.

    python benchmarks/kills.py --count 200 --seed 0 --results kills.jsonl
    python benchmarks/kills.py --only serve --count 20
    python benchmarks/kills.py --run 17

Each run is a command (generate, batch, prepare, train, serve) on small inputs, as a fork of one process that
has the package loaded. Three of four are killed by SIGKILL, alone or with their worker processes, at a
moment between their start and the end of an undisturbed run. One of four has its output folder, and in half
of these also its folder for temporary files, on a disk with too little room: a tmpfs in a mount namespace of
its own.

Right is: every file under a final name is whole; inputs are unchanged; what a full disk stops says so in one
sentence, leaves nothing unfinished, and a service goes on; started again, with room, the command ends well,
and what it made is what an undisturbed run makes (frames, shards, weights), with nothing unfinished left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from campaign import run_here
from PIL import Image

Chance = random.Random
PAGE = 4096
PATIENCE = 150.0  # s that a command may take
FEW = 20  # frames of a video
OUT, TEMPORARY = "out", "temporary"  # in a run's folder; the second is not looked at


@dataclass
class Outcome:
    """A line of the results. trouble: "kill", "kill alone" or "full disk"; moment: s, or KiB of the disk."""

    number: int
    task: str
    trouble: str
    moment: float
    what: str
    seconds: float = 0.0
    code: int = 0
    said: str = ""
    faults: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------ processes


@dataclass
class Command:
    """A command in a fork of this process, in a session of its own."""

    arguments: list[str]
    log: Path
    temporary: Path
    process: int = 0
    code: int | None = None

    def start(self) -> Command:
        sys.stdout.flush()
        begin = os.getpid()
        self.process = os.fork()
        if self.process == 0:
            code = 70
            try:
                os.setsid()
                threading.Thread(target=self._follow, args=[begin], daemon=True).start()
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                for number in (1, 2):
                    os.dup2(log, number)
                os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
                code = run_here(self.arguments)
            finally:
                os._exit(code)
        return self

    @staticmethod
    def _follow(parent: int) -> None:
        """End with the process that all runs come from."""
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)

    def ended(self) -> bool:
        if self.code is None:
            gone, status = os.waitpid(self.process, os.WNOHANG)
            if gone:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it is still at work after so many seconds."""
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.005)
        return self.code

    def kill(self, alone: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(self.process, signal.SIGKILL)

    def family(self) -> list[int]:
        """Processes of its session that live: what it left."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process and state != "Z":
                    found.append(int(entry.name))
        return found

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Disk:
    """A tmpfs with little room. `main` has made a mount namespace for it."""

    def __init__(self, folder: Path, pages: int) -> None:
        self.folder = folder
        folder.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "none", str(folder)]
        subprocess.run(mounted, check=True)

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=1g", str(self.folder)], check=True)

    def used(self) -> int:
        """Pages."""
        about = os.statvfs(self.folder)
        return (about.f_blocks - about.f_bfree) * about.f_frsize // PAGE

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


# ------------------------------------------------------------------------------------------------- material


class Material:
    """A picture, a short film of it that moves, a sound, and lists of them."""

    def __init__(self, folder: Path) -> None:
        from moditalker.media import AudioReader
        from moditalker.weights.named import PORTRAIT, SENTENCE

        self.folder = folder
        self.face, self.film = folder / "face.png", folder / "film.mp4"
        self.speech = folder / "speech.wav"
        picture = Image.open(PORTRAIT).convert("RGB")
        picture.resize((192, 192)).save(self.face)
        sound = AudioReader(SENTENCE).read(2.0)
        self._sound(self.speech, sound[: 16000 * FEW // 25])
        self._film(self.film, picture.resize((192, 192)), FEW, None)
        (videos := folder / "videos").mkdir()
        for number, name in enumerate(("a/one", "b/one")):
            (path := videos / f"{name}.mp4").parent.mkdir(exist_ok=True)
            moved = picture.resize((256, 256)).rotate(3 * number)
            self._film(path, moved, 30, sound[: 16000 * 30 // 25])
        self.split = folder / "split.json"
        self.split.write_text('{"val": ["b/"], "train": "rest"}')
        rows = [f"{(self.face, self.film)[n % 2]},{self.speech},job{n},{n}" for n in range(2)]
        self.jobs = folder / "jobs.csv"
        self.jobs.write_text("\n".join(("face,audio,name,seed", *rows)))
        self.dataset = folder / "dataset"

    def _sound(self, path: Path, sound: Any) -> None:
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream("pcm_s16le", rate=16000, layout="mono")
            self._heard(file, stream, sound)

    @staticmethod
    def _heard(file: Any, stream: Any, sound: Any) -> None:
        size, form = stream.codec_context.frame_size or 1024, stream.codec_context.format.name
        for begin in range(0, len(sound), size):
            part = np.ascontiguousarray(sound[None, begin : begin + size], np.float32)
            if form == "s16":
                part = (part * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, form, "mono")
            frame.sample_rate, frame.pts = 16000, begin
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))

    def _film(self, path: Path, picture: Image.Image, count: int, sound: Any) -> None:
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream("libx264", rate=25)
            stream.width, stream.height = picture.size
            stream.pix_fmt = "yuv420p"
            heard = None if sound is None else file.add_stream("aac", rate=16000, layout="mono")
            for number in range(count):
                frame = picture.rotate(number / 5, Image.Resampling.BILINEAR)
                file.mux(stream.encode(av.VideoFrame.from_image(frame)))
            file.mux(stream.encode(None))
            if heard is not None:
                self._heard(file, heard, sound)

    def digest(self) -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


# --------------------------------------------------------------------------------------- what is whole


def frames(path: Path) -> str:
    """A digest of all frames of a video. Raises if it cannot be read to its end."""
    if path.suffix == ".webp":
        with Image.open(path) as pictures:
            shown = [np.asarray((pictures.seek(number), pictures)[1].convert("RGB")) for number in range(FEW)]
            if getattr(pictures, "n_frames", 1) != FEW:
                raise ValueError("frames are missing")
            return hashlib.sha256(b"".join(one.tobytes() for one in shown)).hexdigest()
    with av.open(str(path)) as file:
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    if len(shown) != FEW:
        raise ValueError(f"{len(shown)} frames in place of {FEW}")
    return hashlib.sha256(b"".join(one.tobytes() for one in shown)).hexdigest()


def shard(path: Path) -> str:
    """A digest of a shard whose arrays are those that its samples describe."""
    members: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            members[member.name] = file.read()
    if not members or not path.read_bytes().endswith(bytes(1024)):
        raise ValueError("the shard has no end")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors(path: Path) -> str:
    """A digest of weights, without what else their file says."""
    from moditalker.weights.files import load_weights

    state, _ = load_weights(path)
    parts = [name.encode() + value.numpy().tobytes() for name, value in sorted(state.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def checkpoint(path: Path) -> str:
    import torch

    torch.load(path, weights_only=True)
    return "whole"


def lines(path: Path) -> str:
    """All but the last line of a log are whole, also after a kill."""
    for line in path.read_text().split("\n")[:-1]:
        json.loads(line)
    return "whole"


def whole(path: Path) -> str:
    """A digest of what a file holds. Raises if it is not whole."""
    if path.suffix == ".json":
        json.loads(path.read_text())
        return "whole"
    readers: dict[str, Callable[[Path], str]] = {".tar": shard, ".safetensors": tensors}
    readers |= {".pt": checkpoint, ".jsonl": lines, ".mp4": frames, ".mkv": frames, ".webp": frames}
    if path.suffix in readers:
        return readers[path.suffix](path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def looked_at(folder: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """Digests of the files under final names; those that are not whole; and unfinished ones."""
    good, bad, unfinished = {}, [], []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or ("jobs" in path.parts[:-2] and "made" not in path.parts):
            continue  # the service's working folders become "made" when all is there
        if path.name.startswith("."):
            unfinished.append(name)
            continue
        try:
            good[name] = whole(path)
        except Exception as error:
            bad.append(f"{name} is not whole: {type(error).__name__}: {error}"[:200])
    return good, bad, unfinished


# ----------------------------------------------------------------------------------------------------- tasks

SMALL = [
    *("autoencoder.dim=32", "autoencoder.head_dim=8", "autoencoder.encoder_layers=1"),
    *("autoencoder.decoder_layers=1", "autoencoder_training.batch=1", "autoencoder_training.steps=4"),
    *("autoencoder_training.warmup=1", "autoencoder_training.validate_every=2"),
    "autoencoder_training.save_minutes=0.0001",
]


class Task:
    """A command with a result. changing: files whose content differs from run to run (times, signatures)."""

    changing: tuple[str, ...] = (".json", ".jsonl", ".pt")
    own: tuple[str, ...] = ()  # beginnings of names that no two runs share
    partly = 0  # exit code that says that a part failed

    def __init__(self, material: Material, folder: Path, chance: Chance) -> None:
        self.material, self.out, self.what = material, folder / OUT, ""

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def again(self) -> list[str]:
        return self.arguments()

    def key(self) -> str:
        """What has the same result has the same key."""
        return f"{type(self).__name__} {self.what}"

    def results(self, good: dict[str, str]) -> dict[str, str]:
        return {
            name: "there" if name.endswith(self.changing) else digest
            for name, digest in good.items()
            if not name.startswith(self.own or "/")
        }


class Generate(Task):
    def __init__(self, material: Material, folder: Path, chance: Chance) -> None:
        super().__init__(material, folder, chance)
        self.face = chance.choice((material.face, material.film))
        self.suffix = chance.choice((".mp4", ".mp4", ".mkv", ".webp"))
        self.report = chance.random() < 0.3
        self.what = f"{self.face.name} to {self.suffix}{' with a report' * self.report}"

    def arguments(self) -> list[str]:
        more = [f"--report={self.out / 'report.json'}"] * self.report
        return [
            "generate",
            str(self.face),
            str(self.material.speech),
            f"--out={self.out / f'made{self.suffix}'}",
            *more,
        ]


class Batch(Task):
    partly = 1

    def __init__(self, material: Material, folder: Path, chance: Chance) -> None:
        super().__init__(material, folder, chance)
        self.workers = 1 + (chance.random() < 0.2)

    def arguments(self) -> list[str]:
        return ["batch", str(self.material.jobs), f"--out={self.out}", f"--workers={self.workers}"]


class Prepare(Batch):
    def arguments(self) -> list[str]:
        videos, split = self.material.folder / "videos", self.material.split
        return ["prepare", str(videos), str(self.out), f"--split={split}", f"--workers={self.workers}"]


class Train(Task):
    own = ("tensorboard/",)

    def arguments(self) -> list[str]:
        sets = [f"--set={part}" for part in SMALL]
        return ["train", "autoencoder", f"--data={self.material.dataset}", f"--out={self.out}", *sets]

    def again(self) -> list[str]:
        begun = any((self.out / name).exists() for name in ("last.pt", "config.yaml"))
        return [*self.arguments(), *["--resume"] * begun]

    def results(self, good: dict[str, str]) -> dict[str, str]:
        steps = [json.loads(line)["step"] for line in (self.out / "log.jsonl").read_text().splitlines()]
        return super().results(good) | {"steps": str(steps)}


class Serve(Task):
    """Two jobs over HTTP; what is killed is the service. Its results are fetched into the output folder."""

    own = ("service/",)

    def __init__(self, material: Material, folder: Path, chance: Chance) -> None:
        super().__init__(material, folder, chance)
        self.store, self.accepted = self.out / "service", dict[int, str]()
        self.refused: list[str] = []
        self.faces = material.face, material.film

    def arguments(self) -> list[str]:
        return ["serve", f"--folder={self.store}", "--max-rate=1000000", "--max-live=0"]


TASKS: dict[str, type[Task]] = {
    **{"generate": Generate, "batch": Batch, "prepare": Prepare},
    **{"train": Train, "serve": Serve},
}
ROUND = "generate train batch generate train generate prepare train generate serve "  # quick ones more often
ROUND += "generate train generate batch train generate prepare train generate serve"


# ----------------------------------------------------------------------------------------------- the service


class Service:
    """What a client does with a service that runs as a `Command`."""

    def __init__(self, task: Serve, command: Command) -> None:
        self.task, self.command, self.address = task, command, ""

    def up(self, seconds: float) -> bool:
        """Whether it has said its address, and answers there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.command.ended():
            said = self.command.said().rpartition("http://127.0.0.1:")[2]
            if said and said[0].isdigit():
                self.address = f"http://127.0.0.1:{said.split()[0].strip('/.,')}"
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{self.address}/service", timeout=10).close()
                    return True
            time.sleep(0.02)
        return False

    def use(self) -> None:
        """Send what was not accepted yet, and wait for all; stops where the service does, or is too slow."""
        limit = threading.Timer(PATIENCE, self.command.kill)
        limit.start()
        try:
            self._use()
        finally:
            limit.cancel()

    def _use(self) -> None:
        from moditalker.errors import UserError
        from moditalker.serve import client as module

        client = module.Client(self.address)
        module.ATTEMPTS = 1  # a service that was killed does not come back
        for seed in range(2):
            if seed in self.task.accepted:
                continue
            try:
                self.task.accepted[seed] = client.make(
                    (self.task.material.face, self.task.material.film)[seed],
                    self.task.material.speech,
                    seed=seed,
                ).id
            except (UserError, OSError) as error:
                self.task.refused.append(str(error))
        for seed, job in list(self.task.accepted.items()):
            try:
                client.wait(job)
                client.save(job, self.task.out / f"job{seed}.mp4")
            except (UserError, OSError, IndexError, ValueError) as error:
                self.task.refused.append(str(error))


# ------------------------------------------------------------------------------------------------------ runs


class Runs:
    """Runs from a seed. Undisturbed ones, which they are compared with, are made when they are needed."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.seed = work, seed
        (work / "material").mkdir()
        self.material = Material(work / "material")
        self.known: dict[str, tuple[float, int, dict[str, str]]] = {}  # seconds, pages, results
        folder = work / "dataset"
        folder.mkdir()
        task = Prepare(self.material, folder, Chance(seed))
        made = Command(task.arguments(), folder / "log", self.work).start()
        if made.wait(PATIENCE) != 0:
            raise SystemExit(f"no dataset: {made.said()}")
        shutil.copytree(folder / OUT, self.material.dataset)

    def command(self, arguments: list[str], folder: Path, log: str, disk: bool = False) -> Command:
        (temporary := folder / (OUT if disk else ".") / TEMPORARY).mkdir(exist_ok=True, parents=True)
        return Command(arguments, folder / log, temporary)

    def undisturbed(self, name: str, task: Task) -> tuple[float, int, dict[str, str]]:
        """Seconds, pages of the most that was written, and results of a run that nothing stops."""
        if (key := task.key()) not in self.known:
            with tempfile.TemporaryDirectory(dir=self.work) as place:
                folder = Path(place)
                disk = Disk(folder / OUT, 1 << 18)
                like = type(task).__new__(type(task))
                like.__dict__ |= task.__dict__ | {"out": folder / OUT}
                if isinstance(like, Serve):
                    like.store, like.accepted, like.refused = like.out / "service", {}, []
                begun, most, end = time.monotonic(), [0], threading.Event()

                def watch() -> None:
                    while not end.wait(0.005):
                        most[0] = max(most[0], disk.used())

                watcher = threading.Thread(target=watch)
                command = self.command(like.arguments(), folder, "log").start()
                watcher.start()
                try:
                    faults = self.finished(like, command)
                    seconds = time.monotonic() - begun
                finally:
                    end.set()
                    watcher.join()
                good, bad, unfinished = looked_at(like.out)
                if faults or bad or unfinished:
                    raise SystemExit(
                        f"{name} fails undisturbed: {faults} {bad} {unfinished} {command.said()}"
                    )
                self.known[key] = seconds, most[0], like.results(good)
                disk.close()
        return self.known[key]

    def finished(self, task: Task, command: Command) -> list[str]:
        """Wait for the end of a command that should end well."""
        if isinstance(task, Serve):
            service = Service(task, command)
            if not service.up(PATIENCE):
                command.kill()
                return [f"the service does not start: {command.said()[-1000:]}"]
            task.refused.clear()
            service.use()
            os.kill(command.process, signal.SIGTERM)
            code = command.wait(60)
            command.kill()
            shutil.rmtree(task.store / "parts", ignore_errors=True)
            faults = [f"refused: {sentence}" for sentence in task.refused]
            return faults + [f"exit {code}"] * (code not in (0, 128 + signal.SIGTERM))
        code = command.wait(PATIENCE)
        command.kill()
        return [] if code == 0 else [f"exit {code}: {command.said()[-1500:]}"]

    def run(self, number: int, names: list[str]) -> Outcome:
        """One run of those of a seed."""
        name, chance = names[number % len(names)], Chance(f"{self.seed} {number}")
        full = chance.random() < 0.25
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            folder = Path(place)
            task, before = TASKS[name](self.material, folder, chance), self.material.digest()
            seconds, pages, results = self.undisturbed(name, task)
            alone, share = chance.random() < 0.3, chance.random()
            trouble = "full disk" if full else "kill alone" if alone else "kill"
            outcome = Outcome(number, name, trouble, 0.0, task.what)
            begun = time.monotonic()
            disk = Disk(task.out, max(1, int(share * pages))) if full else None
            try:
                if disk is None:
                    self.killed(task, folder, outcome, share * seconds, alone)
                else:
                    outcome.moment = max(1, int(share * pages)) * PAGE / 1024
                    self.filled(task, folder, outcome, disk, chance.random() < 0.5)
                    disk.grow()
                self.rerun(task, folder, outcome, results)
            finally:
                if disk is not None:
                    disk.close()
            if self.material.digest() != before:
                outcome.faults.append("inputs are changed")
            outcome.seconds = round(time.monotonic() - begun, 2)
        return outcome

    def killed(self, task: Task, folder: Path, outcome: Outcome, moment: float, alone: bool) -> None:
        """Kill the command; what stands under final names has to be whole."""
        for attempt in range(8):
            shutil.rmtree(task.out, ignore_errors=True)
            task.out.mkdir()
            if isinstance(task, Serve):
                task.accepted, task.refused = {}, []
            command = self.command(task.arguments(), folder, f"log{attempt}").start()
            if isinstance(task, Serve):
                timer = threading.Timer(moment, command.kill, [alone])
                timer.start()
                service = Service(task, command)
                if service.up(PATIENCE):
                    service.use()
                timer.join()
                missed = len(list(task.out.glob("job*.mp4"))) == 2
            else:
                missed = command.wait(moment) is not None
            command.kill(alone)
            command.wait(10)
            outcome.moment, outcome.code = round(moment, 3), command.code or 0
            if not missed:
                break
            moment *= 0.6  # it had ended: sooner
        else:
            outcome.faults.append("always ended before its kill")
        end = time.monotonic() + 30
        while (left := command.family()) and time.monotonic() < end:
            time.sleep(0.05)
        if left:
            outcome.faults.append(f"{len(left)} of its processes live 30 s later")
            os.killpg(command.process, signal.SIGKILL)
        if "Traceback" in command.said() and not alone:
            outcome.faults.append("traceback")
        outcome.said = command.said()[-500:]
        outcome.faults += looked_at(task.out)[1]

    def filled(self, task: Task, folder: Path, outcome: Outcome, disk: Disk, everything: bool) -> None:
        """Run the command on a disk that becomes full; it has to say so, and to tidy up."""
        command = self.command(task.arguments(), folder, "log", everything).start()
        if isinstance(task, Serve):
            service = Service(task, command)
            if service.up(60):
                service.use()
                if command.ended():
                    outcome.faults.append("the service has ended")
                for sentence in task.refused:
                    if any(part in sentence for part in ("unexpected", "went wrong", "\n", "answers 5")):
                        outcome.faults.append(f"no sentence: {sentence}")
                task.accepted = {
                    seed: job for seed, job in task.accepted.items() if (task.out / f"job{seed}.mp4").exists()
                }
                os.kill(command.process, signal.SIGTERM)
            elif command.code is None:
                outcome.faults.append("the service neither starts nor ends")
        command.wait(PATIENCE)
        code = -1 if command.code is None else command.code
        command.kill()
        outcome.code, outcome.said = code, command.said()[-1500:]
        allowed = (0, 2, task.partly, *((128 + signal.SIGTERM,) if isinstance(task, Serve) else ()))
        if code not in allowed:
            outcome.faults.append(f"exit {code}")
        if "Traceback" in command.said():
            outcome.faults.append("traceback")
        own = [line for line in command.said().splitlines() if line.startswith("moditalker: ")]
        if code == 2 and len(own) != 1:
            outcome.faults.append("no sentence")
        shutil.rmtree(task.out / TEMPORARY, ignore_errors=True)
        _, bad, unfinished = looked_at(task.out)
        outcome.faults += bad + [f"unfinished: {one}" for one in unfinished]

    def rerun(self, task: Task, folder: Path, outcome: Outcome, results: dict[str, str]) -> None:
        """Run the command again, to its end; the result has to be that of an undisturbed run."""
        faults = self.finished(task, command := self.command(task.again(), folder, "again").start())
        outcome.faults += [f"again: {fault}" for fault in faults]
        if "Traceback" in command.said():
            outcome.faults.append("again: traceback")
        good, bad, unfinished = looked_at(task.out)
        outcome.faults += [f"again: {one}" for one in bad]
        outcome.faults += [f"again: unfinished: {one}" for one in unfinished]
        if not faults and not bad and (now := task.results(good)) != results:
            for name in sorted({*now, *results}):
                if now.get(name) != results.get(name):
                    outcome.faults.append(
                        f"again: {name} is {now.get(name, 'missing')}, not {results.get(name, 'missing')}"
                    )


# ------------------------------------------------------------------------------------------------------ main


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="TASK", action="append", choices=[*TASKS], help=", ".join(TASKS))
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--run", type=int, action="append", help="this one alone; may be repeated")
    parser.add_argument("--results", type=Path, help="a line of JSON for each run")
    arguments = parser.parse_args()
    if "MODITALKER_MOUNTS" not in os.environ:  # mounts end with this process; root is none of the system's
        own = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
        os.environ["MODITALKER_MOUNTS"] = "own"
        os.execvp("unshare", ["unshare", *own, sys.executable, *sys.argv])
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no threads of its parent's
    import torch

    from moditalker import MoDiTalker  # noqa: F401  (loaded once, for all forks)

    torch.set_num_threads(1)
    names, outcomes, begun = arguments.only or ROUND.split(), list[Outcome](), time.monotonic()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        file = stack.enter_context(arguments.results.open("w")) if arguments.results else None
        os.environ |= {"XDG_CONFIG_HOME": str(work / "settings"), "XDG_STATE_HOME": str(work / "state")}
        runs = Runs(work, arguments.seed)
        for number in arguments.run or range(arguments.first, arguments.count):
            outcomes.append(outcome := runs.run(number, names))
            if file is not None:
                print(json.dumps(asdict(outcome)), file=file, flush=True)
            if outcome.faults:
                about = f"{outcome.task}, {outcome.trouble} at {outcome.moment:g}, {outcome.what}"
                print(f"{number} {about}: {'; '.join(outcome.faults)}", flush=True)
                print("    " + outcome.said.replace("\n", "\n    "), flush=True)
    for task in dict.fromkeys(outcome.task for outcome in outcomes):
        right = Counter[str](one.trouble for one in outcomes if one.task == task and not one.faults)
        tried = Counter[str](one.trouble for one in outcomes if one.task == task)
        print(f"{task}: " + ", ".join(f"{name} {right[name]} of {tried[name]}" for name in sorted(tried)))
    right_ones = sum(not outcome.faults for outcome in outcomes)
    took = time.monotonic() - begun
    print(f"seed {arguments.seed}: {right_ones} of {len(outcomes)} right, {took:.0f} s")
    if right_ones < len(outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
