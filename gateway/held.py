"""What is held for one client whose socket takes no more: in order, and of a conflated type only the newest. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice


@dataclass(slots=True)
class _Newest:
    """The newest frame of a type, and those that it took the place of."""

    place: int
    notice_place: int | None = None
    dropped: int = 0


class Held:
    """Frames that wait. Their bound is their holder's, who knows `size_bytes`."""

    __slots__ = ("_frames", "_newest", "_next", "size_bytes")

    def __init__(self) -> None:
        self._frames: dict[int, bytes] = {}
        """By their places, which rise."""
        self._next = 0
        self._newest: dict[bytes, _Newest] = {}
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, frame: bytes) -> None:
        """Hold `frame` behind all others."""
        self._put(self._next, frame)
        self._next += 1

    def add_newest(self, type_: bytes, frame: bytes, notice: Callable[[int], bytes]) -> bool:
        """Hold `frame` behind all others, and none of its type but this. Gives whether another was dropped for it.

        Where the first was dropped, `notice(dropped)` stands from then on: how many were, up to `frame`.
        """
        newest = self._newest.get(type_)
        is_held = newest is not None and newest.place in self._frames
        if newest is None or not is_held:
            newest = self._newest[type_] = _Newest(self._next)
        else:
            if newest.notice_place in self._frames:
                self._put(newest.place, b"")
            else:
                newest.notice_place, newest.dropped = newest.place, 0
            newest.dropped += 1
            assert newest.notice_place is not None
            self._put(newest.notice_place, notice(newest.dropped))
            newest.place = self._next
        self.add(frame)
        return is_held

    def take(self, limit_bytes: int) -> bytes:
        """The first frames joined, as many as stay within `limit_bytes` together, at least one. They are not held
        any more."""
        count = size = 0
        for frame in self._frames.values():
            size += len(frame)
            if size > limit_bytes and count:
                break
            count += 1
        taken = [self._frames.pop(place) for place in list(islice(self._frames, count))]
        data = b"".join(taken)
        self.size_bytes -= len(data)
        return data

    def _put(self, place: int, frame: bytes) -> None:
        """The frame at a place is `frame` now; with nothing in it there is none."""
        self.size_bytes += len(frame) - len(self._frames.get(place, b""))
        if frame:
            self._frames[place] = frame
        else:
            self._frames.pop(place, None)
