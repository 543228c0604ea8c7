"""The scorer that needs nothing from outside: EfficientNet-Lite2 sees, a sentence encoder reads, a small map joins.

An image's vector is the sum of two, each of length 1, in the space of sentence embeddings:

- ConSE (Norouzi et al., ICLR 2014): the classes' names, weighted by the probabilities that the classifier gives them;
- a ridge regression from the classifier's last features and the picture's colours and edges to the embeddings of what
  people said of annotated photographs, and of the colours that they have. `jobs.fit_scorer` fits it.

Both are centred over photographs, and texts over what was said of them: all share a direction that means nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load
from torch import Tensor, nn

from mami_core.metrics.sentences import Sentences, load_sentences
from mami_core.subjects import Subject, Trace, load_subject
from mami_core.subjects.weights import weights_id

CLASSIFIER, INPUT_SIZE = "efficientnet_lite2", 256
FILE = "learned.safetensors"
"""Beside this module: the map, the classes' embeddings and the centres; docs/trust.md says what it was fitted on."""
CONSE_SHARE = 0.5
"""How long ConSE's vector is beside the learned one."""

COLOURS = {
    "red": (200, 40, 40),
    "orange": (235, 130, 40),
    "yellow": (235, 215, 60),
    "green": (60, 140, 60),
    "blue": (50, 90, 190),
    "purple": (120, 60, 150),
    "pink": (235, 150, 180),
    "brown": (115, 75, 45),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
}
"""On the scale of pixels from 0 to 255: a point of a picture has the nearest one's name."""

_HEAD = "_bn1"
_THUMB, _GRID, _LEVELS = 32, 4, 4


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Joint:
    """What joins images and sentences; numbers as `jobs.fit_scorer` found them."""

    weight: Float[Tensor, "features size"]
    bias: Float[Tensor, " size"]
    """So that photographs have no vector on average."""
    classes: Float[Tensor, "classes size"]
    """The sentence embeddings of the classes' names."""
    conse_centre: Float[Tensor, " size"]
    text_centre: Float[Tensor, " size"]

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Joint":
        """From a file's tensors, in whatever precision they are kept."""
        return Joint(**{name: tensor.float() for name, tensor in tensors.items()})

    def to(self, device: torch.device | str) -> "Joint":
        """On `device`."""
        return Joint(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})

    def conse(self, probabilities: Float[Tensor, "b classes"]) -> Float[Tensor, "b size"]:
        """The names that the classifier sees, as one vector of length 1."""
        return nn.functional.normalize(probabilities @ self.classes - self.conse_centre, dim=1)

    def learned(self, features: Float[Tensor, "b features"]) -> Float[Tensor, "b size"]:
        """What people would say, as one vector of length 1."""
        return nn.functional.normalize(features @ self.weight + self.bias, dim=1)


class Packaged:
    """See the module."""

    crop = 1.0

    def __init__(self, joint: Joint, subject: Subject, sentences: Sentences, *, learned: bool) -> None:
        """Take what `load_packaged` has loaded."""
        kind = "learned" if learned else "conse"
        parts = nn.ParameterDict({name: getattr(joint, name) for name in joint.__dataclass_fields__})
        self.name = f"{kind} {weights_id(parts)[:8]} ({subject.name} {subject.weights_id[:8]}, {sentences.name})"
        self.input_size = subject.input_size
        self._joint, self._subject, self._sentences, self._learned = joint, subject, sentences, learned

    @torch.inference_mode()
    def see(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b size"]:
        """The images' vectors, on the CPU."""
        pixels = pixels.to(next(self._subject.network.parameters()).device)
        head, probabilities = look(self._subject, pixels)
        vectors = self._joint.conse(probabilities)
        if self._learned:
            vectors = self._joint.learned(torch.cat([head, look_of(pixels)], dim=1)) + CONSE_SHARE * vectors
        return vectors.cpu()

    def read(self, texts: Sequence[str]) -> Float[Tensor, "texts size"]:
        """The texts' vectors, on the CPU."""
        centre = self._joint.text_centre if self._learned else self._joint.classes.mean(0)
        return self._sentences.embed(texts) - centre.cpu()

    def to(self, device: torch.device | str) -> "Packaged":
        """This scorer, its networks moved to `device`."""
        self._subject.to(device)
        self._sentences.network.to(device)
        self._joint = self._joint.to(device)
        return self


def look(subject: Subject, pixels: UInt8[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b head"], Float[Tensor, "b c"]]:
    """The classifier's last features, averaged over the picture, and its classes' probabilities."""
    with Trace(subject.network, [_HEAD], before_clamp=False) as maps:
        subject.read(pixels, maps.run)
        head = maps[_HEAD].clamp(0, 6).mean((2, 3))
    return head, subject.network.get_submodule("_fc")(head).softmax(1)


def look_of(pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b look"]:
    """A picture's colours and edges: how often each colour, the colours of a 4 × 4 grid, contrast, brightness."""
    thumbs = nn.functional.adaptive_avg_pool2d(pixels.float(), _THUMB).round()
    points = thumbs.flatten(2).transpose(1, 2)
    bins = (points // (256 // _LEVELS)).long() @ torch.tensor([_LEVELS**2, _LEVELS, 1], device=pixels.device)
    counts = nn.functional.one_hot(bins, _LEVELS**3).float().mean(1)
    grid = nn.functional.adaptive_avg_pool2d(thumbs / 255, _GRID).permute(0, 2, 3, 1).flatten(1)
    grey = thumbs.mean(1) / 255
    edges = [grey.diff(dim=axis).abs().mean((1, 2)) for axis in (2, 1)]
    overall = torch.stack([*edges, grey.flatten(1).std(1), grey.mean((1, 2))], dim=1)
    return torch.cat([counts.sqrt(), grid, overall, colour_shares(points).sqrt()], dim=1)


def colour_shares(points: Float[Tensor, "b points 3"]) -> Float[Tensor, "b colours"]:
    """Which share of a picture's points has each of `COLOURS`."""
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=points.device)
    away = (points[:, :, None] - colours).square().sum(3)
    return nn.functional.one_hot(away.argmin(2), len(COLOURS)).float().mean(1)


def load_packaged(*, learned: bool) -> Packaged:
    """The packaged scorer, or ConSE alone, on the CPU.

    Raises:
        SubjectError: the classifier's packages are not installed.
        ConfigError: the sentence encoder's package is not installed.
    """
    joint = Joint.of(load(resources.files("mami_core.metrics.scorers").joinpath(FILE).read_bytes()))
    return Packaged(joint, load_subject(CLASSIFIER, input_size=INPUT_SIZE), load_sentences(), learned=learned)
