"""What no library would send."""

import socket

from harness.waiting import DEADLINE_S


def raw_publish(port: int, subject: str | bytes, headers: bytes, payload: bytes) -> None:
    """Publish with headers as they are, and wait until the server has read it."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock, sock.makefile("rwb") as wire:
        wire.readline()
        wire.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        where = subject.encode() if isinstance(subject, str) else subject
        wire.write(b"HPUB %s %d %d\r\n" % (where, len(headers), len(headers) + len(payload)))
        wire.write(headers + payload + b"\r\nPING\r\n")
        wire.flush()
        while line := wire.readline():
            if line.startswith((b"PONG", b"-ERR")):
                return


def raw_request(port: int, subject: bytes, headers: bytes, payload: bytes, deadline_s: float = DEADLINE_S) -> bytes:
    """Ask with headers as they are; the reply off the wire, with its headers."""
    with socket.create_connection(("127.0.0.1", port), timeout=deadline_s) as sock, sock.makefile("rwb") as wire:
        wire.readline()
        wire.write(b'CONNECT {"verbose":false,"headers":true}\r\nSUB raw.reply 1\r\n')
        sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
        wire.write(b"HPUB %s raw.reply %s\r\n" % (subject, sizes) + headers + payload + b"\r\n")
        wire.flush()
        while line := wire.readline():
            if line.startswith((b"MSG", b"HMSG")):
                return wire.read(int(line.split()[-1]))
    raise AssertionError("the connection was closed")


#: Header blocks, from odd to hostile; the last three end nats-py's read loop in silence.
HEADERS = (
    b"NATS/1.0\r\nno colon here\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\r\n",
    b"NATS/1.0\r\nX-\xff: \xfe\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0\r\nStatus: 409\r\nDescription: Consumer Deleted\r\n\r\n",
    b"NATS/1.0\r\nX-Bad Name: y\r\nX-Long: " + b"z" * 60_000 + b"\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0",
    b"abcd",
)
DEADLY = HEADERS[-3:]

#: Subjects that the broker takes and no library would send.
SUBJECTS = (
    b"mem.odd.event.\xff\xfe.s1",
    b"mem.\xff.event.alice.s1",
    b"mem.odd.event.alice.\xc3",
    b"mem.odd.event.alice.s1.\xff",
    b"mem.odd.event.*.s1",
    b"mem.*.event.alice.s1",
    b"mem.odd.event.alice.>",
)
