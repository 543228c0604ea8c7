"""`make` makes the environment that it runs in, and leaves one that is somebody else's as it is."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def would_run(*words: str) -> str:
    return subprocess.run(
        ["make", "-n", "lint", *words], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout


def test_an_environment_of_ones_own_is_not_installed_into(tmp_path: Path) -> None:
    own = tmp_path / "own" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch(mode=0o755)
    said = would_run(f"VENV={tmp_path}/own")
    assert "pip install" not in said
    assert f"{tmp_path}/own/bin/ruff check" in said


def test_an_environment_that_is_not_there_is_made(tmp_path: Path) -> None:
    said = would_run(f"VENV={tmp_path}/new")
    assert f"-m venv {tmp_path}/new" in said
    assert f"{tmp_path}/new/bin/python -m pip install" in said
