"""What a redrive has done so far, in numbers and in words. Pure."""

from collections import Counter
from dataclasses import dataclass, field

from relay.letters import Kind


def looking(read: int, total: int) -> str:
    """One line while a run looks for the bookmarks: how many offsets of all that there are were read."""
    return f"looking for what was put back already: {_read(read, total)}"


def _read(read: int, total: int) -> str:
    percent = 100 * read // total if total else 100
    return f"read {read} of {total} ({percent} %)"


@dataclass(slots=True)
class Tally:
    """Counts of one run. `total` is how many offsets there are to read, `read` how many of them were."""

    total: int
    read: int = 0
    put_back: Counter[Kind] = field(default_factory=Counter)
    stuck: Counter[Kind] = field(default_factory=Counter)
    foreign: int = 0
    left: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether everything that was chosen could be put back."""
        return not self.stuck and not self.foreign

    def progress(self, seconds: float) -> str:
        """One line while it runs, `seconds` after it began."""
        count = self.put_back.total()
        rate = count / seconds if seconds > 0 else 0.0
        return f"{_read(self.read, self.total)}, put back {count}, {rate:.0f} a second"

    def table(self, *, is_dry_run: bool) -> list[str]:
        """Lines for the end: a row for each kind that there is."""
        kinds = sorted({*self.put_back, *self.stuck})
        if not kinds and not self.foreign:
            lines = ["nothing to put back"]
        else:
            rows = [("topic", "reason", "to put back" if is_dry_run else "put back", "cannot be")]
            rows += [(kind.topic, kind.reason, str(self.put_back[kind]), str(self.stuck[kind])) for kind in kinds]
            if self.foreign:
                rows.append(("(not a relay's letter)", "", "0", str(self.foreign)))
            rows.append(("together", "", str(self.put_back.total()), str(self.stuck.total() + self.foreign)))
            widths = [max(len(row[column]) for row in rows) for column in range(4)]
            lines = [
                f"{topic:{widths[0]}}  {reason:{widths[1]}}  {count:>{widths[2]}}  {stuck:>{widths[3]}}"
                for topic, reason, count, stuck in rows
            ]
        if self.left:
            lines.append(f"{self.left} of other kinds were passed over and stay for another run")
        return lines
