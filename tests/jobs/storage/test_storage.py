"""Storage: the same promises in a folder and in a bucket, and what comes of it when storage misbehaves."""

import errno
import io
import json
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import storage as storage_module
from jobs.storage import RetryConfig, Storage, absolute, original_name, redact, safe_name
from jobs.storage.disk import TEMPORARY
from mami_core.errors import (
    ConfigError,
    MissingObjectError,
    ObjectExistsError,
    StorageError,
    StorageRefusedError,
)
from mami_core.images import Files, LocalFiles, list_images
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.weed import WeedServer

QUICK = RetryConfig(patience_s=20, first_pause_s=0.001, longest_pause_s=0.01)


@pytest.fixture
def storage(place: str) -> Storage:
    return Storage(place, retry=QUICK)


@pytest.fixture
def remote(bucket: str) -> Storage:
    return Storage(f"{bucket}/run", retry=QUICK)


# Names


@given(st.text())
def test_a_safe_name_is_one_visible_path_component_and_gives_the_name_back(name: str) -> None:
    try:
        safe = safe_name(name)
    except ConfigError:
        assert len(name) > 50
        return
    assert original_name(safe) == name
    assert safe
    assert "/" not in safe
    assert safe[0] not in "._"
    assert all(character.isascii() and (character.isalnum() or character in "._-~") for character in safe)
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "_hidden", ".hidden", "a=b", "a%2Fb", "~", "é", "a\0b"])
def test_a_name_stays_in_its_folder(name: str, storage: Storage) -> None:
    storage.write(f"labels/{safe_name(name)}/part.parquet", b"x")
    (found,) = storage.find("labels")
    assert found.path.split("/")[0] == "labels"
    assert original_name(found.path.split("/")[1]) == name


def test_usual_names_stay_readable() -> None:
    assert safe_name("layer1.0.conv1") == "layer1.0.conv1"
    assert safe_name("efficientnet_lite0") == "efficientnet_lite0"
    assert safe_name("torchvision:resnet152") == "torchvision~3Aresnet152"


def test_a_name_too_long_for_a_file_system_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 200"):
        safe_name("x" * 201)


def test_pandas_and_arrow_read_below_an_escaped_name(remote: Storage) -> None:
    import pandas

    buffer = io.BytesIO()
    pq.write_table(pa.table({"unit": [1, 2]}), buffer)
    remote.write(f"labels/{safe_name('torchvision:x/y')}/part.parquet", buffer.getvalue())
    assert len(pandas.read_parquet(f"{remote.url}/labels/{safe_name('torchvision:x/y')}")) == 2
    assert len(pq.read_table(f"{remote.url}/labels/{safe_name('torchvision:x/y')}")) == 2


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "a/./b", "a/", "a\0b", ".."])
def test_nothing_is_written_outside_the_folder(name: str, storage: Storage) -> None:
    for action in (lambda: storage.write(name, b""), lambda: storage.create(name, b""), lambda: storage.delete(name)):
        with pytest.raises(ConfigError, match="no name for a file"):
            action()


def test_absolute_paths_can_be_read_but_not_written(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"abc")
    path = str(tmp_path / "elsewhere")
    assert storage.read(path) == b"abc"
    assert [info.path for info in storage.find(path)] == [path]
    for action in (lambda: storage.write(path, b""), lambda: storage.delete(path), lambda: storage.write("", b"")):
        with pytest.raises(ConfigError, match="only names below"):
            action()


