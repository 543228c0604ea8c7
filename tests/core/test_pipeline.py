"""The whole path in one process: what it says of every unit, and that no split of the work changes a bit of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mami_core import contracts
from mami_core.captions.decode import DecodeConfig
from mami_core.errors import CheckpointError, ContractError, ImageError, SubjectError
from mami_core.exemplars.region import regions
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.table import exemplars_table
from mami_core.features import EncoderConfig, load_encoder
from mami_core.images import InThreads, LocalFiles, decode, list_images
from mami_core.labels import unpack_regions
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import (
    LabelConfig,
    Labelled,
    caption_neurons,
    encode_images,
    encoder_of,
    label,
    search_images,
)
from mami_core.regroup import regions_table
from mami_core.subjects import Subject, Trace, lean, load_subject
from tests import tiny

FILES = LocalFiles()
COUNT, BROKEN = 23, (4, 11)
K, BATCH = 4, 8
CONFIG = LabelConfig(
    search=SearchConfig(k=K, batch_size=BATCH), decode=DecodeConfig(beam_size=4, max_length=6, num_captions=3)
)
FIRST, SECOND, VECTOR = tiny.LAYERS


@pytest.fixture(scope="module")
def trained() -> Trained:
    return tiny.captioner()


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(tiny.SUBJECT)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tiny.write_photographs(tmp_path_factory.mktemp("images") / "photographs", COUNT, broken=BROKEN)
    return list_images(str(folder), FILES)


@pytest.fixture(scope="module")
def whole(subject: Subject, images: pa.Table, trained: Trained) -> Labelled:
    return label(subject, (), images, FILES, trained, CONFIG, run="a run")


def test_every_unit_has_one_row(whole: Labelled, trained: Trained) -> None:
    rows = whole.labels.to_pylist()
    units = [(layer, unit) for layer, count in tiny.LAYERS.items() for unit in range(count)]
    assert [(row["layer"], row["unit"]) for row in rows] == units
    assert {(row["subject"], row["captioner"], row["run"]) for row in rows} == {(tiny.SUBJECT, trained.id, "a run")}
    contracts.check(whole.labels.schema, contracts.LABELS, where="labels")


def test_a_live_unit_has_captions_with_scores_and_a_dead_one_says_so(whole: Labelled) -> None:
    for row in whole.labels.to_pylist():
        scores = [row[name] for name in ("caption", "score", "log_p_caption", "log_p_language", "support")]
        assert row["dead"] == ((row["layer"], row["unit"]) == tiny.DEAD)
        if row["dead"]:
            assert scores == [None] * 5
            assert row["beams"] == row["exemplar_images"] == row["exemplar_activations"] == []
            assert (row["threshold"], row["active_fraction"]) == (0, 0)
        else:
            assert scores == list(row["beams"][0].values())
            assert row["score"] == pytest.approx(row["log_p_caption"] - 0.2 * row["log_p_language"], rel=1e-5)
            ranks = [beam["score"] for beam in row["beams"]]
            assert ranks == sorted(ranks, reverse=True)
            assert 1 <= len(ranks) <= 3


def test_exemplars_are_the_strongest_images_by_name(whole: Labelled, subject: Subject, images: pa.Table) -> None:
    maps, numbers = all_maps(subject, images)
    keys = images["key"].to_pylist()
    for row in whole.labels.to_pylist():
        peaks = maps[row["layer"]][:, row["unit"]].amax((1, 2))
        best = sorted(((-float(peak), number) for peak, number in zip(peaks, numbers, strict=True) if peak > 0))[:K]
        assert row["exemplar_images"] == [keys[number] for _, number in best]
        assert row["exemplar_activations"] == pytest.approx([-value for value, _ in best], rel=1e-4)


def test_a_clamped_layer_is_ranked_beyond_its_clamp(whole: Labelled) -> None:
    values = [
        value for row in whole.labels.to_pylist() if row["layer"] == FIRST for value in row["exemplar_activations"]
    ]
    assert sum(value > 6 for value in values) > 10, "ReLU6 would end at 6"
    assert len(set(values)) == len(values)


def test_images_that_cannot_be_decoded_are_dropped_with_their_reason(whole: Labelled) -> None:
    rows = whole.dropped.to_pylist()
    assert [row["name"] for row in rows] == ["004.png", "more/011.png"]
    assert all(row["stage"] == "exemplars" and row["kind"] == "image" for row in rows)
    assert all("truncated" in row["reason"] for row in rows)
    used = {name for row in whole.labels.to_pylist() for name in row["exemplar_images"]}
    assert used.isdisjoint(row["name"] for row in rows)
    contracts.check(whole.dropped.schema, contracts.DROPPED, where="dropped")


def all_maps(subject: Subject, images: pa.Table) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Every layer's maps on every image that can be decoded, one image at a time; vectors as maps of 1 × 1."""
    maps, numbers = {layer: [] for layer in tiny.LAYERS}, []
    with Trace(subject.network, list(tiny.LAYERS)) as outputs:
        for row in images.to_pylist():
            if int(row["key"][-7:-4]) in BROKEN:
                continue
            (pixels,) = decode(Path(row["path"]).read_bytes(), sizes=(subject.input_size,), crop=subject.crop)
            subject.network(subject.normalise(pixels[None]))
            numbers.append(row["image"])
            for layer, found in outputs.items():
                maps[layer].append(found[0] if found.ndim == 4 else found[0, :, None, None])
    return {layer: torch.stack(of_layer) for layer, of_layer in maps.items()}, numbers


