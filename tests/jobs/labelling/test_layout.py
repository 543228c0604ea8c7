"""What a labelling run consists of and where it lies: everything once, under names that stay in the run's folder."""

import json

from hypothesis import given
from hypothesis import strategies as st

from jobs.labelling.layout import Layout
from jobs.storage import Storage

names = st.text(min_size=1, max_size=12)


@given(
    subjects=st.dictionaries(names, st.dictionaries(names, st.integers(1, 30), min_size=1, max_size=3), max_size=3),
    images=st.integers(1, 50),
    of_images=st.integers(1, 20),
    of_neurons=st.integers(1, 20),
)
def test_items_cover_everything_once_under_names_of_their_own(
    subjects: dict[str, dict[str, int]], images: int, of_images: int, of_neurons: int
) -> None:
    config = {
        "subjects": {name: {"layers": layers} for name, layers in subjects.items()},
        "images": {"count": images},
        "images_per_item": of_images,
        "neurons_per_item": of_neurons,
    }
    layout = Layout.of(config)
    assert [image for first, end in layout.chunks() for image in range(first, end)] == list(range(images))
    for name, layers in subjects.items():
        units = [(shard.layer, unit) for shard in layout.shards(name) for unit in range(shard.first, shard.end)]
        assert sorted(units) == sorted((layer, unit) for layer, count in layers.items() for unit in range(count))
    keys = [item.key for items in layout.stages().values() for item in items]
    assert len(set(keys)) == len(keys)
    for key in {*keys, *layout.finished_keys()}:
        Storage("/somewhere").locate(key)  # would raise where a name led out of the folder
    turned = config | {"subjects": dict(reversed(list(config["subjects"].items())))}  # type: ignore[arg-type]
    assert Layout.of(json.loads(json.dumps(turned))).stages() == layout.stages()