@pytest.mark.parametrize(
    "url", ["", "s3://", "gs://b/x", "https://host/x", "s3://key:secret-key-value@bucket/x", "s3://host:9000/bucket"]
)
def test_places_that_cannot_work_are_refused_without_showing_credentials(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Storage(url)
    assert "secret-key-value" not in str(caught.value)


def test_urls_are_made_absolute() -> None:
    assert absolute("runs/a/") == str(Path.cwd() / "runs/a")
    assert absolute("file:///data/a") == "/data/a"
    assert absolute("s3://bucket/a/b/") == "s3://bucket/a/b"
    assert absolute("s3://bucket") == "s3://bucket"
    assert Storage("s3://bucket").locate("a") == "s3://bucket/a"


# Reading and writing


def test_what_is_written_can_be_found_and_read(storage: Storage) -> None:
    assert storage.find() == []
    storage.write("a/two.bin", b"22")
    storage.write("a/one.bin", b"1")
    storage.write("ab.bin", b"")
    assert [(info.path, info.size) for info in storage.find()] == [("a/one.bin", 1), ("a/two.bin", 2), ("ab.bin", 0)]
    assert [info.path for info in storage.find("a")] == ["a/one.bin", "a/two.bin"]
    assert [info.path for info in storage.find("ab.bin")] == ["ab.bin"]
    assert storage.find("a/one") == []
    assert [info.path for info in storage.find(storage.locate("a"))] == [
        storage.locate("a/one.bin"),
        storage.locate("a/two.bin"),
    ]
    assert storage.read("a/two.bin") == b"22"
    assert storage.exists("a/one.bin")
    assert not storage.exists("a/three.bin")
    assert not storage.exists("a")
    storage.delete("a/one.bin")
    storage.delete("a/one.bin")
    assert not storage.exists("a/one.bin")


def test_the_version_of_a_file_changes_with_its_content(storage: Storage) -> None:
    storage.write("x", b"before")
    (before,) = storage.find()
    storage.write("x", b"behind")
    (after,) = storage.find()
    assert before.version != after.version


@given(start=st.integers(0, 12), size=st.none() | st.integers(0, 12))
def test_ranges_are_those_of_a_slice(
    start: int, size: int | None, tmp_path_factory: pytest.TempPathFactory, s3_server: FaultProxy
) -> None:
    data = b"0123456789"
    expected = data[start:] if size is None else data[start : start + size]
    for storage in _both(tmp_path_factory):
        storage.write("x", data)
        assert storage.read("x", start, size) == expected


_PLACES: list[Storage] = []


def _both(tmp_path_factory: pytest.TempPathFactory) -> list[Storage]:
    if not _PLACES:
        import boto3

        boto3.client("s3").create_bucket(Bucket="ranges")
        _PLACES.extend([Storage(str(tmp_path_factory.mktemp("ranges"))), Storage("s3://ranges", retry=QUICK)])
    return _PLACES


def test_an_open_file_reads_like_a_file(storage: Storage) -> None:
    table = pa.table({"unit": list(range(1000))})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=100)
    storage.write("x.parquet", buffer.getvalue())
    with storage.open("x.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(3)["unit"].to_pylist() == list(range(300, 400))
    with storage.open("x.parquet") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"PAR1"
        assert file.read(1) == b""
        assert file.seek(2) == 2
        assert file.tell() == 2
        assert file.read(5) == buffer.getvalue()[2:7]


def test_a_missing_file_is_said_to_be_missing(storage: Storage) -> None:
    for action in (lambda: storage.read("none"), lambda: storage.open("none")):
        with pytest.raises(MissingObjectError, match="none: no such") as caught:
            action()
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, StorageError)


def test_storage_is_what_reading_images_needs(storage: Storage) -> None:
    assert isinstance(storage, Files)


def test_storage_travels_to_another_process(storage: Storage) -> None:
    storage.write("x", b"data")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.read("x") == b"data"
    assert (copy.url, copy.retry) == (storage.url, storage.retry)


def test_storage_is_read_from_several_threads(storage: Storage) -> None:
    storage.write("x", bytes(range(256)))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: storage.read("x", n, 1), range(256))) == [bytes([n]) for n in range(256)]


# Creating once


def test_only_the_first_creation_wins(storage: Storage) -> None:
    assert storage.create("x", b"mine")
    assert not storage.create("x", b"mine")
    with pytest.raises(ObjectExistsError, match="other contents"):
        storage.create("x", b"yours")
    assert storage.read("x") == b"mine"


def test_of_many_that_create_at_once_one_wins(storage: Storage) -> None:
    def create(n: int) -> int | None:
        try:
            return n if storage.create("x", str(n).encode()) else None
        except ObjectExistsError:
            return None

    with ThreadPoolExecutor(8) as threads:
        winners = [n for n in threads.map(create, range(16)) if n is not None]
    assert [storage.read("x")] == [str(n).encode() for n in winners]


