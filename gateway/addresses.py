"""How many sockets an address has on this replica. Pure."""

from collections import Counter


class Addresses:
    """Counts sockets by address. `most` is what one may have; 0 is no limit, and nothing is counted."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._sockets: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sockets)

    def take(self, address: str) -> int:
        """Count one more. Gives how many above the limit the address has now; less than 1 is fine."""
        self._sockets[address] += 1
        return self.excess(address)

    def excess(self, address: str) -> int:
        """How many above the limit the address has."""
        return self._sockets[address] - self.most

    def release(self, address: str) -> None:
        """Count one less."""
        self._sockets[address] -= 1
        if self._sockets[address] <= 0:
            del self._sockets[address]
