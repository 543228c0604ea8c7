"""`run.json`: what was run, with what, and when."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from jobs.storage.redaction import redact
from mami_core import contracts

_PACKAGES = ("mami", "torch", "torchvision", "ray", "pyarrow", "numpy", "pillow", "s3fs")


class _Writes(Protocol):
    def write(self, path: str, data: bytes) -> None: ...


def write_run_json(storage: _Writes, config: Any, *, seed: int | None = None) -> None:
    """`run.json` beside the output: what was run, with which versions, when. For people; no program depends on it."""
    text = json.dumps(run_info(config, seed=seed), indent=2, default=str, ensure_ascii=False)
    storage.write("run.json", redact(text).encode())


def run_info(config: Any, *, seed: int | None = None) -> dict[str, Any]:
    """The configuration, the seed, the code's git commit, the versions of packages and of contracts, and the time."""
    return {
        "config": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config,
        "seed": seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "contracts": _contract_versions(),
    }


def _git_commit() -> str | None:
    """The commit of the running code, with a plus sign where files differ from it; None outside a repository."""
    try:
        run = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MAMI_GIT_COMMIT")


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _contract_versions() -> dict[str, int]:
    schemas = (value for value in vars(contracts).values() if isinstance(value, pa.Schema))
    return dict(sorted(contracts.identity(schema) for schema in schemas))