def test_features_agree_with_one_exemplar_at_a_time(
    whole: Labelled, subject: Subject, images: pa.Table, trained: Trained
) -> None:
    encoder = encoder_of(trained)
    features = encode_images(
        lean(subject, tuple(tiny.LAYERS)), encoder, whole.exemplars, images, FILES, batch_size=BATCH
    )
    maps, numbers = all_maps(subject, images)
    paths = images["path"].to_pylist()
    rows = features.to_pylist()
    exemplars = [(row, rank, image) for row in whole.exemplars.to_pylist() for rank, image in enumerate(row["images"])]
    assert len(rows) == len(exemplars)
    for row, (neuron, rank, image) in zip(rows, exemplars, strict=True):
        assert (row["layer"], row["unit"], row["rank"], row["image"]) == (neuron["layer"], neuron["unit"], rank, image)
        grid = maps[row["layer"]][numbers.index(image), row["unit"]]
        region = regions(grid[None], torch.tensor([neuron["threshold"]]), encoder.region_size)
        (pixels,) = decode(Path(paths[image]).read_bytes(), sizes=(encoder.input_size,), crop=subject.crop)
        expected = encoder.pool([level[0] for level in encoder.pyramid(pixels[None])], region)[0]
        found = np.frombuffer(row["vector"], np.float16).astype(np.float32)
        assert found == pytest.approx(expected.numpy(), rel=2e-3, abs=2e-3)


def test_regions_are_stored_as_one_exemplar_at_a_time_has_them(
    whole: Labelled, subject: Subject, images: pa.Table
) -> None:
    maps, numbers = all_maps(subject, images)
    rows = zip(whole.exemplars.to_pylist(), whole.regions.to_pylist(), strict=True)
    close, total = 0, 0
    for neuron, stored in rows:
        assert (stored["layer"], stored["unit"]) == (neuron["layer"], neuron["unit"])
        grids = unpack_regions(stored["regions"])
        assert len(grids) == len(neuron["images"])
        for image, grid in zip(neuron["images"], grids, strict=True):
            of_image = maps[neuron["layer"]][numbers.index(image), neuron["unit"]]
            expected = regions(of_image[None], torch.tensor([neuron["threshold"]]), contracts.REGION_SIDE)[0].numpy()
            assert grid.any()
            close, total = close + int((grid == expected).sum()), total + grid.size
    assert close / total > 0.999, "batches round the maps otherwise, which may move a cell at the edge"
    of_vector = [row["regions"] for row in whole.regions.to_pylist() if row["layer"] == VECTOR]
    assert all(unpack_regions(each).all() for each in of_vector)


