"""Kills labelling jobs at random, again and again, and compares what comes out: `make soak`.

Each run is begun by a driver of its own process, disturbed through several lives of that driver, and then finished by
the same command. Its files must be those of an undisturbed run, by checksum; and wherever a manifest stands, also in
between, everything that it promises must be there. Ends with 1 at the first difference.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import boto3

from jobs.engine.plan import MANIFEST
from jobs.label import LabelJob
from jobs.storage import storage_for
from tests.jobs.faultproxy import FAULTS
from tests.jobs.tiny_label import arguments, run_folder, tiny_job, write_inputs
from tests.soak.lives import AFTER, BEFORE, DRIVER_KILLED, DRIVER_STOPPED, NODE, WORKER, Disturbance, Life, Lives
from tests.soak.world import World, world

PLACES = (("s3", 0.05), ("s3", 0.15), ("disk", 0.0))
"""Where a run lies, and which share of the requests to its storage fails."""
BUCKET = "soak"


class DifferenceError(Exception):
    """What the soak looks for."""


@dataclass
class Tally:
    """What happened."""

    runs: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    finished_early: int = 0
    """Drivers that were done before what was meant for them."""


class Soak:
    """Runs of one job in one world."""

    def __init__(self, there: World, generator: random.Random, folder: Path) -> None:
        self.world, self.random, self.folder = there, generator, folder
        self.lives, self.tally = Lives(there, generator, folder), Tally()
        write_inputs(folder / "inputs")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        for file in (folder / "inputs").rglob("*.*"):
            client.upload_file(str(file), BUCKET, str(file.relative_to(folder / "inputs")))
        alone = self.job("s3", "undisturbed")
        self.undisturbed_s = self._finish(alone).seconds
        self.expected = run_folder(storage_for(str(alone.output)))
        # What identifies an image there is its time, and not its checksum: the job on a disk is another run.
        on_disk = self.job("disk", "undisturbed")
        self._finish(on_disk)
        self.expected_on_disk = run_folder(storage_for(str(on_disk.output)))

    def job(self, place: str, name: str) -> LabelJob:
        """The tiny job, at a place; two workers on two nodes."""
        job = replace(tiny_job(self.folder / "inputs", self.folder / name), num_workers=2, images_per_item=3)
        if place == "disk":
            return job
        root = f"s3://{BUCKET}"
        return replace(job, images=f"{root}/photographs", captioner=f"{root}/captioner", output=f"{root}/{name}")

    def run(self, number: int, place: str, rate: float) -> None:
        """One run: lives that are disturbed, then the one that finishes, then the comparison."""
        job, proxy = self.job(place, f"run-{number:03d}"), self.world.proxy
        proxy.rates = {fault: rate / len(FAULTS) for fault in FAULTS}
        for _ in range(self.random.randint(2, 3)):
            self._live(job, self._disturbances(place))
            self._check(job, place, finished=False)
        self._finish(job)
        self._check(job, place, finished=True)
        self.tally.runs[f"{place} {rate:.0%}" if rate else place] += 1

    def _disturbances(self, place: str) -> list[Disturbance]:
        """Several inside, every few seconds, and mostly an end. Traps need a server between writer and storage."""
        inside = {WORKER: 4, NODE: 1} if place == "disk" else {WORKER: 3, NODE: 1, BEFORE: 3, AFTER: 3}
        kinds = self.random.choices([*inside], [*inside.values()], k=self.random.randint(3, 8))
        kinds += self.random.choices((DRIVER_KILLED, DRIVER_STOPPED, None), (3, 2, 1))
        longest_s = 1.3 * self.undisturbed_s
        return [
            Disturbance(kind=kind, after_s=self.random.uniform(0, longest_s), skip=self.random.randrange(4))
            for kind in kinds
            if kind
        ]

    def _finish(self, job: LabelJob) -> Life:
        """The same command, left alone."""
        life = self._live(job, [])
        if life.code != 0:
            raise DifferenceError(f"left alone, the job ends with {life.code}:\n{life.said[-3000:]}")
        return life

    def _live(self, job: LabelJob, disturbances: list[Disturbance]) -> Life:
        before = self.lives.kills.copy()
        life = self.lives.live(arguments(job), disturbances)
        done = ", ".join(f"{count} × {kind}" for kind, count in sorted((self.lives.kills - before).items()))
        say(f"  {life.seconds:4.0f} s, ends with {life.code}: {done or 'left alone'}")
        self.tally.lives += 1
        self.tally.finished_early += bool(disturbances) and life.code == 0
        if life.code not in (0, 1, -9, -15) or "in a way that it does not know" in life.said:
            raise DifferenceError(f"a driver ends with {life.code}:\n{life.said[-3000:]}")
        return life

    def _check(self, job: LabelJob, place: str, *, finished: bool) -> None:
        """Where a manifest stands, everything does, and nothing else."""
        proxy, storage = self.world.proxy, storage_for(str(job.output))
        rates, proxy.rates = proxy.rates, {}
        self.tally.requests += proxy.requests.total()
        self.tally.faults += proxy.faults
        if finished or storage.exists(MANIFEST):
            found, expected = run_folder(storage), self.expected if place == "s3" else self.expected_on_disk
            changed = {path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)}
            if changed:
                raise DifferenceError(f"{job.output}: {len(changed)} files differ: {sorted(changed)[:20]}")
        proxy.reset()
        proxy.rates = rates


def summary(soak: Soak, seconds: float) -> str:
    """What was done and what came of it."""
    tally, lives = soak.tally, soak.lives
    kills = "\n".join(f"  {count:4} × {kind}" for kind, count in sorted(lives.kills.items()))
    faults = ", ".join(f"{count} × {fault}" for fault, count in sorted(tally.faults.items()))
    runs = ", ".join(f"{count} on {place}" for place, count in sorted(tally.runs.items()))
    codes = ", ".join(f"{count} × {code}" for code, count in sorted(lives.codes.items()))
    return (
        f"{lives.kills.total()} kills in {seconds:,.0f} s\n{kills}\n"
        f"{tally.faults.total()} of {tally.requests} requests failed on purpose: {faults or 'none'}\n"
        f"{tally.runs.total()} runs ({runs}) over {tally.lives} drivers, which ended with {codes}; "
        f"{tally.finished_early} were done before they were disturbed to death\n"
        f"an undisturbed driver takes {soak.undisturbed_s:.0f} s and leaves {len(soak.expected)} files"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="how many to come to")
    parser.add_argument("--minutes", type=float, default=25, help="begin no further run after so many")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="what happens when")
    options = parser.parse_args()
    say(f"seed {options.seed}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mami-soak-") as folder, world(seed=options.seed) as there:
        soak = Soak(there, random.Random(options.seed), Path(folder))
        try:
            number = 0
            while soak.lives.kills.total() < options.kills and time.monotonic() - start < 60 * options.minutes:
                soak.run(number, *PLACES[number % len(PLACES)])
                number += 1
                say(f"{time.monotonic() - start:6.0f} s: run {number} is whole; {soak.lives.kills.total()} kills")
        finally:
            say(summary(soak, time.monotonic() - start))
    reached = soak.lives.kills.total() >= options.kills
    say(
        f"seed {options.seed}: every run's files are the undisturbed run's" + ("" if reached else ", but too few kills")
    )
    return 0 if reached else 1


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