def test_a_creation_whose_reply_was_lost_is_not_a_conflict(remote: Storage, proxy: FaultProxy) -> None:
    proxy.order("PUT", "lost")
    remote.create("x", b"mine")
    assert remote.read("x") == b"mine"
    proxy.order("PUT", "lost")
    with pytest.raises(ObjectExistsError):
        remote.create("x", b"yours")
    assert remote.read("x") == b"mine"


def test_a_disk_without_hard_links_creates_once_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage = Storage(str(tmp_path))
    assert storage.create("x", b"mine")
    assert not storage.create("x", b"mine")
    with pytest.raises(ObjectExistsError):
        storage.create("x", b"yours")
    assert [info.path for info in storage.find()] == ["x"]


# On a disk


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path), retry=QUICK)
    storage.write("a/x", b"old")
    monkeypatch.setattr(os, "fsync", _raiser(errno.ENOSPC))
    with pytest.raises(StorageRefusedError, match=r"a/x: the disk is full"):
        storage.write("a/x", b"new")
    assert storage.read("a/x") == b"old"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x"], "the unfinished file is taken away"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_killed_writer_leaves_is_passed_over(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    child = os.fork()
    if child == 0:
        os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        storage.write("a/x", b"data")
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (left,) = (tmp_path / "a").iterdir()
    assert left.name.endswith(TEMPORARY)
    assert left.name.startswith(".")
    assert storage.find() == []
    assert not storage.exists("a/x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_says_no_is_believed_at_once(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(os, "fsync", _raiser(number))
    with pytest.raises(StorageRefusedError, match=str(tmp_path)):
        storage.write("x", b"")
    assert storage.num_retries == 0


def test_a_disk_that_recovers_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path), retry=QUICK)
    really, failures = os.fsync, iter([errno.EIO, errno.ESTALE])

    def sometimes(descriptor: int) -> None:
        if number := next(failures, 0):
            raise OSError(number, "made by the test")
        really(descriptor)

    monkeypatch.setattr(os, "fsync", sometimes)
    storage.write("x", b"data")
    assert storage.read("x") == b"data"
    assert storage.num_retries == 2


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageRefusedError, match="choose another place"):
        Storage(str(tmp_path / "file")).write("x", b"")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a" / "x")
    assert [info.path for info in Storage(str(tmp_path)).find()] == ["a/x", "b"]


def test_a_job_and_the_pipeline_find_the_same_images(tmp_path: Path) -> None:
    """Otherwise the images' numbers would differ: a folder seen twice, a circle, a link to nothing."""
    folder, outside = tmp_path / "images", tmp_path / "outside"
    for place in (folder / "b", outside):
        place.mkdir(parents=True)
        (place / "x.png").write_bytes(b"1")
    (folder / "a").symlink_to(folder / "b")
    (folder / "c").symlink_to(outside)
    (folder / "d").symlink_to(outside)
    (folder / "b" / "round").symlink_to(folder)
    (folder / "nothing.png").symlink_to(tmp_path / "gone")
    found = Storage(str(tmp_path)).find(str(folder))
    assert found == LocalFiles().find(str(folder))
    assert [Path(info.path).name for info in found].count("x.png") == 4
    images = [list_images(str(folder), files) for files in (Storage(str(tmp_path)), LocalFiles())]
    assert images[0].equals(images[1])
    assert images[0]["key"].to_pylist() == ["a/x.png", "b/x.png", "c/x.png", "d/x.png", "nothing.png"]


def _raiser(number: int):  # noqa: ANN202
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# In a bucket that misbehaves


def test_each_operation_is_one_request(remote: Storage, proxy: FaultProxy) -> None:
    remote.write("x", b"data" * 1_000_000)
    assert proxy.requests == {"PUT": 1}
    remote.read("x")
    remote.read("x", 3, 4)
    assert proxy.requests == {"PUT": 1, "GET": 2}
    remote.exists("x")
    remote.create("y", b"")
    assert proxy.requests == {"PUT": 2, "GET": 2, "HEAD": 1}
    remote.find()
    assert proxy.requests == {"PUT": 2, "GET": 3, "HEAD": 1}


