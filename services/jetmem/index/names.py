"""Numbers of sessions, positions in them, and authors: given in the order of the log, dropped with the last user."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jetmem.domain import keys
from jetmem.index.rows import AuthorRow, Doc, Rows, SessionRow, author_key, prefix
from jetmem.index.tenants import Tenant
from jetmem.runtime.store import WriteSet

_encode = msgspec.msgpack.Encoder().encode
#: Places looked at in one go for the newest document that is left of a session.
_STEP = 64


class Names:
    """Changes tenants' counters; `flush` puts what changed into the batch. Writer thread only."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._tenants: dict[str, Tenant] = {}
        self._sessions: set[tuple[str, str, str]] = set()
        self._authors: set[tuple[str, str]] = set()

    def number(self, tenant: Tenant, agent: str, session: str, author: str) -> tuple[int, int, int]:
        """(session number, position, author's number) of one new document."""
        held = tenant.sessions.get((agent, session))
        if held is None:
            held = SessionRow(tenant.row.sessions)
            tenant.row.sessions += 1
            tenant.sessions[(agent, session)] = held
        held.given += 1
        held.newest = held.given
        held.docs += 1
        tenant.newest[held.sid] = held.newest
        who = tenant.authors.get(author)
        if who is None:
            who = AuthorRow(author, tenant.row.authors)
            tenant.row.authors += 1
            tenant.name_author(who)
        who.docs += 1
        tenant.row.docs += 1
        self._tenants[tenant.name] = tenant
        self._sessions.add((tenant.name, agent, session))
        self._authors.add((tenant.name, author))
        return held.sid, held.given, who.number

    def drop(self, tenant: Tenant, docs: Sequence[Doc]) -> None:
        """Count documents out; a name without documents goes too."""
        gone = {(doc.sid, doc.position) for doc in docs}
        for doc in docs:
            held = tenant.sessions[(doc.agent, doc.session)]
            held.docs -= 1
            who = tenant.authors[doc.author]
            who.docs -= 1
            tenant.row.docs -= 1
            if not held.docs:
                del tenant.sessions[(doc.agent, doc.session)]
                tenant.newest.pop(doc.sid, None)
            if not who.docs:
                tenant.unname_author(doc.author)
            self._sessions.add((tenant.name, doc.agent, doc.session))
            self._authors.add((tenant.name, doc.author))
        for agent, session in {(doc.agent, doc.session) for doc in docs}:
            left = tenant.sessions.get((agent, session))
            if left is not None and (left.sid, left.newest) in gone:
                left.newest = self._newest(tenant.name, left, gone)
                tenant.newest[left.sid] = left.newest
        self._tenants[tenant.name] = tenant

    def _newest(self, tenant: str, session: SessionRow, gone: set[tuple[int, int]]) -> int:
        end = session.newest
        while end > 0:
            span = range(max(0, end - _STEP), end)
            found = self._rows.places(tenant, [(session.sid, position) for position in span])
            for position, rseq in zip(reversed(span), reversed(found), strict=True):
                if rseq and (session.sid, position) not in gone:
                    return position
            end = span.start
        return -1

    def touch(self, tenant: Tenant) -> None:
        """The tenant's own counters changed."""
        self._tenants[tenant.name] = tenant

    def flush(self, batch: WriteSet) -> None:
        """Put every changed row into the batch, once."""
        for name, agent, session in self._sessions:
            key = keys.under(prefix(name), agent, session)
            row = self._tenants[name].sessions.get((agent, session))
            if row is None:
                batch.delete("sessions", key)
            else:
                batch.put("sessions", key, _encode(row))
        for name, author in self._authors:
            key = author_key(name, author)
            who = self._tenants[name].authors.get(author)
            if who is None:
                batch.delete("authors", key)
            else:
                batch.put("authors", key, _encode(who))
        for name, tenant in self._tenants.items():
            batch.put("tenants", prefix(name), _encode(tenant.row))
        self._tenants.clear()
        self._sessions.clear()
        self._authors.clear()
