"""Objects in S3, or in anything that speaks its protocol, through s3fs. An object appears whole or not at all.

Every operation is one request. The clients below us would retry on their own, each in its own way and none of them
counted; that is switched off, so that `jobs.storage.retries` alone decides how long we wait and can say so. (One
exception: a request whose connection was dropped is sent once more by the HTTP client itself, at once.)
"""

import asyncio
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import aiohttp
import botocore.exceptions
import fsspec.asyn
import s3fs

from jobs.storage.redaction import redact
from jobs.storage.retries import Retries, one_line
from mami_core.errors import MissingObjectError, ObjectExistsError, StorageError, StorageRefusedError

if TYPE_CHECKING:
    from mami_core.images import FileInfo

SCHEME = "s3://"

_HEALING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_HEALING_CODES = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "SlowDown"}
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.UnauthorizedSSOTokenError,
)
_MISUSE = (botocore.exceptions.ParamValidationError, botocore.exceptions.InvalidEndpointConfigurationError)
_HEALING = (OSError, botocore.exceptions.BotoCoreError, aiohttp.ClientError, asyncio.TimeoutError)


class TruncatedReadError(OSError):
    """The reply ended before it had brought the bytes that it announced."""


class ObjectStore:
    """Reads and writes whole objects; paths are URLs: s3://bucket/key."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        # Endpoint, region and credentials: from the environment, as every AWS client reads them.
        self._s3: Any = s3fs.S3FileSystem(
            use_listings_cache=False,
            config_kwargs={"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60},
        )
        self._s3.retries = 1

    def find(self, path: str) -> "list[FileInfo]":
        """Every object at the path or below it: one request for a thousand."""
        from mami_core.images import FileInfo  # imports torch, which a worker may do without

        bucket, key = _split(path)
        prefix = f"{key.rstrip('/')}/" if key else ""
        found = [
            FileInfo(f"{SCHEME}{bucket}/{entry['Key']}", entry["Size"], entry.get("ETag", "").strip('"'))
            for entry in self._list(bucket, prefix)
            if not entry["Key"].endswith("/")  # the empty objects by which some programs mark a folder
        ]
        if not found and key and not key.endswith("/"):
            with suppress(MissingObjectError):
                head = self._head(path)
                found = [FileInfo(path, head["ContentLength"], head.get("ETag", "").strip('"'))]
        return sorted(found, key=lambda info: info.path)

    def _list(self, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Page after page, each retried by itself: a failure on the last does not cost the others."""
        token: dict[str, str] = {}
        while True:
            page = self._call("listing", f"{SCHEME}{bucket}/{prefix}", "list_objects_v2", Prefix=prefix, **token)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from byte `start` on; fewer only where the object ends."""
        if size == 0:
            return b""
        return self._retries.run("reading", path, lambda: self._get(path, start, size), _judge)

    def _get(self, path: str, start: int, size: int | None) -> bytes:
        bucket, key = _split(path)
        whole = start == 0 and size is None
        last = "" if size is None else start + size - 1
        request = {} if whole else {"Range": f"bytes={start}-{last}"}
        try:
            reply = self._s3.call_s3("get_object", Bucket=bucket, Key=key, **request)
        except OSError as error:
            if _answer(error)[0] == 416:  # the object ends before `start`
                return b""
            raise
        data: Any = fsspec.asyn.sync(self._s3.loop, _body, reply["Body"])
        if len(data) != reply["ContentLength"]:
            raise TruncatedReadError(f"{len(data)} bytes came of {reply['ContentLength']}")
        return data

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable file; every range that is read is one request."""
        return io.BufferedReader(_Reader(self, path, self._head(path)["ContentLength"]), buffer_size=1 << 20)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self._head(path)
        except MissingObjectError:
            return False
        return True

    def write(self, path: str, data: bytes) -> None:
        """Puts the object in place, whole, in one request, over any that stands there."""
        self._call("writing", path, "put_object", Body=data)

    def create(self, path: str, data: bytes) -> None:
        """Puts the object in place unless one stands there.

        Raises:
            ObjectExistsError: one stands there already. It may be ours: where the reply to a first attempt was lost,
                the second finds what the first has put there. Compare.
        """
        self._call("creating", path, "put_object", Body=data, IfNoneMatch="*")

    def delete(self, path: str) -> None:
        """Takes the object away, if there is one."""
        self._call("deleting", path, "delete_object")

    def tidy(self, path: str) -> None:
        """Nothing: there are no folders, only names."""

    def _head(self, path: str) -> dict[str, Any]:
        try:
            return self._call("looking up", path, "head_object")
        except StorageRefusedError:
            self.read(path, 0, 1)  # what is refused to HEAD comes without a reason; GET is told it
            raise

    def _call(self, action: str, path: str, method: str, **arguments: Any) -> Any:
        bucket, key = _split(path)
        if method != "list_objects_v2":
            arguments["Key"] = key
        return self._retries.run(action, path, lambda: self._s3.call_s3(method, Bucket=bucket, **arguments), _judge)


class _Reader(io.RawIOBase):
    """An object as a file: where we are in it, and nothing else."""

    mode = "rb"  # as files say it

    def __init__(self, store: ObjectStore, path: str, size: int) -> None:
        self.name = path
        self._store, self._size, self._position = store, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._position))
        data = self._store.read(self.name, self._position, size)
        if len(data) != size:
            raise StorageError(f"{self.name}: the object became shorter while it was being read.")
        buffer[:size] = data
        self._position += size
        return size


async def _body(stream: Any) -> bytes:
    async with stream:
        return await stream.read()


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix(SCHEME).partition("/")
    return bucket, key


def _answer(error: Exception) -> tuple[int, str, str]:
    """The status, code and message of the server's answer behind an error; status 0 where it gave none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not response:
        return 0, "", ""
    details = response.get("Error", {})
    return response["ResponseMetadata"]["HTTPStatusCode"], str(details.get("Code")), str(details.get("Message"))


def _judge(path: str, error: Exception) -> Exception | None:
    """What an error means. s3fs turns some answers into FileNotFoundError that are none; only a real 404 counts."""
    status, code, message = _answer(error)
    shown = redact(path)
    if status == 0:
        return _judge_without_answer(shown, error)
    if status in _HEALING_STATUS or code in _HEALING_CODES:
        return None
    if code == "NoSuchBucket":
        return StorageRefusedError(f"{shown}: there is no such bucket; create it, or correct its name.")
    if status == 404:
        return MissingObjectError(f"{shown}: no such object.")
    if status == 412:
        return ObjectExistsError(f"{shown}: exists already.")
    if code in _EXPIRED_CODES:
        return StorageRefusedError(
            f"{shown}: the credentials have expired; renew them and run the same command again, it goes on from here."
        )
    return StorageRefusedError(
        f"{shown}: the storage refused ({status} {redact(code)}: {redact(message)}); "
        "check the credentials and their permissions, the region and the endpoint."
    )


def _judge_without_answer(shown: str, error: Exception) -> Exception | None:
    if isinstance(error, _NO_CREDENTIALS):
        return StorageRefusedError(
            f"{shown}: no usable credentials ({redact(one_line(error))}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile or role that AWS clients find by themselves."
        )
    if isinstance(error, _MISUSE):
        return StorageRefusedError(f"{shown}: not a usable address ({redact(one_line(error))}).")
    return None if isinstance(error, _HEALING) else error
