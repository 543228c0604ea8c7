"""torchvision's JPEG decoders among torch's operators, without the rest of torchvision.

To import torchvision is to import its networks and torch's compiler: two seconds of the start of every worker, whose
network may come from elsewhere.
"""

import functools
import importlib.util
from contextlib import suppress
from pathlib import Path

import torch


@functools.cache
def load() -> None:
    """`torch.ops.image.decode_jpeg` is there afterwards, where this machine's torchvision has it."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(folder).glob("image*.so"):
            with suppress(OSError):  # a library that is missing: Pillow decodes
                torch.ops.load_library(library)
    if not hasattr(torch.ops.image, "decode_jpeg"):
        import torchvision.io  # noqa: F401  (packaged in another way)
