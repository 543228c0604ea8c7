import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mami_core.errors import ConfigError, SubjectError
from mami_core.exemplars.search import Search, SearchConfig, search
from mami_core.exemplars.states import save_states
from mami_core.images import ImageBatch
from mami_core.subjects import Subject, Trace, subject_of

SIZE, BATCH, LAYERS = 12, 4, ("bright.2", "last")
CONFIG = SearchConfig(k=3, batch_size=BATCH)


class Contrast(nn.Module):
    """Not a number for a black image, as networks are that scale by what they see."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / images.amax((1, 2, 3), keepdim=True)


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(1)
    # Widths in multiples of 4: with others, and under 12 outputs, a linear layer's last bit depends on the row's place.
    bright = nn.Sequential(Contrast(), nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU6())
    network = nn.Sequential()
    network.add_module("bright", bright)
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", nn.Flatten())
    network.add_module("last", nn.Linear(8, 7))
    return subject_of(network, name="tiny", input_size=SIZE, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return torch.randint(1, 256, (17, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def batches(photos: torch.Tensor, images: torch.Tensor) -> list[ImageBatch]:
    """Batches of one shape, the last one padded."""
    made = []
    for numbers in images.split(BATCH):
        missing = BATCH - len(numbers)
        pixels = torch.cat([photos[numbers], photos.new_zeros(missing, 3, SIZE, SIZE)])
        numbered = torch.cat([numbers, numbers.new_full((missing,), -1)])
        made.append(ImageBatch(pixels=(pixels,), images=numbered, num_valid=len(numbers)))
    return made


def unexpected(image: int, reason: str) -> None:
    raise AssertionError(f"image {image}: {reason}")


def test_search_agrees_with_looking_at_everything_at_once(subject: Subject, photos: torch.Tensor) -> None:
    states = search(subject, LAYERS, batches(photos, torch.arange(17)), CONFIG, on_bad=unexpected)
    with Trace(subject.network, LAYERS) as outputs:
        subject.network(subject.normalise(photos))
    for layer, maps in outputs.items():
        rows = maps.transpose(0, 1).flatten(1)
        peaks = maps.flatten(2).amax(2) if maps.ndim == 4 else maps
        found = states[layer].topk
        for unit in range(maps.shape[1]):
            expected = peaks[:, unit].topk(3)
            expected_images = expected.indices[expected.values > 0]
            assert found.images()[unit, : len(expected_images)].tolist() == expected_images.tolist()
            assert found.num_exemplars()[unit] == len(expected_images)
        torch.testing.assert_close(states[layer].histogram.active_fraction().float(), (rows > 0).float().mean(1))
        exact = rows.quantile(0.9, dim=1, interpolation="lower").clamp(min=0)
        assert ((states[layer].histogram.quantile(0.9) - exact).abs() <= exact / 8).all()


@settings(max_examples=15)
@given(st.permutations(range(17)), st.lists(st.integers(0, 17), max_size=3))
def test_search_does_not_depend_on_split_order_or_place_in_the_batch(
    subject: Subject, photos: torch.Tensor, order: list[int], cuts: list[int]
) -> None:
    whole = search(subject, LAYERS, batches(photos, torch.arange(17)), CONFIG, on_bad=unexpected)
    chunks = torch.tensor(order).tensor_split(sorted(cuts))
    parts = [search(subject, LAYERS, batches(photos, chunk), CONFIG, on_bad=unexpected) for chunk in chunks]
    merged = parts[-1]
    for part in parts[:-1]:
        for layer, state in part.items():
            merged[layer].merge(state)
    assert save_states(merged) == save_states(whole)


def test_an_image_without_finite_activations_is_left_out_and_reported(subject: Subject, photos: torch.Tensor) -> None:
    photos = photos.clone()
    photos[[3, 16]] = 0
    bad: dict[int, str] = {}
    states = search(subject, LAYERS, batches(photos, torch.arange(17)), CONFIG, on_bad=bad.__setitem__)
    rest = torch.tensor([image for image in range(17) if image not in (3, 16)])
    expected = search(subject, LAYERS, batches(photos, rest), CONFIG, on_bad=unexpected)
    assert sorted(bad) == [3, 16]
    assert "bright.2, last" in bad[3]
    assert save_states(states) == save_states(expected)


def test_bad_in_one_layer_is_left_out_of_all(photos: torch.Tensor) -> None:
    first = nn.Conv2d(3, 4, 3, bias=False)
    nn.init.uniform_(first.weight)
    network = nn.Sequential(first, nn.ReLU(), Contrast(), nn.Conv2d(4, 4, 3))
    subject = subject_of(network, name="tiny", input_size=SIZE, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    photos = photos.clone()
    photos[5] = 0  # finite before Contrast
    bad: dict[int, str] = {}
    states = search(subject, ("0", "3"), batches(photos, torch.arange(17)), CONFIG, on_bad=bad.__setitem__)
    assert list(bad) == [5]
    assert bad[5].endswith("in 3")
    assert states["0"].histogram.total().tolist() == [16 * 100] * 4


def test_progress_counts_images_and_not_padding(subject: Subject, photos: torch.Tensor) -> None:
    running = Search(subject, LAYERS, CONFIG, on_bad=unexpected)
    assert list(running.over(batches(photos, torch.arange(10)))) == [4, 8, 10]


def test_layers_come_in_the_networks_order_and_by_pattern(subject: Subject) -> None:
    states = Search(subject, ("last", "bright.[23]"), CONFIG, on_bad=unexpected).states
    found = [(layer, state.num_units) for layer, state in states.items()]
    assert found == [("bright.2", 6), ("bright.3", 8), ("last", 7)]


def test_no_images_give_empty_states(subject: Subject) -> None:
    states = search(subject, LAYERS, [], CONFIG, on_bad=unexpected)
    assert [int(state.topk.num_exemplars().sum()) for state in states.values()] == [0, 0]


def test_states_grow_wide_inside_a_search_and_still_merge(subject: Subject, photos: torch.Tensor) -> None:
    running = Search(subject, LAYERS, CONFIG, on_bad=unexpected)
    for state in running.states.values():
        state.histogram.positions_seen = 2**31 - 1
    list(running.over(batches(photos, torch.arange(17))))
    expected = search(subject, LAYERS, batches(photos, torch.arange(17)), CONFIG, on_bad=unexpected)
    for layer, state in running.states.items():
        assert state.histogram.counts.dtype == torch.int64
        assert torch.equal(state.merge(expected[layer]).histogram.counts, 2 * expected[layer].histogram.counts)


def test_an_unknown_layer_is_named(subject: Subject) -> None:
    with pytest.raises(SubjectError, match="lost"):
        Search(subject, ("lost",), CONFIG, on_bad=unexpected)


def test_images_of_another_size_are_refused(subject: Subject, photos: torch.Tensor) -> None:
    batch = ImageBatch(pixels=(photos[:4, :, 1:, 1:],), images=torch.arange(4), num_valid=4)
    with pytest.raises(ConfigError, match=r"12 x 12 pixels.*\(11, 11\)"):
        search(subject, LAYERS, [batch], CONFIG, on_bad=unexpected)


def test_an_image_number_that_cannot_be_packed_is_refused(subject: Subject, photos: torch.Tensor) -> None:
    batch = ImageBatch(pixels=(photos[:4],), images=torch.arange(4) + 2**32, num_valid=4)
    with pytest.raises(ConfigError, match="4294967295"):
        search(subject, LAYERS, [batch], CONFIG, on_bad=unexpected)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"batch_size": 0}, {"quantile": 0.0}, {"quantile": 1.0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        SearchConfig(**wrong)
