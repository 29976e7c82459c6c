"""Bytes to a server on this machine, and what it answers."""

import asyncio

from shared.server import HttpServer


def port_of(server: HttpServer) -> int:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port_of(server))


async def exchange(server: HttpServer, *parts: bytes) -> bytes:
    """Everything that is answered to parts sent one after the other, up to the end."""
    reader, writer = await connect(server)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
