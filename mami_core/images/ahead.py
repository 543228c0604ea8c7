"""Work done ahead of its use, in threads, in order, and never further ahead than stated."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def threads(count: int, *, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool that ends with the block: what runs is finished, what waits is dropped."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    weight: Callable[[Item], int],
    limit: int,
) -> Iterator[Result]:
    """`map(function, items)`, computed in the pool while the caller is busy with earlier results.

    At most `limit` worth of items, by their `weight`, are waiting, running or not yet taken, or one item if it alone
    is heavier. The caller's thread hands out the work, so nothing runs on when the caller stops. Whatever `function`
    raises is raised here, in its turn.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    load = 0
    for item in items:
        waiting.append((pool.submit(function, item), weight(item)))
        load += waiting[-1][1]
        while load >= limit and waiting:
            future, released = waiting.popleft()
            load -= released
            yield future.result()
    while waiting:
        yield waiting.popleft()[0].result()


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, `size` at a time."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def runs(sizes: Sequence[int], *, most: int) -> Iterator[slice]:
    """Neighbours whose sizes add up to at most so much, or one that is larger."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > most:
            yield slice(first, place)
            first, total = place, 0
        total += size
    if sizes:
        yield slice(first, len(sizes))
