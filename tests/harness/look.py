"""A page in Chromium that is looked at and used as a person would."""

import asyncio
import json
from typing import Any, Self

from harness.browser import start_browser

_ANSWER_SECONDS = 60.0


class Look:
    """One page at `url`. Use as a context manager; commands are answered in turn."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._process = await start_browser("look.mjs", self._url)
        assert await self._answer() == "open"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(20):
            await self._process.wait()

    async def ask(self, command: str, **more: Any) -> Any:
        """What look.mjs can do; its answer. Raises AssertionError when it could not."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **more}).encode() + b"\n")
        return await self._answer()

    async def click(self, selector: str) -> None:
        await self.ask("click", selector=selector)

    async def text(self, selector: str) -> str:
        """All that is shown in what the selector finds."""
        return "\n".join(await self.ask("text", selector=selector))

    async def has(self, selector: str, text: str) -> bool:
        return text in await self.text(selector)

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(_ANSWER_SECONDS):
            line = await self._process.stdout.readline()
        answer = json.loads(line or b'{"error": "the browser has ended"}')
        assert "error" not in answer, answer["error"]
        return answer["result"]
