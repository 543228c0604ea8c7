"""Folders, lists, Parquet and tars → the images table, and what identifies them."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mami_core import contracts
from mami_core.errors import ImageError, ImageSourceError, StorageError
from mami_core.images import Files, LocalFiles, list_images, open_source, read_bytes, source


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, content: bytes = b"bytes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_tar(path: Path, members: dict[str, bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return put(path, buffer.getvalue())


def put_parquet(path: Path, columns: dict, *, group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def listed(place: object) -> pa.Table:
    images = list_images(str(place), LocalFiles())
    contracts.check(images.schema, contracts.IMAGES, where="the listing")
    assert images["image"].to_pylist() == list(range(images.num_rows))
    return images


def keys(place: object) -> list[str]:
    return listed(place)["key"].to_pylist()


def contents(place: object) -> list[bytes | ImageError]:
    return [data for _, data in read_bytes(listed(place), LocalFiles())]


# --- folders -----------------------------------------------------------------------------------------------------


def test_folder_is_listed_by_name_at_any_depth(tmp_path: Path) -> None:
    for name in ["b/2.JPG", "b/1.jpeg", "a.png", "c/d/e/f.webp", "B.tiff"]:
        put(tmp_path / name, name.encode())
    for name in ["notes.txt", "b/labels.csv", ".hidden.jpg", ".git/x.jpg", "c/._a.png"]:
        put(tmp_path / name)
    expected = ["B.tiff", "a.png", "b/1.jpeg", "b/2.JPG", "c/d/e/f.webp"]
    assert keys(tmp_path) == expected
    assert keys(f"{tmp_path}/") == expected
    assert contents(tmp_path) == [name.encode() for name in expected]


def test_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert keys("in") == ["a.png"]
    assert listed("in")["path"].to_pylist() == [str(tmp_path / "in" / "a.png")]
    assert keys("in/*.png") == ["a.png"]


def test_one_image_is_a_source(tmp_path: Path) -> None:
    assert keys(put(tmp_path / "a.png")) == ["a.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "x.png")
    put(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "nowhere.png").symlink_to(tmp_path / "gone")
    assert keys(tmp_path / "in") == ["a.png", "linked/x.png", "nowhere.png"]


def test_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")))
    with pytest.raises(ImageSourceError, match="not UTF-8"):
        listed(tmp_path)


# --- lists -------------------------------------------------------------------------------------------------------


def test_list_keeps_its_order_and_is_relative_to_itself(tmp_path: Path) -> None:
    for name in ["in/a.png", "in/b.png", "other/c"]:
        put(tmp_path / name, name.encode())
    lines = f"\ufeffb.png\r\n\n  a.png \n{tmp_path}/other/c\n../other/c\ngone.png"
    images = put(tmp_path / "in" / "some.txt", lines.encode())
    assert keys(images) == ["b.png", "a.png", f"{tmp_path}/other/c", "../other/c", "gone.png"]
    assert [str(data) for data in contents(images)] == [
        "b'in/b.png'",
        "b'in/a.png'",
        "b'other/c'",
        "b'other/c'",
        f"{tmp_path}/in/gone.png is not there",
    ]


def test_list_of_urls_is_left_as_it_is(tmp_path: Path) -> None:
    images = listed(put(tmp_path / "some.txt", b"s3://bucket/a.png\n"))
    assert images["path"].to_pylist() == ["s3://bucket/a.png"]


@pytest.mark.parametrize("line", ["https://example.org/a.png", "gs://bucket/a.png"])
def test_lines_that_nobody_can_read_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ImageSourceError, match=f"expected a path or an s3:// URL a line, got '{line}'"):
        listed(put(tmp_path / "some.txt", f"a.png\n{line}\n".encode()))


def test_a_list_says_what_lies_above_it_in_a_bucket_too() -> None:
    def behind(line: str) -> str:
        return source._behind(line, "s3://bucket/in/lists", "some.txt")

    assert behind("../a.png") == "s3://bucket/in/a.png"
    assert behind("./b//../c.png") == "s3://bucket/in/lists/c.png"
    assert behind("s3://other/d.png") == "s3://other/d.png"
    with pytest.raises(ImageSourceError, match="leads out of its bucket"):
        behind("../../../other/a.png")


def test_binary_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageSourceError, match="UTF-8"):
        listed(put(tmp_path / "some.txt", b"\xff\xfe\x00"))


# --- Parquet -----------------------------------------------------------------------------------------------------

BYTES = [b"first", b"second", b"third"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": BYTES}, ["0.parquet#0", "0.parquet#1", "0.parquet#2"]),
        ({"bytes": BYTES, "path": ["x", None, "z"]}, ["x", "0.parquet#1", "z"]),
        (
            {
                "image": pa.array(BYTES, pa.large_binary()),
                "key": pa.array(["k", "l", "m"], pa.large_string()),
                "path": ["x", "y", "z"],
            },
            ["k", "l", "m"],
        ),
        (
            {"label": [1, 2, 3], "image": [{"bytes": data, "path": f"{data.decode()}.jpg"} for data in BYTES]},
            ["first.jpg", "second.jpg", "third.jpg"],
        ),
        ({"image": BYTES, "key": [7, 8, 9]}, ["0.parquet#0", "0.parquet#1", "0.parquet#2"]),
        (
            {"image": pa.array(BYTES, pa.binary_view()), "key": pa.array(["k", "l", "m"], pa.string_view())},
            ["k", "l", "m"],
        ),
        (
            {
                "image": pa.array(BYTES).dictionary_encode(),
                "path": pa.array(["x", "y", "x"]).dictionary_encode(),
            },
            ["x", "y", "x"],
        ),
    ],
)
def test_parquet_columns(tmp_path: Path, columns: dict, expected: list[str]) -> None:
    put_parquet(tmp_path / "0.parquet", columns)
    assert keys(tmp_path) == expected
    assert keys(tmp_path / "0.parquet") == expected
    assert contents(tmp_path) == BYTES


def test_a_column_of_a_parquet_can_be_named(tmp_path: Path) -> None:
    drawn = [{"bytes": data[::-1], "path": f"{data.decode()}.png"} for data in BYTES]
    place = put_parquet(tmp_path / "0.parquet", {"image": [b"no"] * 3, "drawn": drawn})
    images = list_images(str(place), LocalFiles(), image_column="drawn")
    assert images["key"].to_pylist() == ["first.png", "second.png", "third.png"]
    assert [data for _, data in read_bytes(images, LocalFiles())] == [data[::-1] for data in BYTES]
    assert contents(place) == [b"no"] * 3
    prints = {
        open_source(str(place), LocalFiles(), image_column=column).fingerprint for column in (None, "image", "drawn")
    }
    assert len(prints) == 3
    with pytest.raises(ImageSourceError, match=r"images in column 'gone'.*image, drawn could hold images"):
        list_images(str(place), LocalFiles(), image_column="gone")
    with pytest.raises(ImageSourceError, match="only Parquet has columns"):
        list_images(str(put(tmp_path / "a.png")), LocalFiles(), image_column="drawn")


def test_parquet_folder_goes_file_by_file(tmp_path: Path) -> None:
    put_parquet(tmp_path / "b" / "1.parquet", {"image": [b"3"]})
    put_parquet(tmp_path / "a.parquet", {"bytes": [b"1", b"2"]})
    put_parquet(tmp_path / "b" / "0.parquet", {"image": pa.array([], pa.binary())})
    assert keys(tmp_path) == ["a.parquet#0", "a.parquet#1", "b/1.parquet#0"]
    assert contents(tmp_path) == [b"1", b"2", b"3"]


def test_parquet_without_images_says_what_it_has(tmp_path: Path) -> None:
    put_parquet(tmp_path / "0.parquet", {"image": [1], "text": ["x"]})
    with pytest.raises(ImageSourceError, match=r"0.parquet: expected encoded images .* \['image', 'text'\]"):
        listed(tmp_path)


# --- tars --------------------------------------------------------------------------------------------------------


def test_tar_members_in_the_tars_order(tmp_path: Path) -> None:
    members = {
        "./2.jpg": b"two",
        "2.json": b"{}",
        "deep/1.PNG": b"one",
        "long" * 60 + ".png": b"long",
        "._2.jpg": b"no",
    }
    put_tar(tmp_path / "0.tar", members)
    assert keys(tmp_path / "0.tar") == ["2.jpg", "deep/1.PNG", "long" * 60 + ".png"]
    assert contents(tmp_path) == [b"two", b"one", b"long"]


def test_several_tars_name_their_members_apart(tmp_path: Path) -> None:
    for shard in range(12):
        put_tar(tmp_path / "in" / f"s-{shard:02d}.tar", {"a.jpg": b"%d" % shard})
    assert keys(tmp_path / "in") == [f"s-{shard:02d}.tar/a.jpg" for shard in range(12)]
    assert keys(tmp_path / "in" / "s-{03..05}.tar") == ["s-03.tar/a.jpg", "s-04.tar/a.jpg", "s-05.tar/a.jpg"]
    assert keys(tmp_path / "i?" / "s-1?.tar") == ["in/s-10.tar/a.jpg", "in/s-11.tar/a.jpg"]


def test_broken_tars_are_named(tmp_path: Path) -> None:
    whole = put_tar(tmp_path / "whole.tar", {f"{number}.jpg": bytes(2000) for number in range(9)}).read_bytes()
    for name, content in {"cut": whole[:9000], "text": b"no tar" * 200, "gz": b"\x1f\x8b" + whole[:500]}.items():
        put(tmp_path / name / f"{name}.tar", content)
        with pytest.raises(ImageSourceError, match=rf"{name}\.tar: expected a whole, uncompressed tar"):
            listed(tmp_path / name)


# --- patterns and mistakes ---------------------------------------------------------------------------------------


def test_patterns(tmp_path: Path) -> None:
    for name in ["a/1.png", "a/2.jpg", "b/3.jpg", "c[1]/4.jpg"]:
        put(tmp_path / name)
    assert keys(tmp_path / "*.jpg") == ["a/2.jpg", "b/3.jpg", "c[1]/4.jpg"]
    assert keys(tmp_path / "{a,b}/*") == ["a/1.png", "a/2.jpg", "b/3.jpg"]
    assert keys(tmp_path / "{b,a}/?.jpg") == ["a/2.jpg", "b/3.jpg"]
    assert keys(tmp_path / "c[1]") == ["4.jpg"]


def test_a_shard_that_was_spelled_out_must_be_there(tmp_path: Path) -> None:
    put_tar(tmp_path / "s-0.tar", {"a.jpg": b""})
    with pytest.raises(ImageSourceError, match=r"there is no .*s-1\.tar"):
        listed(tmp_path / "s-{0..1}.tar")


@pytest.mark.parametrize("pattern", ["{9..1}.tar", "{0..99999999}.tar", "{0..9999}{0..9999}.tar"])
def test_absurd_ranges_are_refused(tmp_path: Path, pattern: str) -> None:
    put_tar(tmp_path / "s-0.tar", {"a.jpg": b""})
    with pytest.raises(ImageSourceError, match="1000000 names"):
        listed(tmp_path / pattern)


@given(st.integers(0, 300), st.integers(0, 40), st.integers(1, 4))
def test_numbers_are_spelled_out_with_their_zeros(first: int, more: int, width: int) -> None:
    start = str(first).zfill(width)
    names = source._spelled_out(f"x{{{start}..{first + more}}}{{,y}}", "x")
    assert names[::2] == [f"x{str(number).zfill(len(start))}" for number in range(first, first + more + 1)]
    assert names[1::2] == [f"{name}y" for name in names[::2]]


def test_nothing_and_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageSourceError, match="gone: no such file or folder"):
        listed(tmp_path / "gone")
    with pytest.raises(ImageSourceError, match="an empty folder"):
        listed(tmp_path)
    put(tmp_path / "readme.md")
    with pytest.raises(ImageSourceError, match=r"no image among its files \(1\)"):
        listed(tmp_path)
    put_tar(tmp_path / "empty.tar", {"a.json": b""})
    with pytest.raises(ImageSourceError, match="no image in them"):
        listed(tmp_path)
    put(tmp_path / "a.png")
    with pytest.raises(ImageSourceError, match=r"images files \(1\) and tar files \(1\)"):
        listed(tmp_path)


def test_a_text_file_is_a_list_only_where_it_is_named(tmp_path: Path) -> None:
    put(tmp_path / "notes.txt", b"hi")
    with pytest.raises(ImageSourceError, match="no image among its files"):
        listed(tmp_path)
    assert listed(tmp_path / "notes.txt")["key"].to_pylist() == ["hi"]


# --- what is left out ---------------------------------------------------------------------------------------------


def notes(place: object) -> str:
    return "\n".join(open_source(str(place), LocalFiles()).notes)


def test_files_that_are_passed_over_are_counted_by_kind(tmp_path: Path) -> None:
    for name in ["a.jpg", "b.heic", "c.HEIC", "d/e.avif", "f.json", ".g.jpg", "README", "h.zip"]:
        put(tmp_path / name)
    assert notes(tmp_path).splitlines() == [
        "Files passed over: 2 .heic, 1 hidden, 1 without an ending, 1 .avif, 1 .json, 1 .zip.",
        "Pictures of the kinds .avif, .heic cannot be read: convert them to have them counted in.",
        "What is inside .zip was not looked at: unpack it if there are images in it.",
    ]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageSourceError, match=r"no image among its files \(7\).*kinds \.avif, \.heic cannot be read"):
        listed(tmp_path)


def test_nothing_is_said_of_a_source_without_anything_else(tmp_path: Path) -> None:
    for name in ["a.jpg", "b.png", "c/a.png", "a.b.jpg"]:
        put(tmp_path / name)
    assert notes(tmp_path) == ""


def test_masks_beside_photographs_are_noticed(tmp_path: Path) -> None:
    for name in ["in/a.jpg", "in/a.png", "in/b.jpg", "in/b.png", "in/c.jpg"]:
        put(tmp_path / name)
    assert notes(tmp_path / "in").startswith(
        "4 images share their name with another but for its ending, such as a.jpg and a.png. All are read"
    )
    assert notes(tmp_path / "in" / "*.jpg") == ""
    put_tar(tmp_path / "tars" / "0.tar", {"1.jpg": b"", "1.seg.png": b"", "1.json": b"", "2.jpg": b""})
    assert "1 .json" in notes(tmp_path / "tars")
    assert "2 images share their name with another but for its ending, such as 1.jpg and 1.seg.png" in notes(
        tmp_path / "tars"
    )


def test_other_columns_with_images_are_named(tmp_path: Path) -> None:
    put_parquet(tmp_path / "0.parquet", {"image": BYTES, "mask": BYTES, "label": [1, 2, 3]})
    assert notes(tmp_path) == (
        "Columns passed over that could hold images: 'mask'. Name one as the image column to have it read."
    )


# --- fingerprint -------------------------------------------------------------------------------------------------


def test_fingerprint_changes_with_the_images_and_with_nothing_else(tmp_path: Path) -> None:
    def fingerprint(place: Path) -> str:
        return open_source(str(place), LocalFiles()).fingerprint

    for name in ["a.png", "b/c.png"]:
        os.utime(put(tmp_path / "in" / name, b"12"), ns=(5, 5))
    first = fingerprint(tmp_path / "in")
    put(tmp_path / "in" / "readme.txt")
    assert fingerprint(tmp_path / "in") == first
    (tmp_path / "in").rename(tmp_path / "moved")
    place = tmp_path / "moved"
    assert fingerprint(place) == first

    seen = {first}
    os.utime(place / "a.png", ns=(5, 6))
    seen.add(fingerprint(place))
    os.utime(put(place / "a.png", b"123"), ns=(5, 6))
    seen.add(fingerprint(place))
    (place / "a.png").rename(place / "aa.png")
    seen.add(fingerprint(place))
    put(place / "d.png")
    seen.add(fingerprint(place))
    assert len(seen) == 5


def test_a_copy_has_the_same_names(tmp_path: Path) -> None:
    def names(place: Path) -> str:
        return open_source(str(place), LocalFiles()).names

    os.utime(put(tmp_path / "in" / "a.png", b"12"), ns=(5, 5))
    os.utime(put(tmp_path / "copy" / "a.png", b"12"), ns=(6, 6))
    put(tmp_path / "other" / "a.png", b"123")
    assert names(tmp_path / "in") == names(tmp_path / "copy") != names(tmp_path / "other")


def test_fingerprint_of_a_list_covers_its_lines(tmp_path: Path) -> None:
    images = put(tmp_path / "some.txt", b"a.png\nb.png\n")
    first = open_source(str(images), LocalFiles()).fingerprint
    os.utime(images, ns=(1, 1))
    assert open_source(str(images), LocalFiles()).fingerprint == first
    put(images, b"a.png\nc.png\n")
    assert open_source(str(images), LocalFiles()).fingerprint != first


# --- the local disk ----------------------------------------------------------------------------------------------


def test_local_files(tmp_path: Path) -> None:
    files = LocalFiles()
    assert isinstance(files, Files)
    path = str(put(tmp_path / "a.bin", b"0123456789"))
    assert files.read(path) == b"0123456789"
    assert files.read(path, 3, 4) == b"3456"
    assert files.read(path, 8, 40) == b"89"
    assert files.read(path, 40, 4) == b""
    with files.open(path) as stream:
        stream.seek(5)
        assert stream.read(2) == b"56"
    for missing in (f"{tmp_path}/gone", f"{path}/below"):
        assert files.find(missing) == []
        with pytest.raises(FileNotFoundError):
            files.read(missing)
    with pytest.raises(StorageError, match="cannot be read"):
        files.read(str(tmp_path))
