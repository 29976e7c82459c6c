"""The demo's line a second, and its summary. No I/O."""

from demo.oracle import Counts, Latencies
from demo.status import Figures


def live_line(counts: Counts, recent: Latencies, figures: Figures, seconds: float) -> str:
    """How it goes: `recent` are the latencies since the last line, everything else since the start."""
    return (
        f"{seconds:5.0f} s  events in {counts.events:,}  published {_or_dash(figures.published)}  "
        f"connections {_or_dash(figures.connections)}  delivered {counts.delivered:,}  "
        f"p50 {_ms(recent, 50)}  p99 {_ms(recent, 99)}  lost {counts.lost}  doubled {counts.doubled}"
        + (f"  OTHER FAULTS {counts.faults - counts.lost - counts.doubled}" if _has_others(counts) else "")
    )


def summary(counts: Counts, latencies: Latencies, seconds: float) -> str:
    """What it came to, over several lines."""
    faults = ", ".join(
        f"{name} {getattr(counts, name)}" for name in ("lost", "doubled", "out_of_order", "altered", "misdirected")
    ).replace("_", " ")
    return (
        f"{counts.events:,} events in {seconds:.0f} s, {counts.delivered:,} deliveries to watching clients\n"
        f"from event to client: p50 {_ms(latencies, 50)}, p99 {_ms(latencies, 99)}, "
        f"longest {_ms(latencies, 100)}\n"
        f"{faults}"
    )


def verdict(counts: Counts, *, must_deliver: bool) -> str | None:
    """What was wrong, or None. `must_deliver`: nothing delivered is wrong too."""
    if counts.faults:
        return f"{counts.faults} deliveries were not exactly once, in order, to the right person, byte for byte"
    if must_deliver and not counts.delivered:
        return "nothing was delivered"
    return None


def _has_others(counts: Counts) -> bool:
    return counts.faults > counts.lost + counts.doubled


def _or_dash(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _ms(latencies: Latencies, percent: float) -> str:
    value = latencies.percentile_ms(percent)
    return "-" if value is None else f"{value:.1f} ms"
