"""A vision network, a captioner and photographs that are real and tiny, for tests that go the whole way.

Jobs find the networks as "python:tests.tiny:network" and so on, in every process of a Ray too.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import Vocabulary
from mami_core.features import EncoderConfig, load_encoder
from mami_core.learning import checkpoint
from mami_core.learning.checkpoint import Trained
from mami_core.subjects import Subject, generator_of, subject_of

SUBJECT, OTHER_SUBJECT, ENCODER = (f"python:tests.tiny:{name}" for name in ("network", "other_network", "encoder"))
GENERATOR = "python:tests.tiny:generator"
LOUD_ENCODER, BROKEN_ENCODER = (f"python:tests.tiny:{name}" for name in ("loud_encoder", "broken_encoder"))
LAYERS = {"clamped": 8, "stage.deep": 16, "scores": 16}
"""The default layers of the subject, with their units."""
DEAD = ("stage.deep", 5)
"""A unit that never fires."""
AWKWARD = "scores./etc/~\x1b[2J\r%2F é"
WORDS = ("red", "green", "blue", "round", "striped", "edges", "of", "the", "sky", "dogs")


class Tiny(nn.Module):
    """Three maps and a vector. Widths are multiples of 4: with others the last bit of a sum depends on its place."""

    def __init__(self) -> None:
        super().__init__()
        self.clamped = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6(inplace=True))
        self.stage = nn.Sequential()
        self.stage.add_module("conv", nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False))
        self.stage.add_module("norm", nn.BatchNorm2d(16))
        self.stage.add_module("deep", nn.ReLU(inplace=True))
        self.last = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU())
        self.scores = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.last(self.stage(self.clamped(x))).mean((2, 3)))


def network() -> Subject:
    """The subject; many images drive its first layer beyond where that is clamped."""
    return _subject(seed=1, input_size=32)


def other_network() -> Subject:
    """Another subject."""
    return _subject(seed=2, input_size=24)


def encoder() -> Subject:
    """What the captioner sees by: levels of 24, 12 and 6 cells."""
    return _subject(seed=3, input_size=48, layers=("clamped", "stage.deep", "last"))


def loud_encoder() -> Subject:
    """An encoder whose last level goes far beyond what half precision can hold, as networks without norms do."""
    return _times(1e7)


def broken_encoder() -> Subject:
    """An encoder whose last level overflows."""
    return _times(float("inf"))


def _times(factor: float) -> Subject:
    made = encoder()
    with torch.no_grad():
        made.network.get_parameter("last.0.weight").mul_(factor)
    return made


def restless() -> Subject:
    """A subject that has other weights whenever it is loaded."""
    return _subject(seed=int(np.random.default_rng().integers(2**31)), input_size=32)


def awkward() -> Subject:
    """The subject with a layer whose name is a path out of the folder and an order to the terminal."""
    made = _subject(seed=1, input_size=32).network
    scores = nn.Sequential()
    scores.add_module(AWKWARD.partition(".")[2], made.get_submodule("scores"))
    made.register_module("scores", scores)
    return subject_of(made, name="awkward", input_size=32, default_layers=(AWKWARD,))


def _subject(seed: int, input_size: int, layers: tuple[str, ...] = tuple(LAYERS)) -> Subject:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = Tiny()
        made.clamped.get_parameter("0.weight").mul_(8)
        made.stage.get_buffer("norm.running_mean").uniform_(-1, 1)
        made.stage.get_parameter("norm.bias")[DEAD[1]] = -1e4
        made.scores.bias.uniform_(0, 0.5)
    return subject_of(made, name="tiny", input_size=input_size, default_layers=layers)


class TinyGenerator(nn.Module):
    """Eight numbers → 32 × 32 pixels; its second maps have as many channels as rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 16 * 4 * 4)
        self.up1 = nn.Sequential(nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.up2 = nn.Sequential(nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU())
        self.up3 = nn.Sequential(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.up3(self.up2(self.up1(self.start(z).view(-1, 16, 4, 4))))


def generator() -> Subject:
    """A subject that makes images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(6)
        made = TinyGenerator()
        for parameter in made.parameters():
            parameter.mul_(2)
    return generator_of(made, name="tiny generator", latent_shape=8)


def captioner(encoder_config: EncoderConfig | None = None) -> Trained:
    """A captioner that nobody trained: it says anything, but always the same of the same features."""
    encoder_config = encoder_config or EncoderConfig(name=ENCODER)
    eyes = load_encoder(encoder_config)
    vocabulary = Vocabulary(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        sizes = {"hidden": 16, "embedding": 8}
        config = CaptionerConfig(num_features=eyes.num_features, attention_size=8, **sizes)
        made = Captioner(config, vocabulary), LanguageModel(LanguageModelConfig(layers=1, **sizes), vocabulary)
        with torch.no_grad():
            for parameter in (parameter for net in made for parameter in net.parameters()):
                parameter.mul_(3)  # sharper than it starts: neighbours get different captions
    return Trained(captioner=made[0].eval(), language_model=made[1].eval(), encoder=encoder_config, encoder_id=eyes.id)


def write_captioner(folder: Path, trained: Trained | None = None) -> Path:
    """The captioner's checkpoint."""
    folder.mkdir(parents=True)
    for name, data in checkpoint.save(trained or captioner()).items():
        (folder / name).write_bytes(data)
    return folder


def photograph(number: int) -> bytes:
    """A picture of coloured blobs of several sizes, each number another: JPEG, PNG or a single pixel."""
    random = np.random.default_rng(number)
    if number % 10 == 9:
        pixels = random.integers(0, 256, (1, 1, 3), np.uint8)
        return _encoded(Image.fromarray(pixels), "PNG")
    cells = Image.fromarray(random.integers(0, 256, (2 + number % 6, 2 + number % 5, 3), np.uint8))
    size = (40 + 3 * (number % 7), 60 - 2 * (number % 9))
    return _encoded(cells.resize(size, Image.Resampling.BICUBIC), "PNG" if number % 3 else "JPEG")


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_photographs(folder: Path, count: int, *, broken: tuple[int, ...] = ()) -> Path:
    """Photographs 0 to `count`, those of `broken` cut off; some in a folder of their own."""
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        data = photograph(number)
        place = folder / "more" if number % 4 == 3 else folder
        (place / f"{number:03d}.{'png' if number % 3 else 'jpg'}").write_bytes(
            data[: len(data) // 2] if number in broken else data
        )
    return folder


SCORER = "python:tests.tiny:scorer"


class Scorer:
    """Sees 12 colours of an image and reads 12 kinds of letters: nobody taught it what goes with what."""

    name, input_size, crop = "tiny scorer", 16, 1.0

    def see(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels.float(), 2).flatten(1) - 128

    def read(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text.count("abcdefghijkl"[i]) - i % 3) for i in range(12)] for text in texts])

    def to(self, device: torch.device | str) -> "Scorer":
        return self


def scorer() -> Scorer:
    """Who judges captions in tests."""
    return Scorer()
