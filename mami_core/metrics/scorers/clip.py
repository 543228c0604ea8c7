"""CLIP, SigLIP and OpenCLIP as scorers: any image–text network of transformers that this machine has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mami_core.errors import ConfigError
from mami_core.metrics.networks import network_folder, quiet
from mami_core.subjects.weights import weights_id

_BATCH = 32
_HALF = 0.5


class Clip:
    """An image–text network; see `load_clip`."""

    def __init__(self, name: str, network: nn.Module, tokenizer: Any, processor: Any) -> None:
        """Take what `load_clip` has loaded."""
        self.name = f"{name} {weights_id(network)[:12]}"
        config: Any = network.config
        self.input_size = int(config.vision_config.image_size)
        self.crop = 1.0
        self._network: Any = network
        self._tokenizer = tokenizer
        self._length = int(config.text_config.max_position_embeddings)
        self._mean, self._std = (
            torch.tensor(values).view(1, 3, 1, 1) * 255
            for values in (processor.image_mean or [_HALF] * 3, processor.image_std or [_HALF] * 3)
        )

    @torch.inference_mode()
    def see(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b size"]:
        """The images' vectors, on the CPU."""
        device = next(self._network.parameters()).device
        inputs = (pixels.to(device).float() - self._mean.to(device)) / self._std.to(device)
        return _vectors(self._network.get_image_features(pixel_values=inputs)).float().cpu()

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> Float[Tensor, "texts size"]:
        """The texts' vectors, on the CPU, from batches of one fixed shape: a text's does not depend on the others."""
        starts = range(0, len(texts), _BATCH)
        return torch.cat([self._read(list(texts[start : start + _BATCH])) for start in starts])

    def _read(self, texts: list[str]) -> Tensor:
        padded = texts + [""] * (_BATCH - len(texts))
        inputs = self._tokenizer(
            padded, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        ).to(next(self._network.parameters()).device)
        wanted = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        return _vectors(self._network.get_text_features(**wanted)).float().cpu()[: len(texts)]

    def to(self, device: torch.device | str) -> "Clip":
        """This scorer, its network moved to `device`."""
        self._network.to(device)
        return self


def load_clip(name: str) -> Clip:
    """The network in a local folder, or of a name in this machine's cache of models; nothing is downloaded.

    Raises:
        ConfigError: it is not here, or is no image–text network.
    """
    folder = network_folder(name)
    with quiet():
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            network = AutoModel.from_pretrained(folder, local_files_only=True).float()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"Scorer '{name}' cannot be used: {error}") from error
    if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
        raise ConfigError(
            f"Scorer '{name}': expected an image–text network such as CLIP or SigLIP, found {type(network).__name__}."
        )
    known_as = folder.name if Path(name).is_dir() else name
    return Clip(known_as, network.eval().requires_grad_(False), tokenizer, processor)


def _vectors(found: Any) -> Tensor:
    """Newer versions of transformers give an object with several outputs."""
    return found if isinstance(found, Tensor) else found.pooler_output
