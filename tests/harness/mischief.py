"""Proxies before Redis that lose, double and swap live messages, and nothing else.

It reads RESP3 element by element (the specification's length prefixes are enough), so what it does not
touch passes byte for byte.
"""

import asyncio
import random
from collections import Counter

from demo.proxy import Proxy


def mischievous_proxy(redis_port: int, chance: random.Random, *, share: float = 0.05) -> tuple[Proxy, Counter[str]]:
    """Of the messages on live channels `share` are lost, as many come twice, as many behind the next
    one. The counter says how many. Give its `port` to a replica."""
    done: Counter[str] = Counter()

    async def answer(reader: asyncio.StreamReader) -> bytes:
        element = await _element(reader)
        if not (element.startswith(b">") and b"smessage\r\n" in element[:24] and b":live:" in element[:200]):
            return element
        dice = chance.random()
        if dice < share:
            done["lost"] += 1
            return await answer(reader)
        if dice < 2 * share:
            done["doubled"] += 1
            return element + element
        if dice < 3 * share:
            done["swapped"] += 1
            return await _element(reader) + element
        return element

    return Proxy(redis_port, answers=answer), done


def voiceless_proxy(redis_port: int) -> tuple[Proxy, asyncio.Event]:
    """While the event is set no message of a subscription comes through; what is asked is answered."""
    silence = asyncio.Event()

    async def answer(reader: asyncio.StreamReader) -> bytes:
        element = await _element(reader)
        is_lost = silence.is_set() and element.startswith(b">") and b"smessage\r\n" in element[:24]
        return await answer(reader) if is_lost else element

    return Proxy(redis_port, answers=answer), silence


async def _element(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one RESP3 value. Raises IncompleteReadError at the end."""
    head = await reader.readuntil(b"\r\n")
    kind, count = head[:1], head[1:-2]
    if kind in b"$=!" and count != b"-1":
        return head + await reader.readexactly(int(count) + 2)
    if kind in b"*~>%|" and count != b"-1":
        elements = int(count) * (2 if kind in b"%|" else 1)
        return head + b"".join([await _element(reader) for _ in range(elements)])
    return head
