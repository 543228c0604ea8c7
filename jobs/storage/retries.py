"""One storage operation, tried until it succeeds, is refused, or has failed for too long."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from jobs.storage.redaction import redact
from mami_core.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """How patiently storage is asked again."""

    patience_s: float = 300.0
    """For how long one operation may go on failing before it is given up."""
    first_pause_s: float = 0.2
    """The pause after the first failure; every further pause is twice as long, less up to half of it at random."""
    longest_pause_s: float = 20.0

    def __post_init__(self) -> None:
        if self.patience_s < 0 or self.first_pause_s <= 0 or self.longest_pause_s < self.first_pause_s:
            raise ConfigError(f"Retries need patience ≥ 0 and 0 < first pause ≤ longest pause, not {self}.")


class Retries:
    """Runs operations, and counts how often one had to be tried again."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config
        self.count = 0

    def run(
        self, action: str, url: str, attempt: Callable[[], T], judge: Callable[[str, Exception], Exception | None]
    ) -> T:
        """What `attempt` returns, once it does.

        Args:
            action: what is being tried, for the log: "write".
            url: the object it is tried on.
            attempt: the operation. Doing it twice must be harmless: the reply to the first may have been lost.
            judge: gives the error to raise, or None where another try may help.

        Raises:
            StorageError: the operation went on failing for `patience_s` seconds.
        """
        start = time.monotonic()
        for number, pause in enumerate(self._pauses(), 1):
            try:
                return attempt()
            except Exception as error:
                verdict = judge(url, error)
                if verdict is error:
                    raise
                if verdict is not None:
                    raise verdict from error
                reason = redact(one_line(error))
                spent = time.monotonic() - start
                if spent + pause > self.config.patience_s:
                    raise StorageError(
                        f"{redact(url)}: {action} failed {number} times in {spent:.0f} seconds; the last error was: "
                        f"{reason}. Run the same command again when the storage can be reached; it goes on from here."
                    ) from error
            self.count += 1
            logger.warning("%s: %s failed, trying again in %.1f s: %s", redact(url), action, pause, reason)
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    def _pauses(self) -> Iterator[float]:
        """Exponential, with jitter: workers that failed together do not come back together."""
        longest = self.config.first_pause_s
        while True:
            yield longest * random.uniform(0.5, 1.0)
            longest = min(2 * longest, self.config.longest_pause_s)


def one_line(error: BaseException) -> str:
    """An error's kind and message, in one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
