"""A name server for load balancers that look up their replicas, as Docker's and Kubernetes' are."""

import asyncio
import socket
import struct

_HEADER = struct.Struct("!HHHHHH")
_ANSWER_OF_A = 0x8580  # a response, authoritative, with what was asked for
_A, _IN = 1, 1
_TTL_SECONDS = 1


class Names(asyncio.DatagramProtocol):
    """Answers a question for A records (RFC 1035) with `addresses`, whatever the name; others have none."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.port = 0
        self._transport: asyncio.DatagramTransport

    async def start(self) -> "Names":
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    def close(self) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        number, _, questions, *_ = _HEADER.unpack_from(data)
        end = data.index(b"\0", _HEADER.size) + 5  # the name, its type and class
        type_, _ = struct.unpack_from("!HH", data, end - 4)
        addresses = self.addresses if questions == 1 and type_ == _A else []
        answers = b"".join(
            # The name is that at offset 12, in the question.
            struct.pack("!HHHIH", 0xC000 | _HEADER.size, _A, _IN, _TTL_SECONDS, 4) + socket.inet_aton(address)
            for address in addresses
        )
        header = _HEADER.pack(number, _ANSWER_OF_A, questions, len(addresses), 0, 0)
        self._transport.sendto(header + data[_HEADER.size : end] + answers, addr)