def test_a_long_listing_comes_in_pages_each_asked_for_once(
    remote: Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    names = [f"labels/part-{n}" for n in range(7)]
    for name in names:
        remote.write(name, b"")
    really = s3fs.S3FileSystem.call_s3
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", lambda *given, **named: really(*given, MaxKeys=3, **named))
    proxy.reset()
    proxy.order("GET", "", "503")
    assert [info.path for info in remote.find("labels")] == names
    assert proxy.requests == {"GET": 4}, "three pages, one of them twice"


@pytest.mark.parametrize("fault", ["503", "500", "reset", "lost", "truncate"])
def test_every_operation_survives_every_fault(fault: str, remote: Storage, proxy: FaultProxy) -> None:
    def order(method: str) -> None:
        proxy.order(method, fault, fault)  # twice: the HTTP client gets over one dropped connection by itself

    for method in ("PUT", "GET", "HEAD", "DELETE"):
        order(method)
    remote.write("x", b"0123456789")
    assert remote.read("x") == b"0123456789"
    order("GET")
    assert remote.read("x", 2, 4) == b"2345"
    order("GET")
    assert [info.path for info in remote.find()] == ["x"]
    assert remote.exists("x")
    remote.delete("x")
    assert remote.find() == []
    assert remote.num_retries >= 6 if fault != "truncate" else 3


def test_a_storm_of_faults_loses_nothing(remote: Storage, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.rates = dict.fromkeys(("503", "500", "reset", "lost", "truncate"), 0.05)
    contents = {f"part-{n:05d}": os.urandom(1 + 7 * n) for n in range(60)}
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda item: remote.write(*item), contents.items()))
        assert {info.path for info in remote.find()} == set(contents)
        assert dict(zip(contents, threads.map(remote.read, contents), strict=True)) == contents
    assert remote.num_retries > 10
    assert sum("trying again" in message for message in caplog.messages) == remote.num_retries, "each is logged"


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.15])
def test_a_long_storm_loses_nothing(rate: float, remote: Storage, proxy: FaultProxy) -> None:
    proxy.rates = dict.fromkeys(("503", "500", "reset", "lost", "truncate"), rate)
    contents = {f"part-{n:05d}": os.urandom(1 + 7 * n) for n in range(1200)}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda item: remote.write(*item), contents.items()))
        assert {info.path for info in remote.find()} == set(contents)
        assert dict(zip(contents, threads.map(remote.read, contents), strict=True)) == contents


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    tmp_path: Path, s3_server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import s3fs

    key_id, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    contents = {f"part-{n:05d}": os.urandom(1000 + n) for n in range(400)}
    with WeedServer(tmp_path / "weed", key_id, secret) as server, ThreadPoolExecutor(4) as threads:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(s3fs.S3FileSystem, "_cache", {})
        boto3.client("s3").create_bucket(Bucket="run")
        storage = Storage("s3://run", retry=RetryConfig(patience_s=200))
        writes = [threads.submit(storage.write, *item) for item in contents.items()]
        writes[50].result()
        server.kill()
        server.start()
        for write in writes:
            write.result()
        assert storage.num_retries > 0, "it was killed while it was being written to"
        assert {info.path for info in storage.find()} == set(contents)
        assert dict(zip(contents, threads.map(storage.read, contents), strict=True)) == contents


def test_an_unreachable_object_is_not_taken_for_a_missing_one(remote: Storage, proxy: FaultProxy) -> None:
    remote.write("x", b"")
    proxy.order("HEAD", "503", "503", "500", "reset")
    assert remote.exists("x")


