"""Does the service lose anything? Many clients send jobs, some of them broken, while workers are killed.

    python benchmarks/server.py --requests 1000 --clients 20
    python benchmarks/server.py --real 4 --requests 200

The server is a process of its own. Its workers only pretend (tests/standin_server.py), so that it is the
service that is measured; with --real they make videos, of the demo's portrait and sentence. A job is lost if
it was accepted and is not made, or has another result; doubled, if there are two of it. Latencies are those
that clients see, results and looks at files left out; memory is the server process's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from moditalker.errors import UserError
from moditalker.serve.client import Client, Job

ROOT = Path(__file__).parents[1]
STANDIN = ROOT / "tests" / "standin_server.py"
BROKEN = 0.1  # share of what is sent


def resident(process: int) -> float:
    """MB that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def children(process: int) -> list[int]:
    """Worker processes of a server."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                work = b"spawn_main" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(parent) == process and work:
                found.append(int(entry.name))
    return found


class Load:
    """Clients, what they saw, and what they were promised."""

    def __init__(self, url: str, face: bytes, audio: bytes | None, seed: int) -> None:
        self.url, self.face, self.audio, self.seed = url, face, audio, seed
        self.jobs: dict[str, bytes] = {}  # accepted -> the face that was sent
        self.refused: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.lock = threading.Lock()

    def timed(self, name: str, ask: Callable[[], object]) -> object:
        begun = time.perf_counter()
        try:
            return ask()
        finally:
            with self.lock:
                self.seconds[name].append(time.perf_counter() - begun)

    def client(self, number: int, requests: int, folder: Path) -> None:
        """One client: sends, asks, cancels nothing that it wants, and sometimes sends nonsense."""
        chance, client = random.Random(f"{self.seed} {number}"), Client(self.url)
        for turn in range(requests):
            if chance.random() < BROKEN:
                self.timed("broken", lambda: self.break_something(chance))
                continue
            content = self.face if self.audio else self.face + f" {number} {turn}".encode()
            (path := folder / f"{number}.bin").write_bytes(content)
            wishes = {"seed": turn} if self.audio else {"text": "Hello."}
            sound = folder / "audio" if self.audio else None
            while True:
                try:
                    job = self.timed("POST /jobs", lambda: client.make(path, sound, **wishes))  # noqa: B023
                except UserError as error:
                    if "wait already" not in str(error):
                        self.faults.append(f"refused: {error}")
                        break
                    self.refused["queue full"] += 1
                    time.sleep(chance.uniform(0.1, 0.5))
                    continue
                assert isinstance(job, Job)
                with self.lock:
                    self.jobs[job.id] = content
                self.timed("GET /jobs/ID", lambda: client.job(job.id))  # noqa: B023
                break
            if chance.random() < 0.2:
                self.timed("GET /jobs", client.jobs)
                self.timed("GET /health", lambda: urllib.request.urlopen(f"{self.url}/health").read())

    def break_something(self, chance: random.Random) -> None:
        """A request that is wrong; it has to be answered by one sentence, and 4xx or 503 (full)."""
        kind = {"content-type": "multipart/form-data; boundary=x"}
        part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        file, end = b'; filename="f"', b"--x--\r\n"
        cases = (
            ("/jobs", b"junk", kind),
            ("/jobs", b"", {}),
            ("/jobs", part % (b"text", b"", b"Hi.") + end, kind),
            ("/jobs", part % (b"face", file, b"") + part % (b"text", b"", b"Hi.") + end, kind),
            (
                "/jobs",
                part % (b"face", file, b"x")
                + part % (b"text", b"", b"Hi.")
                + part % (b"seed", b"", b"x")
                + end,
                kind,
            ),
            ("/jobs", part % (b"face", file, bytes(3_000_000)) + end, kind),
            ("/jobs", part % (b"face", b"", b"../../etc/passwd") + part % (b"text", b"", b"Hi.") + end, kind),
            ("/jobs/AAAAAAAAAAAAAAAAAAAAAA/video", None, {}),
            ("/jobs/..%2f..%2fetc%2fpasswd", None, {}),
        )
        path, body, headers = chance.choice(cases)
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers)) as answer:
                self.faults.append(f"{path}: {answer.status} for a request that is wrong")
        except urllib.error.HTTPError as error:
            with error:
                told = error.read()
            try:
                right = (400 <= error.code < 500 or error.code == 503) and list(json.loads(told)) == ["error"]
            except ValueError:
                right = False
            if not right:
                self.faults.append(f"{path}: {error.code} {told[:100]!r}")
        except (ConnectionError, urllib.error.URLError):
            pass  # it was not read to its end


def killing(server: int, every: float, stop: threading.Event, killed: list[int]) -> None:
    """Kill a worker at random, now and then."""
    chance = random.Random(1)
    while not stop.wait(chance.uniform(0.5, 1.5) * every):
        if found := children(server):
            killed.append(chance.choice(found))
            os.kill(killed[-1], signal.SIGKILL)


def start(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server and its address."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    while not (found := re.findall(r"http://[\d.]+:\d+", log.read_text())):
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.1)
    return process, found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000, help="in all")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument(
        "--every", type=float, default=3.0, help="seconds between two kills of a worker; 0: none"
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="that a pretended job takes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--real", type=int, default=0, help="so many real jobs, while the other requests come"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, str(STANDIN), str(folder / "service"), f"--seconds={arguments.seconds}"]
        command += [f"--workers={arguments.workers}", "--waiting=40"]
        face, audio = b"face", None
        if arguments.real:
            from moditalker.weights.named import PORTRAIT, SENTENCE

            face, audio = PORTRAIT.read_bytes(), SENTENCE.read_bytes()
            (folder / "audio").write_bytes(audio)
            command = [sys.executable, "-m", "moditalker", "serve", f"--folder={folder / 'service'}"]
            command += ["--max-rate=1000000", "--max-waiting=40", "--max-megabytes=1"]
        measure(arguments, folder, command, face, audio)


def measure(
    arguments: argparse.Namespace, folder: Path, command: list[str], face: bytes, audio: bytes | None
) -> None:
    log = folder / "log"
    server, url = start(command, log)
    load, client = Load(url, face, audio, 0), Client(url)
    stop, killed, memory = threading.Event(), list[int](), [resident(server.pid)]
    threads = []
    if arguments.every:
        threads.append(threading.Thread(target=killing, args=(server.pid, arguments.every, stop, killed)))
    begun = time.perf_counter()
    each = (arguments.real or arguments.requests) // (
        senders := min(arguments.clients, arguments.real or 1000)
    )
    clients = [threading.Thread(target=load.client, args=(n, each, folder)) for n in range(senders)]
    for thread in (*threads, *clients):
        thread.start()
    if arguments.real:  # the other requests, beside the jobs
        for turn in range(arguments.requests):
            load.timed("GET /jobs", client.jobs)
            load.timed("GET /health", lambda: urllib.request.urlopen(f"{url}/health").read())
            load.timed("broken", lambda: load.break_something(random.Random(turn)))  # noqa: B023
            time.sleep(0.05)
    for thread in clients:
        while thread.is_alive():
            thread.join(1)
            memory.append(resident(server.pid))
    sent = time.perf_counter() - begun
    states = Counter(settle(client, number) for number in load.jobs)
    stop.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    memory.append(resident(server.pid))
    listed = [job.id for job in client.jobs(1000)]
    real = audio is not None
    wrong = [n for n, content in load.jobs.items() if not right(client, n, content, folder, real)]
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        quick = within(answer.read().decode(), 0.05)
    server.terminate()
    server.wait()
    lost, doubled = len(set(load.jobs) - set(listed)) + len(wrong), len(listed) - len(set(load.jobs))
    tracebacks, full = log.read_text().count("Traceback"), load.refused["queue full"]
    print(f"{len(load.jobs)} jobs accepted, {dict(states)}, sent in {sent:.0f} s, done in {took:.0f} s")
    print(f"lost {lost}, doubled {doubled}, tracebacks {tracebacks}, faults {len(load.faults)}")
    print(f"{len(killed)} workers killed; the queue was full {full} times")
    for fault in load.faults[:5]:
        print(fault)
    for route, seconds in sorted(load.seconds.items()):
        print(f"{route}: {quantiles(seconds)}")
    print(f"all: {quantiles([*chain(*load.seconds.values())])}")
    print(f"in the server, {100 * quick:.1f} % of the answers began within 50 ms")
    early = memory[len(memory) // 4]
    print(f"MB held: {memory[0]:.0f} at first, {early:.0f} after a quarter, {memory[-1]:.0f} at last")
    if lost or doubled or tracebacks or load.faults:
        raise SystemExit(1)


def within(figures: str, seconds: float) -> float:
    """Share of the answers that began within so many seconds, as GET /metrics says; results are left out."""
    counts = dict[str, float]()
    for line in figures.splitlines():
        found = re.match(r'moditalker_request_seconds_bucket\{le="([^"]+)".*route="([^"]+)".*\} (\S+)', line)
        if found and not found[2].endswith(("video", "report")):
            counts[found[1]] = counts.get(found[1], 0) + float(found[3])
    return counts[str(seconds)] / counts["+Inf"]


def quantiles(seconds: list[float]) -> str:
    median, late = np.percentile(seconds, [50, 95]) * 1000
    return f"{len(seconds)} requests, {median:.1f} ms in the median, {late:.1f} ms at 95 %"


def settle(client: Client, number: str) -> str:
    """The state in which a job ends."""
    while not (job := client.job(number)).ended:
        time.sleep(0.2)
    return job.state


def right(client: Client, number: str, content: bytes, folder: Path, real: bool) -> bool:
    """Whether a job's result is its own."""
    try:
        client.save(number, folder / "out")
    except UserError:
        return False
    if not real:
        return (folder / "out").read_bytes() == 2 * content
    client.save(number, folder / "report", "report")
    told: dict[str, int] = json.loads((folder / "report").read_text())
    return told["frames"] == 115


if __name__ == "__main__":
    main()
