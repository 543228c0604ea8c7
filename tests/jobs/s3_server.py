"""A real S3 server behind a proxy that breaks things on purpose."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.jobs.faultproxy import FaultProxy

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-of-nobody",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_behind_proxy(*, seed: int = 0) -> Iterator[FaultProxy]:
    """The proxy, with the server behind it; every AWS client of this process and its children finds it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with FaultProxy(port, seed=seed) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield proxy
    server.stop()