def test_waiting_ends_with_an_error_that_names_the_object(bucket: str, proxy: FaultProxy) -> None:
    storage = Storage(bucket, retry=RetryConfig(patience_s=1.5, first_pause_s=0.01, longest_pause_s=0.05))
    proxy.rates = {"503": 1.0}
    with pytest.raises(StorageError, match=rf"{bucket}/a/x: writing failed \d+ times .* made by the test.*goes on"):
        storage.write("a/x", b"")
    assert proxy.requests["PUT"] == storage.num_retries + 1 >= 3


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("AccessDenied", 403, "check the credentials"),
        ("InvalidAccessKeyId", 403, "check the credentials"),
        ("ExpiredToken", 400, "credentials have expired"),
        ("NoSuchBucket", 404, "no such bucket"),
        ("NotImplemented", 501, "refused"),
        ("InsufficientCapacity", 507, "refused"),
    ],
)
def test_storage_that_refuses_is_not_asked_again(
    code: str, status: int, says: str, remote: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    def refuse(self: object, *_: object, **__: object) -> None:
        answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise translate_boto_error(ClientError(answer, "PutObject"))

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", refuse)
    with pytest.raises(StorageRefusedError, match=says):
        remote.write("x", b"")
    assert remote.num_retries == 0


def test_a_missing_bucket_is_refused_at_once(s3_server: FaultProxy) -> None:
    for action in (lambda s: s.write("x", b""), lambda s: s.read("x"), lambda s: s.find()):
        with pytest.raises(StorageRefusedError, match="no such bucket"):
            action(Storage("s3://no-such-bucket"))


def test_missing_credentials_are_said_to_be_missing(
    remote: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setattr(s3fs.S3FileSystem, "_cache", {})
    with pytest.raises(StorageRefusedError, match="no usable credentials"):
        remote.write("x", b"")


def test_the_pauses_grow_and_are_bounded() -> None:
    retries = storage_module.Retries(RetryConfig(first_pause_s=1, longest_pause_s=8))
    pauses = [pause for pause, _ in zip(retries._pauses(), range(50), strict=False)]
    for pause, longest in zip(pauses, [1, 2, 4] + [8] * 47, strict=True):
        assert longest / 2 <= pause <= longest


def test_a_mistake_of_ours_is_not_retried() -> None:
    retries = storage_module.Retries(QUICK)
    with pytest.raises(TypeError):
        retries.run("writing", "x", lambda: len(3), lambda _, error: error)  # type: ignore[arg-type]
    assert retries.count == 0


@pytest.mark.parametrize("settings", [{"patience_s": -1}, {"first_pause_s": 0}, {"longest_pause_s": 0.1}])
def test_impossible_retry_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RetryConfig(**settings)


# Credentials


@pytest.mark.parametrize(
    "text",
    [
        "https://user:HUNTER22@host/x",
        "s3://b/x?X-Amz-Credential=HUNTER22&X-Amz-Signature=HUNTER22&a=b",
        "{'Authorization': 'AWS4-HMAC-SHA256 Credential=HUNTER22'}",
        "authorization: Bearer HUNTER22",
        "{'aws_secret_access_key': 'HUNTER22', 'x': 1}",
        '"AWS_SESSION_TOKEN": "HUNTER22"',
        "password=HUNTER22",
        "token=HUNTER22 ",
        "x-amz-security-token: HUNTER22",
    ],
)
def test_credentials_are_taken_out(text: str) -> None:
    assert "HUNTER22" not in redact(text)
    assert "***" in redact(text)


def test_secrets_of_the_environment_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("SOME_API_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("A_SECRET", "test")
    assert redact("a wJalrXUtnFEMI/K7MDENG b hf_abcdefgh c test AKIAIOSFODNN7EXAMPLE") == "a *** b *** c test ***"


@given(text=st.text())
def test_nothing_that_is_shown_can_take_hold_of_a_terminal(text: str) -> None:
    shown = redact(f"{text}\x1b[2J\x1b]0;title\x07\r\x9b\u202e\ud800{text}")
    assert not {character for character in shown if ord(character) < 32} - {"\n", "\t"}
    assert not set("\x7f\x9b\u202e") & set(shown)
    shown.encode()
    assert redact(shown) == shown


def test_control_characters_are_shown_as_json_writes_them() -> None:
    name = "a\x1b[2J\x9b\u202eb\nc\td é"
    assert redact(name) == "a\\u001b[2J\\u009b\\u202eb\nc\td é"
    assert json.loads(redact(json.dumps(name, ensure_ascii=False))) == name, "run.json stays what it says"
    assert redact("\x1b[36mray::Worker\x1b[0m failed") == "ray::Worker failed"


def test_ordinary_text_is_left_alone() -> None:
    text = "s3://bucket/labels/torchvision~3Aresnet18/layer4/part-00000-of-00002.parquet: no such object, token 3 of 15"
    assert redact(text) == text
