"""The fastest WebSocket library for Python that there is (in Cython), with redis-py's own pub/sub.

python bench/peers/picows_peer.py PORT REDIS_URL
"""

import sys

import picows
import redis.asyncio
import uvloop

clients: set[picows.WSTransport] = set()


class Listener(picows.WSListener):
    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        clients.add(transport)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        clients.discard(transport)


async def main(port: int, url: str) -> None:
    server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", port)
    async with server, redis.asyncio.from_url(url).pubsub() as pubsub:
        await pubsub.subscribe("bench")
        async for message in pubsub.listen():
            if message["type"] == "message":
                for client in clients:
                    client.send(picows.WSMsgType.TEXT, message["data"])


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
