"""A client to look with: prints what a user gets, from any gateway.

python -m demo.client --user user-123
python -m demo.client --user user-123 --url wss://notifications.example.com --raw
"""

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import aiohttp

from demo.place import running_demo

_CONNECT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
# Close codes from 4500 on say: do not come again (DESIGN section 4).
_FINAL_CODES = range(4500, 5000)


class Refused(Exception):
    """The gateway will not have us, and trying again would not change that."""


class OutputClosed(Exception):
    """Whoever read our output has left, as `head` does."""


async def follow(url: str, user_id: str, show: Callable[[str], None]) -> None:
    """Give `show` each frame's text, reconnecting with growing pauses, until cancelled. Events that
    come between two connections are missed (plain clients have no cursor). Raises Refused."""
    pause = _FIRST_PAUSE_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CONNECT_SECONDS)) as session:
        while True:
            try:
                async with session.ws_connect(f"{url}/ws", params={"user_id": user_id}, heartbeat=30) as ws:
                    _say(f"connected to {url} as {user_id}")
                    pause = _FIRST_PAUSE_SECONDS
                    async for message in ws:
                        if message.type is aiohttp.WSMsgType.TEXT:
                            show(message.data)
                if ws.close_code in _FINAL_CODES:
                    raise Refused(f"closed with {ws.close_code}")
                reason = f"closed with {ws.close_code}"
            except aiohttp.WSServerHandshakeError as error:
                if error.status < 500 and error.status != 429:
                    raise Refused(f"HTTP {error.status}: {error.message}") from None
                reason = f"HTTP {error.status}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            _say(f"{reason}; again in {pause:.1f} s")
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def readable(frame: str) -> str:
    """One line for a person: time, type, what happened. A frame that is none is shown as it is."""
    try:
        message = json.loads(frame)
        data = message["data"]
        at = datetime.fromisoformat(data["timestamp"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
        match message["type"]:
            case "regime_change":
                text = f"{data.get('previous_regime', '?')} -> {data['new_regime']} ({data['confidence']:.0%})"
            case "order_executed":
                text = (
                    f"{data['order_id']} {data['side']} {data['symbol']} {data['filled_qty']} of {data['qty']}"
                    f" at {data.get('filled_avg_price', '?')}, {data['status']}"
                )
            case _:
                text = f"{data['severity']}: {data['message']}"
        return f"{at}  {message['type']:<14}  {text}"
    except (ValueError, KeyError, TypeError):
        return frame


def _printed(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # not to be taken for the gateway's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes once more
        raise OutputClosed from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    place = running_demo()
    default = place.replicas[0] if place else "ws://127.0.0.1:8000"
    parser = argparse.ArgumentParser(
        prog="python -m demo.client", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--user", default="user-123", help="whose events (user-123)")
    parser.add_argument("--url", default=default, help=f"a gateway or the load balancer before it ({default})")
    parser.add_argument("--raw", action="store_true", help="print frames as they come")
    options = parser.parse_args()
    show: Callable[[str], str] = str if options.raw else readable
    try:
        with suppress(KeyboardInterrupt, OutputClosed):
            asyncio.run(follow(options.url.rstrip("/"), options.user, lambda frame: _printed(show(frame))))
    except Refused as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
