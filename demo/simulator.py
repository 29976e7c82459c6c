"""A trading day in fast motion: believable events of all four types.

    python -m demo.simulator --brokers 127.0.0.1:9092 --users user-123,user-456

`TradingDay` makes the events and does no I/O; the rest sends them until SIGTERM.
"""

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from uuid import UUID

from aiokafka import AIOKafkaProducer

from demo.events import Event, Stamp, market_alert, order_executed, regime_change, risk_alert

TICK_SECONDS = 0.05
_SEND_SECONDS = 10.0

# Drift and spread of a tick's return, and how likely a regime is left in a tick.
_REGIMES = {
    "bull": (0.0004, 0.0015, 0.012),
    "sideways": (0.0, 0.0008, 0.02),
    "bear": (-0.0005, 0.002, 0.016),
    "crisis": (-0.0015, 0.006, 0.05),
}
_NEXT_REGIMES = {
    "bull": ("sideways", "sideways", "bear"),
    "sideways": ("bull", "bull", "bear"),
    "bear": ("sideways", "crisis", "bull"),
    "crisis": ("bear", "sideways"),
}
_REASONS = {
    "bull": "breadth widens, volatility falls below its 20-day mean",
    "sideways": "trend strength fades, ranges hold",
    "bear": "lower highs across sectors, credit spreads widen",
    "crisis": "correlations rise to one, liquidity is gone",
}
_OPENING_PRICES = {"AAPL": 227.5, "MSFT": 431.2, "NVDA": 138.6, "TSLA": 251.4, "SPY": 584.3, "BRK.B": 465.0}
_ALERT_MOVE = 0.015
_CONCENTRATION = 0.45
_DRAWDOWN = 0.01
_ORDERS_PER_TICK = 0.35
_FILLS_PER_TICK = 0.5
_OPENING_CASH = 100_000.0


@dataclass
class _Order:
    user_id: str
    order_id: str
    symbol: str
    side: str
    qty: int
    filled: int = 0
    paid: float = 0.0


@dataclass
class _Portfolio:
    cash: float = _OPENING_CASH
    shares: dict[str, int] = field(default_factory=dict)
    peak: float = _OPENING_CASH
    warned_of: str | None = None  # the symbol that is too large a part, until it no longer is


