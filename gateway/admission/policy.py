"""Who may connect, as the settings say."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.admission.refusal import Refusal
from gateway.authentication.token import Claims

Judgement = Claims | Refusal | asyncio.Future[None]
"""Who sent a token, why it is refused, or what to wait for before it can be judged."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a door. `authenticate` is there with mode jwt, and only then."""

    mode: Literal["jwt", "none"] | None = None
    """None lets in only what is local to this machine."""
    allowed_origins: frozenset[str] | None = None
    """None: pages of the host that was asked."""
    authenticate: Callable[[bytes], Judgement] | None = None
    cookie: str | None = None
    """The name of the cookie that may carry a token."""
    allow_query_token: bool = False
    deflates: bool = False
    """Messages are compressed for those who offer it."""
