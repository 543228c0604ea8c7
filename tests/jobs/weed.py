"""A real S3 server in a process of its own, which can be killed in the middle of its work and started again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

PROGRAM = Path(sys.executable).parent / "weed"
START_S = 90.0


class WeedServer:
    """SeaweedFS in a folder: `with WeedServer(folder, key_id, secret) as server:` listens at `server.url`."""

    def __init__(self, folder: Path, key_id: str, secret: str) -> None:
        self.ports = _free_ports(8)
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self._folder = folder
        credentials = [{"accessKey": key_id, "secretKey": secret}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": "test", "credentials": credentials, "actions": actions}]}
        (folder / "data").mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps(config))

    def __enter__(self) -> "WeedServer":
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc"]
        names += ["volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
        ports = [f"-{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        command = [
            str(PROGRAM), "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
            f"-s3.config={self._folder / 's3.json'}", "-s3.port.iceberg=0", "-volume.max=20",
            "-master.volumeSizeLimitMB=64", f"-filer.localSocket={self._folder / 'filer.sock'}", *ports,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            # A group of its own, so that all of it can be killed; in the folder, where it may leave files.
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                env={"HOME": str(self._folder)},
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL: it writes nothing more."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code < 500
        except OSError:
            return False
        return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