class TradingDay:
    """A market, and users who trade in it. The same seed and clock give the same day.

    `now` gives the time that events carry.
    """

    def __init__(self, users: Sequence[str], random: Random, now: Callable[[], datetime]) -> None:
        self._random = random
        self._now = now
        self._regime = "sideways"
        self._prices = dict(_OPENING_PRICES)
        self._alerted_at = dict(_OPENING_PRICES)
        self._portfolios = {user: _Portfolio() for user in users}
        self._open: list[_Order] = []
        self._orders = 0

    def tick(self) -> Iterator[Event]:
        """The events of the next moment, in the order in which they happened."""
        yield from self._change_regime()
        yield from self._move_prices()
        self._place_orders()
        yield from self._fill_orders()
        yield from self._look_at_risks()

    def _change_regime(self) -> Iterator[Event]:
        if self._random.random() >= _REGIMES[self._regime][2]:
            return
        previous, self._regime = self._regime, self._random.choice(_NEXT_REGIMES[self._regime])
        yield regime_change(
            self._stamp(),
            previous=previous,
            new=self._regime,
            confidence=round(self._random.uniform(0.6, 0.97), 2),
            reasoning=_REASONS[self._regime],
        )

    def _move_prices(self) -> Iterator[Event]:
        drift, spread, _ = _REGIMES[self._regime]
        for symbol, price in self._prices.items():
            # The pull to the opening price keeps a demo of hours within believable prices.
            pull = 0.002 * (_OPENING_PRICES[symbol] / price - 1)
            price *= 1 + max(-0.2, self._random.gauss(drift + pull, spread))
            self._prices[symbol] = price
            move = price / self._alerted_at[symbol] - 1
            if abs(move) < _ALERT_MOVE:
                continue
            self._alerted_at[symbol] = price
            yield market_alert(
                self._stamp(),
                alert_type="price_spike" if move > 0 else "price_drop",
                severity="critical"
                if abs(move) > 3 * _ALERT_MOVE
                else "high"
                if self._regime == "crisis"
                else "medium",
                message=f"{symbol} {'rises' if move > 0 else 'falls'} {abs(move):.1%} to {price:.2f}",
                symbol=symbol,
            )

    def _place_orders(self) -> None:
        for user, portfolio in self._portfolios.items():
            if self._random.random() >= _ORDERS_PER_TICK or sum(o.user_id == user for o in self._open) >= 3:
                continue
            symbol = self._random.choice(list(self._prices))
            held = portfolio.shares.get(symbol, 0)
            affordable = int(portfolio.cash * 0.3 / self._prices[symbol])
            side = "sell" if held and (not affordable or self._random.random() < 0.45) else "buy"
            most = held if side == "sell" else affordable
            if most < 1:
                continue
            self._orders += 1
            order_id = f"order-{self._orders:06}"
            self._open.append(_Order(user, order_id, symbol, side, self._random.randint(1, most)))

    def _fill_orders(self) -> Iterator[Event]:
        for order in list(self._open):
            if self._random.random() >= _FILLS_PER_TICK:
                continue
            left = order.qty - order.filled
            part = left if self._random.random() < 0.6 else self._random.randint(1, left)
            price = self._prices[order.symbol]
            portfolio = self._portfolios[order.user_id]
            sign = 1 if order.side == "buy" else -1
            held = portfolio.shares.get(order.symbol, 0)
            part = min(part, held) if sign < 0 else part  # two orders may sell the same shares
            if part:
                portfolio.cash -= sign * part * price
                portfolio.shares[order.symbol] = held + sign * part
                order.filled += part
                order.paid += part * price
                yield order_executed(
                    self._stamp(),
                    user_id=order.user_id,
                    order_id=order.order_id,
                    symbol=order.symbol,
                    side=order.side,
                    qty=order.qty,
                    filled_qty=order.filled,
                    filled_avg_price=f"{order.paid / order.filled:.2f}",
                )
            if not part or order.filled == order.qty:
                self._open.remove(order)

    def _look_at_risks(self) -> Iterator[Event]:
        for user, portfolio in self._portfolios.items():
            worth = {symbol: shares * self._prices[symbol] for symbol, shares in portfolio.shares.items()}
            total = portfolio.cash + sum(worth.values())
            portfolio.peak = max(portfolio.peak, total)
            if total < portfolio.peak * (1 - _DRAWDOWN):
                yield self._risk(user, "drawdown", "high", f"down {1 - total / portfolio.peak:.1%} from its peak")
                portfolio.peak = total
            largest = max(worth, key=lambda symbol: worth[symbol], default=None)
            share = worth[largest] / total if largest else 0.0
            if largest and share > _CONCENTRATION and portfolio.warned_of != largest:
                yield self._risk(user, "concentration", "medium", f"{largest} is {share:.0%} of the portfolio")
                portfolio.warned_of = largest
            elif share < _CONCENTRATION:
                portfolio.warned_of = None

    def _risk(self, user: str, risk_type: str, severity: str, message: str) -> Event:
        return risk_alert(self._stamp(), user_id=user, risk_type=risk_type, severity=severity, message=message)

    def _stamp(self) -> Stamp:
        return Stamp(UUID(int=self._random.getrandbits(128), version=4), self._now())


async def send(brokers: str, day: TradingDay, stop: asyncio.Event) -> int:
    """Send a tick's events every TICK_SECONDS until `stop`; how many. Each tick's are acknowledged
    before the next. Raises what aiokafka raises, TimeoutError included."""
    sent = 0
    producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all")
    await producer.start()
    try:
        while not stop.is_set():
            acknowledgements = [await producer.send(event.topic, event.value, key=event.key) for event in day.tick()]
            async with asyncio.timeout(_SEND_SECONDS):
                await asyncio.gather(*acknowledgements)
            sent += len(acknowledgements)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_SECONDS)
    finally:
        async with asyncio.timeout(_SEND_SECONDS):
            await producer.stop()
    return sent


async def _run(brokers: str, users: Sequence[str], seed: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    day = TradingDay(users, Random(seed), lambda: datetime.now(UTC))
    print(f"sent {await send(brokers, day, stop)} events")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.simulator", description=__doc__)
    parser.add_argument("--brokers", required=True, help="host:port of the Kafka brokers")
    parser.add_argument("--users", default="user-123", help="user ids, separated by commas")
    parser.add_argument("--seed", type=int, help="the same seed makes the same day")
    options = parser.parse_args()
    asyncio.run(_run(options.brokers, options.users.split(","), options.seed))


if __name__ == "__main__":
    main()
