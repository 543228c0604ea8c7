"""What a worker keeps between items."""

import gc
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


def one_at_a_time(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """What `make` gave last is kept, and let go before anything else is made: there may be room for one only."""
    kept: dict[Any, Made] = {}

    def get(*arguments: Arguments.args, **named: Arguments.kwargs) -> Made:
        key = (arguments, *named.items())
        if key not in kept:
            if kept:
                kept.clear()
                gc.collect()  # it may refer to itself, as what keeps something by a method of its own does
            kept[key] = make(*arguments, **named)
        return kept[key]

    return get
