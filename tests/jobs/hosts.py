"""Hosts on one machine: each with a network, processes and a shared memory of its own, joined by a bridge.

They are Linux namespaces, which need root. All their interfaces lie inside of them and go with them; the machine's own
network is neither used nor changed.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@dataclass(frozen=True)
class Host:
    """One of them."""

    process: int
    """Its first process, as this machine counts."""
    address: str

    def command(self, *words: str, namespaces: tuple[str, ...] = ("net", "mount", "pid")) -> list[str]:
        """The command that runs this one on the host, in the project's folder."""
        enter = ["nsenter", f"--target={self.process}", *(f"--{each}" for each in namespaces)]
        return [*enter, "--", "env", f"--chdir={ROOT}", *words]

    def ip(self, *words: str) -> None:
        """Sets up its network; with this machine's numbers of processes."""
        subprocess.run(self.command("ip", *words, namespaces=("net",)), check=True, timeout=10)


def missing() -> str:
    """What keeps this machine from having hosts; nothing where it can."""
    trial = "ip link add name bridge0 type bridge && ip link add name port1 type veth peer name eth1"
    try:
        done = subprocess.run([*UNSHARE, "sh", "-c", trial], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


@contextmanager
def hosts(count: int, private: Path) -> Iterator[list[Host]]:
    """So many hosts. They share this machine's disk, but for the folder `private`, which each has to itself."""
    shells: list[subprocess.Popen] = []
    try:
        found = [_host(number, private, shells) for number in range(count)]
        _join(found)
        yield found
    finally:
        for shell in shells:
            shell.kill()  # and with it all that runs on the host
            shell.communicate(timeout=10)


def _host(number: int, private: Path, shells: list[subprocess.Popen]) -> Host:
    script = f"mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {private} && echo ready && sleep infinity & wait"
    shells.append(subprocess.Popen([*UNSHARE, "bash", "-c", script], stdout=subprocess.PIPE, text=True))
    assert shells[-1].stdout is not None
    assert shells[-1].stdout.readline() == "ready\n"
    children = Path(f"/proc/{shells[-1].pid}/task/{shells[-1].pid}/children").read_text().split()
    return Host(int(children[0]), f"10.77.0.{number + 1}")


def _join(found: list[Host]) -> None:
    """A bridge on the first host, and a cable from each of the others to it."""
    first, *others = found
    first.ip("link", "add", "name", "bridge0", "type", "bridge")
    for number, host in enumerate(others):
        port = f"port{number}"
        first.ip("link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.process))
        first.ip("link", "set", port, "master", "bridge0", "up")
    for host, card in zip(found, ["bridge0", *("eth0" for _ in others)], strict=True):
        host.ip("address", "add", f"{host.address}/24", "dev", card)
        host.ip("link", "set", "lo", "up")
        host.ip("link", "set", card, "up")
        # Leads nowhere; but a program that asks which address it has outwards gets the right one.
        host.ip("route", "add", "default", "via", first.address) if host is not first else None
    time.sleep(1)
