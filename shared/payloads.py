"""What the platform's publishers send in the four topics, as far as it is known (DESIGN section 2).

Nothing is decoded with these classes: the relay looks at `event_type` and `user_id` alone, and passes on every
field, also one that is missing here, byte for byte. `/asyncapi.json` describes events by them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.users import MAX_USER_ID_CHARACTERS

USER_ID_SCHEMA: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_USER_ID_CHARACTERS,
        "not": {"pattern": "[\\u0000-\\u001f\\u007f-\\u009f]"},
    }
)
"""A user id, as a JSON Schema can say it: `validate_user_id` refuses lone surrogates, too."""

_UserId = Annotated[str, Meta(extra_json_schema=dict(USER_ID_SCHEMA))]
_Amount = Annotated[str, Meta(description="A decimal number, as a string.")]


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What all four have in common."""

    event_id: str | UnsetType = UNSET
    timestamp: Annotated[str, Meta(description="ISO 8601.")] | UnsetType = UNSET
    priority: int | UnsetType = UNSET


class RegimeChange(Payload, frozen=True, kw_only=True):
    """The market's mood changed."""

    previous_regime: str | UnsetType | None = UNSET
    new_regime: str | UnsetType = UNSET
    confidence: Annotated[float, Meta(description="0 to 1.")] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class MarketAlert(Payload, frozen=True, kw_only=True):
    """Something that everyone should know."""

    alert_type: str | UnsetType = UNSET
    severity: str | UnsetType = UNSET
    message: str | UnsetType = UNSET


class RiskAlert(Payload, frozen=True, kw_only=True):
    """Something that one user should know. One of `alert_type` and `risk_type` says what."""

    user_id: _UserId | int | UnsetType = UNSET
    alert_type: str | UnsetType = UNSET
    risk_type: str | UnsetType = UNSET
    severity: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    portfolio_id: str | UnsetType | None = UNSET


class OrderExecuted(Payload, frozen=True, kw_only=True):
    """An order was filled, wholly or in part."""

    user_id: _UserId | int | UnsetType = UNSET
    order_id: str | UnsetType = UNSET
    symbol: str | UnsetType = UNSET
    side: str | UnsetType = UNSET
    qty: _Amount | UnsetType = UNSET
    filled_qty: _Amount | UnsetType = UNSET
    filled_avg_price: _Amount | UnsetType | None = UNSET
    status: str | UnsetType = UNSET


PAYLOAD_OF_TYPE: Final[Mapping[str, type[Payload]]] = MappingProxyType(
    {
        "regime_change": RegimeChange,
        "market_alert": MarketAlert,
        "risk_alert": RiskAlert,
        "order_executed": OrderExecuted,
    }
)
