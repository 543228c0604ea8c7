"""What a network wants images resized to, and how."""

from dataclasses import dataclass
from typing import Literal, get_args

from mami_core.errors import ConfigError

Filter = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
"""How pixels are made from pixels, as Pillow and torchvision name it; all but nearest with antialiasing."""


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels, and the filter that makes them."""

    height: int
    width: int
    filter: Filter = "bilinear"

    def __post_init__(self) -> None:
        """Refuse what no image can have."""
        if min(self.height, self.width) < 1 or self.filter not in get_args(Filter):
            raise ConfigError(
                f"expected sizes of at least 1 pixel and a filter of {', '.join(get_args(Filter))}; "
                f"got {self.height} x {self.width}, {self.filter}."
            )

    @staticmethod
    def of(size: "int | Size") -> "Size":
        """A number is the side of a square, bilinear."""
        return Size(size, size) if isinstance(size, int) else size
