"""What `ray job submit --working-dir .` uploads, packed by Ray's own packer."""

import logging
import os
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

QUIET = logging.getLogger("packer")
QUIET.setLevel(logging.ERROR)

STAYS_HOME = {
    "demo/labels/part-00000-of-00001.parquet",
    "runs/2026-01-01/run.json",
    ".venv/lib/python3.11/site-packages/torch/lib/libtorch.so",
    ".git/objects/pack/pack-1.pack",
    "docs/images/report.png",
    "tests/core/test_topk.py",
    "cluster/Dockerfile",
    "captioner/model.safetensors",
    "resnet50.pth",
    "photographs/000001.jpg",
    "shard-000.tar",
    "id.pem",
    ".env",
    ".ray/auth_token",
    ".pytest_cache/v/cache/lastfailed",
    "jobs/__pycache__/label.cpython-311.pyc",
}
TRAVELS = {"jobs/label.py", "mami_core/pipeline.py", "pyproject.toml", "my_networks/factory.py", "images.txt"}
TRAVELS |= {"mami_core/captioners/new/captioner.safetensors", "mami_core/metrics/scorers/new.safetensors"}


def packed(folder: Path, target: Path) -> set[str]:
    create_package(str(folder), target, include_gitignore=True, logger=QUIET)
    with zipfile.ZipFile(target) as package:
        return set(package.namelist())


def test_checkout_packs_small_and_with_every_module(repository: Path, tmp_path: Path) -> None:
    names = packed(repository, tmp_path / "working_dir.zip")
    size = (tmp_path / "working_dir.zip").stat().st_size
    largest = sorted(names, key=lambda name: -(repository / name).stat().st_size)[:5]
    weights = sum(file.stat().st_size for file in (repository / "mami_core").rglob("*.safetensors"))
    assert 0 < weights < 27_000_000, "the captioner and the scorer"
    assert size < weights + 2_000_000, f"{size} bytes; the largest: {largest}"
    folders = (repository / "jobs", repository / "mami_core")
    ours = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    modules = {str(path.relative_to(repository)) for path in ours if "__pycache__" not in path.parts}
    assert modules
    assert modules <= names
    assert not {name for name in names if name.startswith(("tests/", "docs/", "cluster/", ".git/", ".venv/"))}


@pytest.mark.parametrize("has_gitignore", [True, False])
def test_data_weights_and_keys_stay_home_and_code_travels(
    has_gitignore: bool, repository: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for name in STAYS_HOME | TRAVELS:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(os.urandom(64))
    for name in ("docs/drafts", "runs/tonight", "tests/benchmarks"):  # packed as folders if Ray walks in
        (checkout / name).mkdir(parents=True, exist_ok=True)
    for name in [".rayignore", *([".gitignore"] if has_gitignore else [])]:
        (checkout / name).write_bytes((repository / name).read_bytes())
    names = packed(checkout, tmp_path / "working_dir.zip")
    assert names - {".rayignore", ".gitignore"} == TRAVELS
