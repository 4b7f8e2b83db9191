"""Links/s of `dpm-pool-link`, beside `cp -al` of the same tree on the same file system.

`cp -al` is the fastest that coreutils can do with a tree: it makes directories and hard links and asks
nothing. `dpm-pool-link` reads a feed, looks at each file, notes what it is going to make, and looks at
what it has made; it is run as on a disk server, in a process of its own.

    .venv/bin/python -m benchmarks.links --files 100000 --rounds 3 --directory /srv/dpm/01
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "packaging" / "dpm-pool-link"
INSTANCE = "00C0FFEE00C0FFEE"
FILES_IN_DIRECTORY = 1000


@dataclass(frozen=True)
class Bench:
    """A tree of DPM's files below `root`, and the feed that asks for links to all of them."""

    root: Path
    files: int
    threads: int

    @property
    def fs(self) -> Path:
        return self.root / "fs"

    @property
    def pool(self) -> Path:
        return self.fs / "dcache" / "pool"

    @property
    def feed(self) -> Path:
        return self.root / "feed"

    def build(self) -> None:
        self.fs.mkdir()
        with self.feed.open("w") as feed:
            for number in range(1, self.files + 1):
                path = self._path(number)
                if number % FILES_IN_DIRECTORY == 1:
                    path.parent.mkdir(parents=True)
                path.write_bytes(b"x")
                feed.write(json.dumps(self._line(number, path)) + "\n")
            feed.write('{"cursor": "none"}\n')

    def _path(self, number: int) -> Path:
        directory = f"2024-{(number - 1) // FILES_IN_DIRECTORY:05d}"
        return self.fs / "dteam" / directory / f"file.{number}"

    def _line(self, number: int, path: Path) -> dict[str, object]:
        return {
            "pnfsid": f"0000{INSTANCE}{number:016X}",
            "pfn": str(path),
            "size": 1,
            "op": "link",
            "pool": "pool",
            "fs": str(self.fs),
            "path": str(self.pool),
        }

    def link(self) -> None:
        self._run(
            "link", "--feed", str(self.feed), "--threads", str(self.threads), "--state", str(self.state)
        )

    def verify(self) -> None:
        self._run("verify", "--feed", str(self.feed), "--threads", str(self.threads))

    def undo(self) -> None:
        self._run("undo", "--state", str(self.state))

    @property
    def state(self) -> Path:
        return self.root / "state"

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, str(PROGRAM), *arguments, "--progress", "0"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def copy(self) -> None:
        subprocess.run(["cp", "-al", str(self.fs / "dteam"), str(self.root / "copy")], check=True)

    def forget(self) -> None:
        shutil.rmtree(self.root / "copy", ignore_errors=True)
        shutil.rmtree(self.fs / "dcache", ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)


@dataclass
class Result:
    """Seconds of each round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, name: str, work: Callable[[], None]) -> None:
        begun = time.perf_counter()
        work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - begun)

    def rate(self, name: str, files: int) -> float:
        return files / statistics.median(self.seconds[name])


def measure(bench: Bench, rounds: int) -> Result:
    """Both sides take turns in beginning."""
    result = Result()
    for number in range(rounds):
        sides = [("cp -al", bench.copy), ("dpm-pool-link link", bench.link)]
        for name, work in sides if number % 2 else reversed(sides):
            result.measure(name, work)
        result.measure("dpm-pool-link link, all there", bench.link)
        result.measure("dpm-pool-link verify", bench.verify)
        result.measure("dpm-pool-link undo", bench.undo)
        bench.forget()
    return result


def report(result: Result, files: int) -> None:
    base = result.rate("cp -al", files)
    for name in ("cp -al", *sorted(result.seconds.keys() - {"cp -al"})):
        rate = result.rate(name, files)
        print(f"{name:32} {rate:12,.0f} files/s   ratio {rate / base:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links", description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1, help="medians are shown")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--directory", help="on the file system to measure; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        bench = Bench(Path(directory), given.files, given.threads)
        bench.build()
        os.sync()
        report(measure(bench, given.rounds), given.files)


if __name__ == "__main__":
    main()