def test_the_region_of_a_vector_is_the_whole_image(
    whole: Labelled, subject: Subject, images: pa.Table, trained: Trained
) -> None:
    encoder = encoder_of(trained)
    of_vector = whole.exemplars.slice(sum(tiny.LAYERS.values()) - tiny.LAYERS[VECTOR])
    features = encode_images(lean(subject, tuple(tiny.LAYERS)), encoder, of_vector, images, FILES, batch_size=BATCH)
    by_image: dict[int, set[bytes]] = {}
    for row in features.to_pylist():
        by_image.setdefault(row["image"], set()).add(row["vector"])
    for image, vectors in by_image.items():
        (pixels,) = decode(
            Path(images["path"][image].as_py()).read_bytes(), sizes=(encoder.input_size,), crop=subject.crop
        )
        means = torch.cat([level[0].mean((1, 2)) for level in encoder.pyramid(pixels[None])])
        assert len(vectors) == 1, "every class score of an image sees the same"
        assert np.frombuffer(vectors.pop(), np.float16) == pytest.approx(means.numpy(), rel=2e-3, abs=2e-3)


def test_an_encoder_beyond_half_precision_labels_all_the_same(
    whole: Labelled, subject: Subject, images: pa.Table
) -> None:
    loud = tiny.captioner(EncoderConfig(name=tiny.LOUD_ENCODER))
    with torch.no_grad():
        loud.captioner.feature_scale[-16:] = 1e7  # as training would set it
    found = label(subject, (), images, FILES, loud, CONFIG)
    features = encode_images(
        lean(subject, tuple(tiny.LAYERS)), encoder_of(loud), found.exemplars, images, FILES, batch_size=BATCH
    )
    assert max(features["exponent"].to_pylist()) > 0
    assert found.exemplars.equals(whole.exemplars)
    assert len(set(found.labels["caption"].to_pylist())) > 3


def test_features_that_are_no_numbers_are_named_where_they_happen(
    whole: Labelled, subject: Subject, images: pa.Table
) -> None:
    encoder = load_encoder(EncoderConfig(name=tiny.BROKEN_ENCODER))
    with pytest.raises(ImageError, match=r"image \d+ \(\d+.(jpg|png)\): .* gives nan in last\. Leave this image out"):
        encode_images(lean(subject, tuple(tiny.LAYERS)), encoder, whole.exemplars, images, FILES, batch_size=BATCH)


# Splits: what jobs do


