"""Who a client is: the file of its key, read for nats-py.

Two kinds of file: the seed of an nkey, one line as `jetmem tenant add` writes it, and NATS credentials, a JWT and a
seed. The server knows public keys only, and a seed never leaves this process: it signs what the server asks.
"""

from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec

from jetmem.client.errors import Refused
from jetmem_schemas import subjects

_JWT: Final = "BEGIN NATS USER JWT"
#: The middle one of three parts.
_CLAIMS: Final = re.compile(r"[\w-]+\.([\w-]+)\.[\w-]+")
_SEED: Final = re.compile(r"SU[A-Z2-7]{56}")
_RAW_BYTES: Final = 32


class Identity(msgspec.Struct, frozen=True):
    """A key file. `inbox` is the prefix where its answers come, "" for NATS credentials, whose JWT says."""

    path: str
    inbox: str

    def options(self) -> dict[str, Any]:
        """Arguments of `nats.connect`; the file is read again with each connection."""
        if self.inbox:
            return {"nkeys_seed": self.path, "inbox_prefix": self.inbox}
        return {"user_credentials": self.path}


class _Claims(msgspec.Struct):
    """Of a JWT, what we look at."""

    exp: int = 0


def identity(path: str) -> Identity:
    """What a key file holds.

    Raises:
        Refused: `bad_creds`: it cannot be read, is neither kind, or the package nkeys is missing.
    """
    _nkeys()
    text = _read(path)
    if _JWT in text:
        return Identity(path, "")
    if not _SEED.fullmatch(text):
        raise Refused("bad_creds", f"{path} holds neither the seed of a user's nkey nor NATS credentials", "creds")
    return Identity(path, subjects.inbox(public_key(text)))


def expiry(path: str) -> int | None:
    """When credentials expire (epoch seconds), as their JWT says; None for never, as of a seed.

    Raises:
        Refused: `bad_creds`: the file cannot be read, or holds no JWT that can.
    """
    text = _read(path)
    if _JWT not in text:
        return None
    claims = _CLAIMS.search(text)
    body = claims[1] if claims else ""
    try:
        said = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims)
    except ValueError:
        raise Refused("bad_creds", f"{path} holds credentials that cannot be read", "creds") from None
    return said.exp or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise Refused("bad_creds", f"no credentials file {path}", "creds") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("bad_creds", f"{path} cannot be read: {type(error).__name__}", "creds") from None


def new_seed() -> str:
    """The seed of a new user's key.

    Raises:
        Refused: The package nkeys is missing.
    """
    nkeys = _nkeys()
    seed: bytes = nkeys.encode_seed(secrets.token_bytes(_RAW_BYTES), nkeys.PREFIX_BYTE_USER)
    return seed.decode().rstrip("=")


def public_key(seed: str) -> str:
    """The public key of a seed.

    Raises:
        Refused: `bad_creds`: it is no seed, or the package nkeys is missing.
    """
    nkeys = _nkeys()
    try:
        public: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    except Exception as error:  # nkeys' own, none of which says more
        raise Refused("bad_creds", "this is no seed of an nkey", "creds") from error
    return public.decode()


def _nkeys() -> Any:
    try:
        import nkeys
    except ImportError:
        raise Refused("bad_creds", "keys need the package nkeys: pip install 'jetmem[nkeys]'", "creds") from None
    return nkeys
