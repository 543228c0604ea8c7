"""Addresses among a job's settings, made absolute where the job was given: its workers run in other folders."""

import posixpath
from pathlib import Path
from typing import Any

from jobs.storage import absolute


def settle(job: Any) -> None:
    """Makes the addresses among a job's settings absolute: call it in `__post_init__`, frozen or not. None stays None.

    Which they are the dataclass says: `ADDRESSES`, and `ADDRESSES_OR_NAMES` for those that may also be the name of
    something without a file ("generated", "random:0"). A setting may be several, a tuple.

    Raises:
        ConfigError: an address of a kind that is not supported.
    """
    or_names = getattr(job, "ADDRESSES_OR_NAMES", ())
    for setting in (*getattr(job, "ADDRESSES", ()), *or_names):
        if (given := getattr(job, setting)) is not None:
            or_name = setting in or_names
            several = isinstance(given, tuple)
            found = tuple(settled(each, or_name=or_name) for each in (given if several else (given,)))
            object.__setattr__(job, setting, found if several else found[0])


def settled(text: str, folder: str = "", *, or_name: bool = False) -> str:
    """The address, absolute, from a folder or else from where this process runs; with `or_name`, a name as it is."""
    if "://" in text:
        return absolute(text)
    place = posixpath.join(folder, str(Path(text).expanduser()))
    is_name = or_name and "/" not in text and not Path(text).suffix and not Path(place).exists()
    return text if is_name else absolute(place)
