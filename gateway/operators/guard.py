"""Who may act on the admin port. Pure.

Looking is free: the port is for operators. Acting takes ADMIN_TOKEN in a header, and another header that no
page of a foreign site can send without asking first (Fetch section 4.1), which nobody grants; and the Host has
to be one of ours, else a page whose name was made to lead here (DNS rebinding) would be of our own site.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from gateway.admission.locality import host_of
from gateway.admission.refusal import Refusal

HEADER: Final = b"x-notify-admin"

_BEARER: Final = b"bearer "


@dataclass(frozen=True)
class Guard:
    """What is asked of whoever acts."""

    token: bytes | None = None
    """None: nobody may act, unless it `is_open`."""
    is_open: bool = False
    hosts: frozenset[str] = frozenset()
    """Names of the admin port. Addresses, and localhost, need not be among them."""

    @property
    def acts(self) -> str:
        """How acting is: `open`, `token` or `off`."""
        return "open" if self.is_open else "off" if self.token is None else "token"

    def refuse(self, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Why a request that acts is refused; its headers in lower case."""
        if not self._is_known(headers.get(b"host", b"").decode("latin-1")):
            return Refusal(HTTPStatus.FORBIDDEN, "unknown_host", "This Host is not known; name it in ADMIN_HOSTS.")
        if headers.get(HEADER) != b"1":
            return Refusal(HTTPStatus.FORBIDDEN, "no_header", "Send the header X-Notify-Admin: 1.")
        if self.is_open:
            return None
        if self.token is None:
            message = "Nobody may act here: ADMIN_TOKEN is not set (32 characters or more: openssl rand -hex 32)."
            return Refusal(HTTPStatus.FORBIDDEN, "acts_are_off", message)
        said = headers.get(b"authorization", b"")
        if said[: len(_BEARER)].lower() != _BEARER or not hmac.compare_digest(said[len(_BEARER) :], self.token):
            message = "Send Authorization: Bearer with what ADMIN_TOKEN is set to."
            return Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", message)
        return None

    def _is_known(self, authority: str) -> bool:
        host = host_of(authority)
        if host is None:
            return False
        if host == "localhost" or host in self.hosts:
            return True
        try:
            ip_address(host)
        except ValueError:
            return False
        return True
