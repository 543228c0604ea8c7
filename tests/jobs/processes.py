"""Processes of this machine, as the kernel tells of them: whom a test may kill, and who is behind a connection."""

from collections.abc import Iterable
from pathlib import Path


def below(process: int) -> list[int]:
    """Every process that this one started, directly or not."""
    parents = {int(path.name): read(int(path.name), "stat") for path in Path("/proc").iterdir() if path.name.isdigit()}
    children = [pid for pid, stat in parents.items() if stat.rpartition(b")")[2].split()[1:2] == [b"%d" % process]]
    return [*children, *(deeper for child in children for deeper in below(child))]


def read(process: int, what: str) -> bytes:
    """What the kernel says of a process; nothing once it is gone."""
    try:
        return Path(f"/proc/{process}/{what}").read_bytes()
    except OSError:
        return b""


def owner(port: int, candidates: Iterable[int]) -> int | None:
    """Which of these processes holds the end of a TCP connection with this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if int(row[1].rpartition(":")[2], 16) == port} - {"socket:[0]"}
    return next((process for process in candidates if sockets & _links(process)), None)


def _links(process: int) -> set[str]:
    """What the open files of a process are."""
    found = set()
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            found.add(str(entry.readlink()))
    except OSError:  # the process, or the file, is gone
        pass
    return found
