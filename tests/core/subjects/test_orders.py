"""Tokens in windows: each is read where it lies in the image, whatever the order and wherever the windows are."""

import pytest
import torch
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.subjects import list_layers, match_layers, subject_of
from tests.core.subjects.networks import Block

SIZE, PATCH, WINDOW, WIDTH = 64, 4, 4, 96


class Windowed(nn.Module):
    """Patches by rows, then by windows: in one sequence, or each window a row of the batch; windows may be shifted."""

    def __init__(self, *, fold: bool, shift: int = 0, overlap: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fold, self.shift = fold, shift
        self.patch = nn.Conv2d(3, WIDTH, PATCH + 2 * overlap, PATCH, overlap)
        self.rows, self.windows = nn.Identity(), nn.Identity()
        self.blocks = nn.ModuleList(Block(WIDTH, 4, batch_first=True) for _ in range(2))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patch(x)
        batch, width, height, across = maps.shape
        maps = self.rows(maps.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(batch, width, height, across)
        maps = torch.roll(maps, (self.shift, self.shift), (2, 3))
        cut = maps.reshape(batch, width, height // WINDOW, WINDOW, across // WINDOW, WINDOW).permute(0, 2, 4, 3, 5, 1)
        tokens = self.windows(cut.reshape((-1, WINDOW**2, width) if self.fold else (batch, -1, width)))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.reshape(batch, -1, width).mean(1))


@pytest.mark.parametrize(
    ("fold", "shift", "overlap"), [(False, 0, 0), (False, 2, 0), (True, 0, 0), (True, 2, 0), (False, 0, 1)]
)
def test_tokens_of_windows_are_read_where_they_lie(fold: bool, shift: int, overlap: int) -> None:
    network = Windowed(fold=fold, shift=shift, overlap=overlap)
    subject = subject_of(network, name="windows", input_size=SIZE)
    assert subject.default_layers == ("blocks.0", "blocks.1")
    x = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad(), subject.trace(("patch", "rows", "windows", "blocks.1")) as outputs:
        subject.network(x)
        assert outputs["windows"].equal(
            torch.roll(outputs["patch"], (shift, shift), (2, 3)).roll((-shift, -shift), (2, 3))
        )
        assert outputs["rows"].equal(outputs["patch"])
        assert outputs["blocks.1"].shape == (3, WIDTH, SIZE // PATCH, SIZE // PATCH)


def test_a_bright_spot_is_where_a_windowed_network_responds() -> None:
    subject = subject_of(Windowed(fold=True, shift=2), name="windows", input_size=SIZE)
    dark, spot = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 3, SIZE, SIZE)
    spot[:, :, 40:44, 12:16] = 4.0
    with torch.no_grad(), subject.trace(("blocks.0",)) as outputs:
        subject.network(torch.cat([dark, spot]))
        change = (outputs["blocks.0"][1] - outputs["blocks.0"][0]).norm(dim=0)
    assert divmod(int(change.argmax()), SIZE // PATCH) == (10, 3)


class Queries(nn.Module):
    """Learnt queries that look at the image: they lie nowhere in it, and who looks where is no unit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.queries = nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.randn(16, WIDTH))
        self.attn, self.block = nn.MultiheadAttention(WIDTH, 4, batch_first=True), Block(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        found, _ = self.attn(self.queries.expand(len(x), -1, -1), tokens, tokens)
        return self.block(found).mean(1)


def test_queries_have_no_places() -> None:
    with pytest.raises(SubjectError, match="only the patch embedding"):
        subject_of(Queries(), name="queries", input_size=SIZE)
    subject = subject_of(Queries(), name="queries", input_size=SIZE, default_layers=("patch",))
    assert "attn" not in [info.name for info in list_layers(subject)]


class Shared(nn.Module):
    """One convolution and one activation that stand at several places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.again = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.act, self.pool, self.head = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for _ in range(2):
            x = self.act(self.again(self.pool(x)))
        return self.head(x.mean((2, 3)))


class OneGrid(Shared):
    """The same without poolings: its only stage ends with a call of a shared module."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for _ in range(2):
            x = self.act(self.again(x))
        return self.head(x.mean((2, 3)))


def test_stages_that_share_a_module_are_all_read_by_default() -> None:
    assert subject_of(OneGrid(), name="shared", input_size=SIZE).default_layers == ("act#3",)
    subject = subject_of(Shared(), name="shared", input_size=SIZE)
    assert subject.default_layers == ("act#1", "act#2", "act#3")
    assert match_layers(subject, ["again#2"]) == ("again#2",)
