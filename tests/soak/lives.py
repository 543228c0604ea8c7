"""One life of a driver, and what disturbs it."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.jobs.faultproxy import unwatched
from tests.jobs.processes import owner
from tests.soak.world import World, kill

DRIVER_KILLED, DRIVER_STOPPED = "driver killed", "driver stopped"
WORKER, NODE = "worker killed", "node lost"
BEFORE, AFTER = "writer killed before its write", "writer killed after its write"

LIMIT_S = 300.0
"""A life that lasts longer hangs."""
_STOP_S = 3.0
"""What `ray job stop` waits between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Something that happens to a running job."""

    kind: str
    after_s: float
    """Since the driver began; where there is nobody to kill yet, as soon as there is."""
    skip: int = 0
    """How many writes go well before a writer is killed at the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How a driver ended."""

    code: int
    seconds: float
    said: str


class StuckError(Exception):
    """A driver did not end."""


class Lives:
    """Lets drivers live, and counts what is done to them."""

    def __init__(self, world: World, generator: random.Random, folder: Path) -> None:
        self.kills: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self._world, self._random, self._folder = world, generator, folder
        self._count = 0

    def live(self, arguments: list[str], disturbances: Sequence[Disturbance]) -> Life:
        """One driver from its beginning to its end.

        Raises:
            StuckError: it did not end by itself within `LIMIT_S`.
        """
        self._world.heal()
        self._count += 1
        log = self._folder / f"life-{self._count:03d}.log"
        pending = list(disturbances)
        driver = self._world.begin(arguments, log)
        start = time.monotonic()
        try:
            while driver.poll() is None:
                spent = time.monotonic() - start
                if spent > LIMIT_S:
                    raise StuckError(f"after {spent:.0f} s a driver has not ended:\n{log.read_text()[-3000:]}")
                due = [each for each in pending if spent >= each.after_s]
                pending = [each for each in pending if each not in due or not self._happens(each, driver)]
                time.sleep(0.05)
        finally:
            self._world.proxy.watch = unwatched
            kill(driver.pid)
            driver.wait(30)
        self.codes[driver.returncode] += 1
        return Life(code=driver.returncode, seconds=time.monotonic() - start, said=log.read_text(errors="replace"))

    def _happens(self, disturbance: Disturbance, driver: subprocess.Popen) -> bool:
        """Whether it could be done; otherwise it is tried again soon."""
        if disturbance.kind in (BEFORE, AFTER):
            return self._set_trap(disturbance, driver)
        happened = self._killed(disturbance.kind, driver)
        self.kills[disturbance.kind] += happened
        return happened or disturbance.kind == NODE  # only one is there to be lost

    def _killed(self, kind: str, driver: subprocess.Popen) -> bool:
        if kind == DRIVER_KILLED:
            return kill(driver.pid)
        if kind == DRIVER_STOPPED:
            return _stop(driver)
        if kind == NODE:
            return self._world.lose_node()
        workers = self._world.workers()
        return bool(workers) and kill(self._random.choice(workers))

    def _set_trap(self, disturbance: Disturbance, driver: subprocess.Popen) -> bool:
        """Kills whoever makes the next write but `skip`, right before or right after the server has it."""
        proxy = self._world.proxy
        if proxy.watch is not unwatched:  # another is waiting
            return False
        moment, left = {BEFORE: "before", AFTER: "after"}[disturbance.kind], [disturbance.skip]

        def watch(when: str, method: str, path: str, port: int) -> None:
            if (when, method) != (moment, "PUT"):
                return
            left[0] -= 1
            if left[0] >= 0:
                return
            proxy.watch = unwatched
            writer = owner(port, [driver.pid, *self._world.processes()])
            if writer is not None and kill(writer):
                self.kills[disturbance.kind] += 1
                raise ConnectionAbortedError  # a client that is dead gets no answer, and its request goes nowhere

        proxy.watch = watch
        return True


def _stop(driver: subprocess.Popen) -> bool:
    driver.terminate()
    try:
        driver.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        kill(driver.pid)
    return True
