"""The cutting proxy against a real echo server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.demo.proxy import CuttingProxy


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[CuttingProxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with CuttingProxy(*server.sockets[0].getsockname()) as started:
        yield started
    server.close()


async def ends(reader: asyncio.StreamReader) -> None:
    """Returns when the peer has closed or reset the connection."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_bytes_pass_both_ways_unchanged(proxy: CuttingProxy) -> None:
    reader, writer = await asyncio.open_connection(*proxy.address)
    sent = bytes(range(256)) * 2000
    writer.write(sent)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == sent
    writer.close()


async def test_cut_ends_what_is_open_and_what_comes_until_healed(proxy: CuttingProxy) -> None:
    before, before_writer = await asyncio.open_connection(*proxy.address)
    before_writer.write(b"x")
    await before.readexactly(1)
    proxy.cut()
    await ends(before)
    during, during_writer = await asyncio.open_connection(*proxy.address)
    await ends(during)
    proxy.heal()
    after, after_writer = await asyncio.open_connection(*proxy.address)
    after_writer.write(b"y")
    assert await asyncio.wait_for(after.readexactly(1), 5) == b"y"
    for writer in (before_writer, during_writer, after_writer):
        writer.close()


async def test_what_is_swallowed_never_arrives_and_the_connection_stands(proxy: CuttingProxy) -> None:
    reader, writer = await asyncio.open_connection(*proxy.address)
    proxy.swallow()
    writer.write(b"into the void")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    proxy.heal()
    writer.write(b"z")
    assert await asyncio.wait_for(reader.read(100), 5) == b"z"
    writer.close()


async def test_a_client_is_hung_up_on_where_nobody_is_behind_the_proxy() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    async with CuttingProxy(*address) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        await ends(reader)
        writer.close()