def pieces(length: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Ways to cut a range into ranges."""
    return st.sets(st.integers(1, length - 1), max_size=4).map(
        lambda cuts: list(zip([0, *sorted(cuts)], [*sorted(cuts), length], strict=True))
    )


@settings(max_examples=8)
@given(chunks=pieces(COUNT), shards=pieces(sum(tiny.LAYERS.values())), order=st.randoms(use_true_random=False))
def test_no_split_over_workers_changes_a_bit(
    chunks: list[tuple[int, int]],
    shards: list[tuple[int, int]],
    order,  # noqa: ANN001  (random.Random)
    whole: Labelled,
    subject: Subject,
    images: pa.Table,
    trained: Trained,
) -> None:
    faster, encoder, layers = lean(subject, tuple(tiny.LAYERS)), encoder_of(trained), tuple(tiny.LAYERS)
    parts = [images.slice(first, end - first) for first, end in chunks]
    found = [search_images(faster, layers, part, FILES, CONFIG.search, decoder=InThreads(1)) for part in parts]
    dropped = pa.concat_tables(table for _, table in found)
    states = [state for state, _ in found]
    order.shuffle(states)
    exemplars = pa.concat_tables(
        exemplars_table(subject.name, layer, merged(states, layer), images["key"]) for layer in layers
    )
    assert exemplars.equals(whole.exemplars)
    assert dropped.equals(whole.dropped)
    vectors = [encode_images(faster, encoder, exemplars, part, FILES, batch_size=BATCH) for part in parts]
    order.shuffle(vectors)
    rows, where = [], []
    for first, end in shards:
        neurons = exemplars.slice(first, end - first)
        of_neurons = pa.concat_tables(belonging(table, neurons) for table in vectors)
        rows.append(caption_neurons(trained, neurons, of_neurons, CONFIG, run="a run", weights=subject.weights_id))
        where.append(regions_table(neurons, of_neurons))
    assert pa.concat_tables(rows).equals(whole.labels)
    assert pa.concat_tables(where).equals(whole.regions)


def merged(states: list[dict[str, LayerState]], layer: str) -> LayerState:
    whole = LayerState.empty(tiny.LAYERS[layer], K)
    for state in states:
        whole.merge(state[layer])
    return whole


def belonging(features: pa.Table, neurons: pa.Table) -> pa.Table:
    wanted = set(zip(neurons["layer"].to_pylist(), neurons["unit"].to_pylist(), strict=True))
    mask = [pair in wanted for pair in zip(features["layer"].to_pylist(), features["unit"].to_pylist(), strict=True)]
    return features.filter(pa.array(mask, pa.bool_()))


def test_other_layers_beside_it_move_a_label_by_rounding_only(
    whole: Labelled, subject: Subject, images: pa.Table, trained: Trained
) -> None:
    alone = label(subject, [SECOND], images, FILES, trained, CONFIG).exemplars.to_pylist()
    beside = [row for row in whole.exemplars.to_pylist() if row["layer"] == SECOND]
    for one, other in zip(alone, beside, strict=True):
        assert one["images"] == other["images"]
        assert one["activations"] == pytest.approx(other["activations"], rel=1e-4)


# Odd inputs


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_images_than_exemplars_are_enough(
    count: int, subject: Subject, images: pa.Table, trained: Trained
) -> None:
    labelled = label(subject, (), images.slice(0, count), FILES, trained, CONFIG)
    lengths = {len(row["exemplar_images"]) for row in labelled.labels.to_pylist()}
    assert max(lengths) == count
    assert all((row["caption"] is None) == row["dead"] for row in labelled.labels.to_pylist())


def test_images_of_which_none_can_be_decoded_leave_every_unit_dead(
    subject: Subject, images: pa.Table, trained: Trained
) -> None:
    broken = images.filter(pc.field("key") == "004.png").set_column(0, contracts.IMAGES.field("image"), [[0]])
    labelled = label(subject, (), broken, FILES, trained, CONFIG)
    assert labelled.labels["dead"].to_pylist() == [True] * sum(tiny.LAYERS.values())
    assert labelled.dropped.num_rows == 1


def test_an_image_that_vanishes_between_the_passes_is_named(tmp_path: Path, subject: Subject, trained: Trained) -> None:
    folder = tiny.write_photographs(tmp_path / "photographs", 3)
    images = list_images(str(folder), FILES)
    found = label(subject, (), images, FILES, trained, CONFIG)
    (folder / "001.png").unlink()
    with pytest.raises(ImageError, match=r"001\.png\) was readable when exemplars were searched"):
        encode_images(subject, encoder_of(trained), found.exemplars, images, FILES, batch_size=BATCH)


def test_unknown_layers_are_named(subject: Subject, images: pa.Table, trained: Trained) -> None:
    with pytest.raises(SubjectError, match=r"no layer 'stage.deeper'.*stage\.deep"):
        label(subject, ["stage.deeper"], images, FILES, trained, CONFIG)


def test_features_of_other_neurons_are_refused(
    whole: Labelled, subject: Subject, images: pa.Table, trained: Trained
) -> None:
    features = encode_images(
        lean(subject, tuple(tiny.LAYERS)), encoder_of(trained), whole.exemplars, images, FILES, batch_size=BATCH
    )
    with pytest.raises(ContractError, match="do not match"):
        caption_neurons(trained, whole.exemplars.slice(1), features, CONFIG, run="")


# Which encoder


def saved_encoder(folder: Path, seed: int) -> EncoderConfig:
    folder.mkdir()
    network = load_subject(tiny.ENCODER, weights=f"random:{seed}").network
    with torch.no_grad():
        network.get_parameter("last.0.weight").mul_(1 + seed)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    return EncoderConfig(name=tiny.ENCODER, weights=str(folder / "weights.safetensors"))


def test_an_encoder_is_known_by_its_weights_and_not_by_their_place(tmp_path: Path) -> None:
    here, there, other = (saved_encoder(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    ids = [load_encoder(config).id for config in (here, there, other)]
    assert ids[0] == ids[1] != ids[2]
    assert tiny.captioner(here).id == tiny.captioner(there).id != tiny.captioner(other).id


def test_a_captioner_of_another_encoder_is_refused(tmp_path: Path, subject: Subject, images: pa.Table) -> None:
    trained = dataclasses.replace(tiny.captioner(), encoder=saved_encoder(tmp_path / "other", 1))
    with pytest.raises(CheckpointError, match=f"encoder {trained.encoder_id}, but .* is [0-9a-f]{{16}} here"):
        label(subject, (), images, FILES, trained, CONFIG)
