"""Redis behind TLS, with a certificate authority of the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
import uvloop
import valkey.asyncio
from harness import ADAPTERS, VIEWS, Client
from servers import RedisServer, free_port

from async_session import StoreUnavailable
from async_session.stores.redis import RedisStore

pytestmark = pytest.mark.anyio

# Imported here, and not in an event loop.
assert valkey.asyncio

KEY = "ab" + "0" * 62
VALUE = b"some-version-001" + b"v" * 500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TLSServer(RedisServer):
    """One redis-server called localhost; our authority is in ``ours.pem``, another in ``other``."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        self.tls_port = free_port()
        super().__init__(
            directory,
            *("--tls-port", str(self.tls_port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"),
            *("--tls-ca-cert-file", "ours.pem"),
        )
        for name, pem in {
            "ours.pem": authority.cert_pem,
            "other.pem": trustme.CA().cert_pem,
            "key.pem": certificate.private_key_pem,
            "cert.pem": certificate.cert_chain_pems[0],
        }.items():
            pem.write_to_path(str(directory / name))

    def tls_url(self, *, scheme: str = "rediss", host: str = "localhost", trust: str) -> str:
        return f"{scheme}://{host}:{self.tls_port}/0?ssl_ca_certs={self.directory / trust}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSServer]:
    server = TLSServer(tmp_path_factory.mktemp("tls"))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_a_server_that_our_authority_vouches_for(server: TLSServer, scheme: str) -> None:
    store = RedisStore(server.tls_url(scheme=scheme, trust="ours.pem"), timeout=5)
    saves = (store.save(f"{n:064x}", VALUE, ttl=60) for n in range(20))
    assert await asyncio.gather(*saves) == [True] * 20
    assert await store.open(f"{7:064x}") == VALUE
    await store.aclose()


@pytest.mark.parametrize("way", ["tcp", "socket", "tls"])
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_shared_connection_on_either_event_loop(
    server: TLSServer, way: str, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The connection's transport is the event loop's own: answers of any size, some unheard."""
    url = {
        "tcp": server.url,
        "socket": f"redis+unix://{server.socket}",
        "tls": server.tls_url(trust="ours.pem"),
    }[way]
    values = {f"{n:064x}": VALUE * (1 if n % 10 else 500) for n in range(100)}

    async def use() -> None:
        store = RedisStore(url, timeout=5)
        for key, value in values.items():
            assert await store.save(key, value, ttl=60) is True
        reads = {key: asyncio.ensure_future(store.open(key)) for key in values}
        await asyncio.sleep(0)
        for read in list(reads.values())[::3]:
            read.cancel()
        await asyncio.wait(reads.values())
        heard = {key: read.result() for key, read in reads.items() if not read.cancelled()}
        assert len(heard) == 66
        assert heard == {key: values[key] for key in heard}
        await store.aclose()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(use())


UNTRUSTED = [
    ("localhost", "other.pem", "certificate verify failed: self-signed certificate"),
    ("127.0.0.1", "ours.pem", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ("localhost", "missing.pem", "No such file"),
]


@pytest.mark.parametrize(
    ("scheme", "host", "trust", "says"),
    [
        *(("rediss", *case) for case in UNTRUSTED),
        *(("valkeys", *case) for case in UNTRUSTED[:2]),
    ],
)
async def test_a_server_that_cannot_be_trusted_gets_nothing(
    server: TLSServer, scheme: str, host: str, trust: str, says: str
) -> None:
    store = RedisStore(server.tls_url(scheme=scheme, host=host, trust=trust), timeout=5)
    with pytest.raises(StoreUnavailable, match=says):
        await store.open(KEY)
    with pytest.raises(StoreUnavailable, match=says):
        await store.save(KEY, VALUE, ttl=60)
    await store.aclose()
    direct = RedisStore(server.url, timeout=5)
    assert await direct.open(KEY) is None
    await direct.aclose()


async def test_without_tls_nobody_gets_in(server: TLSServer) -> None:
    store = RedisStore(f"redis://localhost:{server.tls_port}", timeout=1)
    with pytest.raises(StoreUnavailable):
        await store.open(KEY)
    await store.aclose()


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
async def test_an_app_over_tls(server: TLSServer, adapter: str) -> None:
    store = RedisStore(server.tls_url(trust="ours.pem"), timeout=5)
    client = Client(ADAPTERS[adapter](VIEWS, store))
    await client.get("sign_in")
    assert (await client.get("read")).body == "{'user': 'ada', 'theme': 'dark'}"
    await client.get("logout")
    assert client.cookie is None
    await store.aclose()
