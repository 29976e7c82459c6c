"""What one writes first: FastAPI, `send_text` to each client, redis-py's own pub/sub.

python bench/peers/fastapi_peer.py PORT REDIS_URL
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import redis.asyncio
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

clients: set[WebSocket] = set()


async def fan_out(url: str) -> None:
    async with redis.asyncio.from_url(url).pubsub() as pubsub:
        await pubsub.subscribe("bench")
        async for message in pubsub.listen():
            if message["type"] == "message":
                text = message["data"].decode()
                for client in list(clients):
                    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                        await client.send_text(text)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(fan_out(sys.argv[2]))
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws")
async def connect(client: WebSocket) -> None:
    await client.accept()
    clients.add(client)
    try:
        while True:
            await client.receive_text()
    except WebSocketDisconnect:
        clients.discard(client)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
