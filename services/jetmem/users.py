"""Users of the broker: one file of its configuration, written by us alone, and a file for each one's key.

The configuration names public keys and what each may do; it holds no secret. A line of JSON for each user says who it
is, and everything else is made from those lines, so that the file is the only place where users are kept. It has every
stage, whether or not one was asked for: a stage that is added gets a key with the next change.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from jetmem import rights
from jetmem.client.keys import new_seed, public_key
from jetmem.rights import Rights, Role
from jetmem.runtime.settings import SettingsError
from jetmem_schemas import subjects

#: Included by the server's configuration, as compose/nats.conf does.
FILE: Final = Path("nats.d/users.conf")
#: Seeds, one file each; those of stages apart from those that are handed out.
KEYS: Final = Path("keys")
_SERVICES: Final = "services"
_TENANTS: Final = "tenants"
_MARK: Final = "#user "
_HEAD: Final = """\
# Users of jetmem, written by `jetmem tenant add` and `jetmem tenant revoke`; what is changed by hand is lost.
# Public keys and rights, no secrets. nats-server takes it with a reload (SIGHUP).
"""


_NOBODY: Final = f"""\
# No users yet: whoever reaches the port may do everything. `jetmem tenant add` writes this file anew.
accounts {{
{rights.SERVICES}: {{
jetstream: enabled
users: [{{"user": "anyone", "password": "anything"}}]
}}
}}
no_auth_user: "anyone"
"""


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """One user: a stage or the operator by `service`, else a tenant's.

    Attributes:
        key: Public nkey.
        service: Name of a stage, or `rights.OPERATOR`.
        tenant: Whose.
        role: What it may do.
        agent: The only agent it is; "" for none in particular.
    """

    key: str
    service: str = ""
    tenant: str = ""
    role: Role = "reader"
    agent: str = ""

    @property
    def name(self) -> str:
        """As people and files call it; no two users have the same."""
        return self.service or ".".join(filter(None, (self.tenant, self.role, self.agent)))

    @property
    def rights(self) -> Rights:
        """What it may do."""
        return rights.of_service(self.service) if self.service else rights.of_user(self.role, self.tenant, self.agent)


class Users:
    """The users of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / FILE

    def read(self) -> list[User]:
        """Everyone, services first, then by tenant; none if nobody was ever added.

        Raises:
            SettingsError: The file is not ours or cannot be read.
        """
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{self.file} cannot be read: {type(error).__name__}") from None
        try:
            found = [
                msgspec.json.decode(line.removeprefix(_MARK), type=User)
                for line in text.splitlines()
                if line.startswith(_MARK)
            ]
        except msgspec.MsgspecError as error:
            raise SettingsError(f"{self.file} was not written by jetmem: {error}") from None
        if not found and text != configuration([]):
            raise SettingsError(f"{self.file} was not written by jetmem; move it away")
        known = rights.services()
        return sorted((user for user in found if not user.service or user.service in known), key=_place)

    def add(self, tenant: str, role: Role, agent: str = "") -> tuple[User, list[Path]]:
        """Add a tenant's user, and whichever service has none; the user, and the files of new keys.

        Raises:
            SettingsError: It exists already, or a file cannot be written.
        """
        with self._changing() as users:
            wanted = User("", tenant=tenant, role=role, agent=agent)
            if any(user.tenant and user.name == wanted.name for user in users):
                raise SettingsError(f"there is a user {wanted.name} already; revoke it first to give it a new key")
            made = [*self._services(users), self._made(wanted)]
            users += made
        return made[-1], [self.key_file(user) for user in made]

    def refresh(self) -> list[Path]:
        """Write everyone's rights as this version has them; the files of new keys, of services that had none.

        Raises:
            SettingsError: A file cannot be written.
        """
        with self._changing() as users:
            made = self._services(users)
            users += made
        return [self.key_file(user) for user in made]

    def revoke(self, tenant: str, role: Role | None = None, agent: str | None = None) -> list[User]:
        """Take out the users of a tenant that match; what of them was there.

        Raises:
            SettingsError: A file cannot be written.
        """
        gone = []
        with self._changing() as users:
            for user in list(users):
                if user.tenant == tenant and role in (None, user.role) and agent in (None, user.agent):
                    users.remove(user)
                    gone.append(user)
        for user in gone:
            self.key_file(user).unlink(missing_ok=True)
        return gone

    def key_file(self, user: User) -> Path:
        """Where its seed lies."""
        if user.service == rights.OPERATOR:  # not among those that containers are given
            return self._folder / KEYS / f"{user.name}.nk"
        return self._folder / KEYS / (_SERVICES if user.service else _TENANTS) / f"{user.name}.nk"

    def _services(self, users: Sequence[User]) -> list[User]:
        """Users of services that have none yet."""
        names = {user.service for user in users}
        return [self._made(User("", service=name)) for name in rights.services() if name not in names]

    def _made(self, user: User) -> User:
        seed, path = new_seed(), self.key_file(user)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(seed + "\n")
        return msgspec.structs.replace(user, key=public_key(seed))

    @contextmanager
    def _changing(self) -> Iterator[list[User]]:
        """One change at a time: the list may be changed in the block, and is written at its end, whole."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with (self.file.parent / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                users = self.read()
                yield users
                fresh = self.file.with_name(f".{self.file.name}.new")
                fresh.write_text(configuration(sorted(users, key=_place)), encoding="utf-8")
                fresh.replace(self.file)
        except OSError as error:
            raise SettingsError(f"{error.filename} cannot be written: {error.strerror}") from error


def configuration(users: Sequence[User]) -> str:
    """The part of the server's configuration that has these users; with none it lets everyone in.

    Streams are in the same account with and without users: what was said before there were any stays where it is.
    """
    if not users:
        return _NOBODY
    services = [user for user in users if user.service]
    offered: list[dict[str, Any]] = [{"service": subject} for subject in rights.REQUESTS]
    offered += [{"stream": subject} for subject in rights.HEARD]
    taken: list[dict[str, Any]] = [_import("service", subject) for subject in rights.REQUESTS]
    taken += [_import("stream", subject) for subject in rights.HEARD]
    return "".join(
        (
            _HEAD,
            "accounts {\n",
            f"{rights.SERVICES}: {{\njetstream: enabled\nusers: [\n",
            *map(_entry, services),
            f"]\nexports: {json.dumps(offered)}\n}}\n",
            f"{rights.AGENTS}: {{\nusers: [\n",
            *(_entry(user) for user in users if not user.service),
            f"]\nimports: {json.dumps(taken)}\nmappings: {json.dumps(rights.LED_AWAY)}\n}}\n",
            "}\n",
        )
    )


def _import(kind: str, subject: str) -> dict[str, Any]:
    return {kind: {"account": rights.SERVICES, "subject": subject}}


def _entry(user: User) -> str:
    may = user.rights
    publish = {"allow": may.publish} | ({"deny": may.deny} if may.deny else {})
    subscribe = {"allow": [f"{subjects.inbox(user.key)}.>", *may.subscribe]}
    who = {"nkey": user.key, "permissions": {"publish": publish, "subscribe": subscribe}}
    return f"{_MARK}{msgspec.json.encode(user).decode()}\n{json.dumps(who)}\n"


def _place(user: User) -> tuple[int, str]:
    known = rights.services()
    return known.index(user.service) if user.service else len(known), user.name
