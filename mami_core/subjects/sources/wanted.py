"""What someone wants of a subject, beside its name, and what a collection says of one."""

import importlib
from dataclasses import dataclass
from types import ModuleType

from mami_core.errors import SubjectError
from mami_core.sizes import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """As `load_subject` is asked for it."""

    weights: str | None = None
    """None for the pretrained ones, a local file, "random:SEED", or a name that the collection knows."""
    preprocessing: str | None = None
    input_size: int | tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What weights were evaluated with; mean and std for pixels from 0 to 255."""

    input_size: int | tuple[int, int]
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Filter = "bilinear"


def as_pixels(channels: list[float] | tuple[float, ...]) -> tuple[float, float, float]:
    """Numbers for pixels from 0 to 1 as such for pixels from 0 to 255."""
    red, green, blue = (round(255 * value, 4) for value in channels)
    return red, green, blue


def optional(module: str, extra: str, what: str) -> ModuleType:
    """A package that only some subjects need.

    Raises:
        SubjectError: it is not installed, with how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SubjectError(f"{what} needs the package {module}: pip install 'mami[{extra}]'.") from error


def no_preprocessing_by_name(name: str, wanted: Wanted) -> None:
    """Refuse a published preprocessing where a collection names none."""
    if wanted.preprocessing:
        raise SubjectError(
            f"'{name}': a preprocessing by name ('{wanted.preprocessing}') is there for torchvision: and timm: only; "
            "give input_size, crop, mean and std."
        )
