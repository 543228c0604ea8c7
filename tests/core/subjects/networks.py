"""Small networks of the kinds that people study, with ways of their own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def step(num_in: int, num_out: int, stride: int = 2, *, tracked: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out, track_running_stats=tracked), nn.ReLU(inplace=True))


def plain(*, tracked: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12))
    return nn.Sequential(step(3, 8, tracked=tracked), step(8, 16, tracked=tracked), head)


class Block(nn.Module):
    """A transformer's layer; `batch_first` says in which order its tokens come."""

    def __init__(self, width: int, heads: int, *, batch_first: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class Transformer(nn.Module):
    """Any number of special tokens before or after the patches, in either order of axes, for any shape of image."""

    def __init__(
        self,
        shape: tuple[int, int] = (64, 64),
        *,
        width: int = 32,
        patch: int = 8,
        special: int = 1,
        at_the_end: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        count = (shape[0] // patch) * (shape[1] // patch)
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.special, self.place = nn.Parameter(torch.randn(special, width)), torch.randn(special + count, width) * 0.1
        self.blocks = nn.ModuleList(Block(width, 4, batch_first=batch_first) for _ in range(2))
        self.head = nn.Linear(width, 12)
        self.at_the_end, self.batch_first = at_the_end, batch_first

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        special = self.special.expand(len(x), -1, -1)
        x = torch.cat([patches, special] if self.at_the_end else [special, patches], 1) + self.place
        x = x if self.batch_first else x.transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        x = x if self.batch_first else x.transpose(0, 1)
        return self.head(x.mean(1))


class Attend(nn.Module):
    """Attention whose every step is a module: the softmax over [B, heads, T, T], q as [B, T, heads, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.softmax, self.q_seen, self.k_norm = nn.Softmax(-1), nn.Identity(), nn.LayerNorm(width // heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)) for part in self.qkv(x).chunk(3, -1))
        q, k = self.q_seen(q), self.k_norm(k.transpose(1, 2)).transpose(1, 2)
        shares = self.softmax(torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5)
        return self.out(torch.einsum("bhts,bshd->bthd", shares, v).flatten(2))


class OpenAttention(nn.Module):
    """With 8 heads of 8 and a grid of 8 × 8 cells every wrong reading has the shape of a right one."""

    def __init__(self, *, special: int = 0, heads: int = 8, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.special = nn.Parameter(torch.randn(special, width))
        self.blocks = nn.ModuleList(Attend(width, heads) for _ in range(2))
        self.head = nn.Linear(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.special.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


class Mixer(nn.Module):
    """Mixes tokens through linear layers over [B, C, T]."""

    def __init__(self, width: int = 24, hidden: int = 40) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm = nn.Conv2d(3, width, 8, 8), nn.LayerNorm(width)
        self.across, self.back = nn.Linear(64, hidden), nn.Linear(hidden, 64)
        self.head = nn.Linear(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        x = x + self.back(F.gelu(self.across(x.transpose(1, 2)))).transpose(1, 2)
        return self.head(x.mean(1))


class Windows(nn.Module):
    """Tokens of windows: in the batch, and in an order that follows windows, not rows."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.inside, self.unrolled = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width), nn.LayerNorm(width)
        self.merged = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patch(x).permute(0, 2, 3, 1)  # [B, 16, 16, C]
        windows = maps.unflatten(2, (4, 4)).unflatten(1, (4, 4)).transpose(2, 3)  # [B, 4, 4, 4, 4, C]
        windows = self.inside(windows.flatten(3, 4).flatten(0, 2)).unflatten(0, (len(x), -1))
        windows = self.unrolled(windows.flatten(1, 2)).unflatten(1, (4, 4, 4, 4))
        return self.merged(windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)).mean((1, 2))


class Late(nn.Module):
    """Batch statistics, none right behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(F.relu(self.conv1(x))))


class Restless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = step(3, 8), step(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout2d(self.a(x), 0.3))


class FewerForBlack(nn.Module):
    """Keeps as many tokens as the image has light ones."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.kept = nn.Conv2d(3, 8, 8, 8, bias=False), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        count = 64 if x.abs().max() > 0 else 16
        return self.kept(tokens[:, :count]).mean(1)


class ViewAfterConv(nn.Module):
    """Fails where maps come channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 5), nn.Linear(6 * 900, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        return self.fc(x.view(len(x), -1))


class Strided(nn.Module):
    """Reads the memory of its maps as if channels came first, and says nothing where they do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.as_strided(x, x.shape, torch.empty(x.shape).stride())


class Experts(nn.Module):
    """A weight of five dimensions: experts, outputs, inputs, height, width."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16, 3, 3, 3) * 0.1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.conv2d(x, self.weight.mean(0), padding=1))


class BuffersOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(8, 3, 3, 3))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.conv2d(x, self.weight, padding=1))


class Around(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def get_extra_state(self) -> dict:
        return {"epoch": 12}

    def set_extra_state(self, state: dict) -> None:
        pass


class InHalf(Around):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x)
