"""When what the connection to the broker rests on expires, looked at while there is time to renew it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from jetmem.adapters.nats_connect import servers, trusted
from jetmem.client.errors import Refused
from jetmem.client.keys import expiry
from jetmem.runtime import metrics
from jetmem.runtime.health import Health
from jetmem.runtime.settings import Common

#: Whoever renewed something sees it so soon.
_LOOK_EVERY_S: Final = 15.0
_HANDSHAKE_S: Final = 5.0
_DEFAULT_PORT: Final = 4222
#: What asks for TLS in a server's first line.
_TLS: Final = b'"tls_required":true'
#: Spoken over HTTP, where the first line is another: not looked at.
_WEB: Final = frozenset({"ws", "wss"})

_Certificate = Mapping[str, Any]


class ExpiryWatch:
    """Sets `jetmem_expires_timestamp_seconds` for what can expire, and nothing for what cannot: an nkey never does.

    Each look is a handshake of its own with each broker, since a connection keeps the certificate that it began with
    although the broker has a new one. One that has expired cannot be looked at; what was seen before stays.
    """

    def __init__(self, stage: str, common: Common, health: Health) -> None:
        self._stage = stage
        self._common = common
        self._health = health

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except (ssl.SSLError, Refused) as error:  # new connections fail for the same reason
                self._health.failed(error)
            except (OSError, ValueError, TimeoutError):
                pass  # away: the connection itself says so
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Once.

        Raises:
            ssl.SSLError: A broker's certificate is not one that we trust, or no more.
            Refused: The credentials file cannot be read.
            OSError: A broker cannot be reached, or the file of authorities not be read.
            TimeoutError: It does not answer.
            ValueError: A date is none.
        """
        if self._common.creds:
            self._set("credentials", filter(None, [expiry(self._common.creds)]))
        context = trusted(self._common)
        async with asyncio.timeout(_HANDSHAKE_S):
            found = [await presented(url, context) for url in servers(self._common)]
        shown = [certificate for certificate in found if certificate]
        self._set("certificate", map(_not_after, shown))
        if self._common.tls_ca:
            self._set("authority", (signer for each in shown if (signer := _signer(each, context.get_ca_certs()))))

    def _set(self, of: str, times: Iterable[float]) -> None:
        """The first that goes; nothing where none does, any more: else an alert would go on for what was replaced."""
        first = min(times, default=None)
        if first is None:
            metrics.expires.remove(self._stage, of)
        else:
            metrics.expires.labels(self._stage, of).set(first)


async def presented(url: str, context: ssl.SSLContext) -> _Certificate | None:
    """The certificate that a broker shows to who connects, as `ssl` reads it; None if it asks for no TLS.

    Raises:
        ssl.SSLError: It is not trusted.
        OSError: The broker cannot be reached.
    """
    at = urlsplit(url if "://" in url else f"nats://{url}")
    if at.scheme in _WEB or not at.hostname:
        return None
    reader, writer = await asyncio.open_connection(at.hostname, at.port or _DEFAULT_PORT)
    try:
        if _TLS not in await reader.readline():
            return None
        await writer.start_tls(context, server_hostname=at.hostname)
        certificate: _Certificate = writer.get_extra_info("peercert")
        return certificate
    finally:
        writer.transport.abort()  # no farewell: the broker has not been told who we are


def _not_after(certificate: _Certificate) -> float:
    return float(ssl.cert_time_to_seconds(certificate["notAfter"]))


def _signer(certificate: _Certificate, authorities: Iterable[_Certificate]) -> float | None:
    """When the authority of a certificate expires: of several of its name, one renewed, the last.

    None of them has its name if there is one between: then it is that of all which lasts longest.
    """
    known = list(authorities)
    named = [each for each in known if each["subject"] == certificate["issuer"]]
    return max(map(_not_after, named or known), default=None)
