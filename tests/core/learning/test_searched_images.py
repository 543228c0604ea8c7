"""Images by the numbers of ids.csv: those of torchvision's ImageFolder, made as MILAN's script makes them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mami_core.errors import DescriptionsError, ImageSourceError
from mami_core.images import LocalFiles
from mami_core.learning.annotated_folder import open_annotated
from mami_core.learning.searched_images import SearchedImages
from tests import tiny

NAMES = (
    *("a-1/9.png", "a/b.png", "a/B.JPEG", "a/deep/0.jpeg", "a/deep-er/1.ppm", "a/deep/10.bmp", "a/deep/2.png"),
    *("b b/é.webp", "b b/10.png", "b b/9.tiff"),
)
"""In no order that sorting whole paths would give: "a-1" comes before "a/" and after "a"."""
SIZE = (40, 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        file = tmp_path / "val" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(io.BytesIO(tiny.photograph(number)))
        image.convert(("L", "RGB", "RGBA", "P")[number % 4] if file.suffix == ".png" else "RGB").save(file)
    (tmp_path / "val" / "a" / "list.txt").write_text("no image")
    Image.new("RGB", (3, 3)).save(tmp_path / "val" / "a" / "0.gif")
    Image.new("RGB", (3, 3)).save(tmp_path / "val" / "0.png")
    return tmp_path / "val"


def milans(folder: Path) -> list[np.ndarray]:
    """As MILAN's script has it: stretched, to numbers from 0 to 1 and back."""
    transform = transforms.Compose([transforms.Resize(SIZE), transforms.ToTensor()])
    return [(image * 255).byte().numpy() for image, _ in ImageFolder(str(folder), transform=transform)]


def test_numbers_and_pixels_are_those_of_milans_script(folder: Path) -> None:
    found, expected = SearchedImages(str(folder), LocalFiles()), milans(folder)
    assert len(found) == len(expected) == len(NAMES)
    assert sorted(found.name(number) for number in range(len(found))) == sorted(NAMES)
    for number, image in enumerate(expected):
        np.testing.assert_array_equal(found.pixels(number, *SIZE), image)


@pytest.mark.parametrize("kind", ["tar", "parquet", "list"])
def test_what_has_an_order_of_its_own_keeps_it(kind: str, folder: Path, tmp_path: Path) -> None:
    order = [ImageFolder(str(folder)).imgs[number][0] for number in range(len(NAMES))]
    place = tmp_path / "source"
    place.mkdir()
    if kind == "tar":
        with tarfile.open(place / "val.tar", "w") as tar:
            for path in order:
                tar.add(path, Path(path).name + Path(path).suffix)
    elif kind == "parquet":
        table = pa.table({"image": [Path(path).read_bytes() for path in order]})
        pq.write_table(table, place / "val.parquet", row_group_size=3)
    else:
        (place / "val.txt").write_text("\n".join(order))
    where = place / "val.txt" if kind == "list" else place
    found = SearchedImages(str(where), LocalFiles())
    for number, image in enumerate(milans(folder)):
        np.testing.assert_array_equal(found.pixels(number, *SIZE), image)


def test_photographs_that_lie_in_no_classes_are_numbered_by_name(folder: Path) -> None:
    found = SearchedImages(str(folder / "b b"), LocalFiles())
    assert [found.name(number) for number in range(3)] == ["10.png", "9.tiff", "é.webp"]


def write_layer(folder: Path, ids: list[list[int]], *, images: bool = False) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(ids))
    np.save(folder / "masks.npy", random.integers(0, 2, (len(ids), 2, 1, *SIZE), np.uint8))
    if images:
        np.save(folder / "images.npy", random.integers(1, 256, (len(ids), 2, 3, *SIZE), np.uint8))
    np.savetxt(folder / "ids.csv", np.array(ids), delimiter=",", fmt="%i")


def test_layers_without_pictures_take_them_from_there(folder: Path, tmp_path: Path) -> None:
    neurons = tmp_path / "data"
    write_layer(neurons / "net/imagenet/conv1", [[3, 7], [7, 0]])
    write_layer(neurons / "net/imagenet/conv2", [[0, 9]])
    write_layer(neurons / "net/places365/conv1", [[3, 7]], images=True)
    for place, lines in (("imagenet", "conv1,0,a\nconv1,1,b\nconv2,0,c\n"), ("places365", "conv1,0,d\n")):
        (neurons / "net" / place / "annotations.csv").write_text("layer,unit,summary\n" + lines)
    source = SearchedImages(str(folder), LocalFiles())
    found, expected = open_annotated(neurons, source=source), milans(folder)
    assert found.images.tolist() == [[0, 1], [1, 2], [2, 3], [4, 5]]
    for number, image in enumerate((3, 7, 0, 9)):
        np.testing.assert_array_equal(found.pictures.pixels(number), expected[image])
    own = np.load(neurons / "net/places365/conv1/images.npy")
    np.testing.assert_array_equal(found.pictures.pixels(4), own[0, 0])
    with pytest.raises(DescriptionsError, match=r"imagenet.conv1: has no images\.npy.*--images"):
        open_annotated(neurons)


def test_what_cannot_be_had_is_named(folder: Path, tmp_path: Path) -> None:
    source = SearchedImages(str(folder), LocalFiles())
    write_layer(tmp_path / "conv1", [[3, 10]])
    (tmp_path / "annotations.csv").write_text("layer,unit,summary\nconv1,0,a\n")
    with pytest.raises(DescriptionsError, match=r"ids\.csv: expected numbers of the 10 photographs.*to 10"):
        open_annotated(tmp_path, source=source)
    (folder / source.name(3)).write_bytes(b"damaged")
    with pytest.raises(DescriptionsError, match=r"image 3 \(a/deep/.*cannot be read"):
        source.pixels(3, *SIZE)
    (folder / source.name(4)).unlink()
    with pytest.raises(DescriptionsError, match=r"image 4 .*is not there"):
        source.pixels(4, *SIZE)
    with pytest.raises(ImageSourceError):
        SearchedImages(str(tmp_path / "nowhere"), LocalFiles())


def test_another_source_is_another(folder: Path) -> None:
    before = SearchedImages(str(folder), LocalFiles()).fingerprint
    assert SearchedImages(str(folder), LocalFiles()).fingerprint == before
    (folder / "b b/10.png").unlink()
    assert SearchedImages(str(folder), LocalFiles()).fingerprint != before
