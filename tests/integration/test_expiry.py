"""What the connection to a broker rests on, and when it expires: certificates, authorities, credentials."""

import asyncio
import base64
import json
import ssl
import time

import pytest
import uvloop

from harness.broker import Broker
from harness.certificates import certified
from jetmem.adapters.expiry import ExpiryWatch
from jetmem.client.errors import Refused
from jetmem.client.keys import expiry, new_seed
from jetmem.runtime import metrics
from jetmem.runtime.clock import SystemClock
from jetmem.runtime.health import Health
from jetmem.runtime.settings import Common

DAY_S = 86_400


def credentials(path, claims):
    parts = [json.dumps(each).encode() for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
    token = ".".join([*(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts), "c2ln"])
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{new_seed()}\n------END USER NKEY SEED------\n"
    )
    return str(path)


@pytest.mark.parametrize(("claims", "expected"), [({"exp": 1_900_000_000, "sub": "U"}, 1_900_000_000), ({}, None)])
def test_credentials_expire_when_their_jwt_says(tmp_path, claims, expected):
    assert expiry(credentials(tmp_path / "a.creds", claims)) == expected


def test_a_seed_never_expires(tmp_path):
    path = tmp_path / "a.nk"
    path.write_text(new_seed())
    assert expiry(str(path)) is None


@pytest.mark.parametrize("text", ["-----BEGIN NATS USER JWT-----\nnone\n", "-----BEGIN NATS USER JWT-----\na.b.c\n"])
def test_what_is_no_jwt_is_refused(tmp_path, text):
    path = tmp_path / "a.creds"
    path.write_text(text)
    with pytest.raises(Refused, match="cannot be read"):
        expiry(str(path))
    with pytest.raises(Refused, match="no credentials file"):
        expiry(str(tmp_path / "none"))


def left_days(stage):
    """By what expires; nothing for what does not."""
    (family,) = metrics.expires.collect()
    found = {each.labels["of"]: each.value for each in family.samples if each.labels["stage"] == stage}
    return {of: round((at - time.time()) / DAY_S) for of, at in found.items()}


def watch(name, common):
    return ExpiryWatch(name, common, Health(name, SystemClock()))


def test_a_brokers_certificate_and_its_authority_are_seen_also_once_they_are_renewed(tmp_path):
    made = certified(tmp_path, days=2, authority_days=90)

    async def run(broker):
        watched = watch("secured", Common(server=f"{broker.url},{broker.url}", tls_ca=str(made.authority)))
        await watched.look()
        assert left_days("secured") == {"certificate": 2, "authority": 90}
        certified(tmp_path, days=30)
        broker.reload(made.tls)
        await watched.look()
        assert left_days("secured") == {"certificate": 30, "authority": 90}
        (tmp_path / "authority.pem").rename(tmp_path / "old.pem")
        certified(tmp_path, days=60, authority_days=400)  # of the same name
        (tmp_path / "both.pem").write_text((tmp_path / "old.pem").read_text() + made.authority.read_text())
        broker.reload(made.tls)
        with pytest.raises(ssl.SSLError):
            await watch("secured", Common(server=broker.url, tls_ca=str(tmp_path / "old.pem"))).look()
        assert left_days("secured") == {"certificate": 30, "authority": 90}, "what was seen stays"
        await watch("secured", Common(server=broker.url, tls_ca=str(tmp_path / "both.pem"))).look()
        assert left_days("secured") == {"certificate": 60, "authority": 400}

    with Broker(accounts=made.tls) as broker:
        uvloop.run(run(broker))  # as stages run


def test_without_tls_only_credentials_expire(tmp_path):
    seed = tmp_path / "a.nk"
    seed.write_text(new_seed())
    held = credentials(tmp_path / "a.creds", {"exp": int(time.time()) + 7 * DAY_S})
    with Broker() as broker:
        for name, creds, expected in (("none", "", {}), ("seed", str(seed), {}), ("jwt", held, {"credentials": 7})):
            asyncio.run(watch(name, Common(server=broker.url, creds=creds)).look())
            assert left_days(name) == expected
        credentials(tmp_path / "a.creds", {})
        asyncio.run(watch("jwt", Common(server=broker.url, creds=held)).look())
        assert left_days("jwt") == {}, "they were replaced by some that never expire"
