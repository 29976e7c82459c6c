"""Events as the platform's publishers send them (DESIGN section 2): what goes into a topic."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.message import TYPE_OF_TOPIC

TOPIC_OF_TYPE = {type_: topic for topic, type_ in TYPE_OF_TOPIC.items()}
_PRIORITY_OF_SEVERITY = {"low": 1, "medium": 2, "high": 3, "critical": 4}


@dataclass(frozen=True, slots=True)
class Event:
    """One record to send. `key` is the user id for what only that user gets, so that a user's
    events keep their order."""

    topic: str
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells an event from all others: its id, and when it happened."""

    event_id: UUID
    at: datetime


def regime_change(stamp: Stamp, *, previous: str, new: str, confidence: float, reasoning: str) -> Event:
    """The market's mood changed; `confidence` is 0 to 1."""
    fields = {"previous_regime": previous, "new_regime": new, "confidence": confidence, "reasoning": reasoning}
    return _event("regime_change", stamp, 3, None, {**fields, "metadata": {"model": "hmm-4"}})


def market_alert(stamp: Stamp, *, alert_type: str, severity: str, message: str, symbol: str | None = None) -> Event:
    """Something that everyone should know. `severity` is low, medium, high or critical."""
    fields = {"alert_type": alert_type, "severity": severity, "message": message}
    key = None if symbol is None else symbol.encode()
    return _event("market_alert", stamp, _PRIORITY_OF_SEVERITY[severity], key, fields)


def risk_alert(stamp: Stamp, *, user_id: str, risk_type: str, severity: str, message: str) -> Event:
    """Something that one user should know about a portfolio. `severity` as in `market_alert`."""
    fields = {"user_id": user_id, "risk_type": risk_type, "severity": severity, "message": message}
    fields["portfolio_id"] = f"portfolio-{user_id}"
    return _event("risk_alert", stamp, _PRIORITY_OF_SEVERITY[severity], user_id.encode(), fields)


def order_executed(
    stamp: Stamp,
    *,
    user_id: str,
    order_id: str,
    symbol: str,
    side: str,
    qty: int,
    filled_qty: int,
    filled_avg_price: str,
) -> Event:
    """An order was filled, wholly or in part. Quantities and prices go out as strings."""
    fields = {
        "user_id": user_id,
        "order_id": order_id,
        "symbol": symbol,
        "side": side,
        "qty": str(qty),
        "filled_qty": str(filled_qty),
        "filled_avg_price": filled_avg_price,
        "status": "filled" if filled_qty == qty else "partially_filled",
    }
    return _event("order_executed", stamp, 2, user_id.encode(), fields)


def _event(type_: str, stamp: Stamp, priority: int, key: bytes | None, fields: dict[str, Any]) -> Event:
    head = {
        "event_id": str(stamp.event_id),
        "event_type": type_,
        "timestamp": stamp.at.isoformat(timespec="microseconds"),
        "priority": priority,
    }
    return Event(TOPIC_OF_TYPE[type_], key, json.dumps({**head, **fields}, ensure_ascii=False).encode())
