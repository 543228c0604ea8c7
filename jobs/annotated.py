"""Annotated neurons by name: those that the project makes itself, or a folder in MILANNOTATIONS' layout."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mami_core.errors import DescriptionsError
from mami_core.learning.annotated_folder import open_annotated
from mami_core.learning.descriptions import AnnotatedNeurons
from mami_core.learning.generated import GeneratedConfig, generate

GENERATED = "generated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where annotated neurons come from; what a worker needs to open them itself."""

    name: str = GENERATED
    """"generated", or a folder that every worker can read."""
    num_neurons: int = 1200
    """How many to generate."""
    seed: int = 0
    """What to generate them from."""

    def open(self) -> AnnotatedNeurons:
        """The neurons, their descriptions and their pictures.

        Raises:
            DescriptionsError: no such folder, or one in another layout.
        """
        if self.name == GENERATED:
            return generate(GeneratedConfig(num_neurons=self.num_neurons, seed=self.seed))
        if not Path(self.name).is_dir():
            raise DescriptionsError(
                f"{self.name}: expected '{GENERATED}', or a folder in MILANNOTATIONS' layout (annotations.csv, and "
                "images.npy and masks.npy for each layer)."
            )
        return open_annotated(self.name)

    def identity(self, annotated: AnnotatedNeurons) -> dict[str, Any]:
        """What tells these neurons from others, as JSON values."""
        digest = hashlib.sha256(annotated.images.tobytes())
        for neuron, descriptions in zip(annotated.neurons, annotated.descriptions, strict=True):
            digest.update(repr((neuron.layer, neuron.unit, descriptions)).encode())
        made = {"num_neurons": self.num_neurons, "seed": self.seed} if self.name == GENERATED else {}
        return {"kind": GENERATED if made else "folder", **made, "digest": digest.hexdigest()[:16]}
