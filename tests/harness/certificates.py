"""Certificates for a broker of a test, made with openssl."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certified(NamedTuple):
    """Files of a broker's certificate, its key, and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def tls(self) -> str:
        """What a nats-server's configuration says of it."""
        return f'tls {{ cert_file: "{self.certificate}", key_file: "{self.key}" }}\n'


def certified(folder: Path, *, days: int = 2, authority_days: int = 3650) -> Certified:
    """A certificate of 127.0.0.1 that lasts so many days, by an authority kept in the folder; made anew when called."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certified(folder / "server.pem", folder / "server-key.pem", folder / "authority.pem")
    secret = folder / "authority-key.pem"
    signed = ["-CA", str(made.authority), "-CAkey", str(secret), "-addext", "basicConstraints=critical,CA:FALSE"]
    if not made.authority.exists():
        _openssl("jetmem test authority", authority_days, made.authority, secret)
    _openssl("jetmem test", days, made.certificate, made.key, "-addext", "subjectAltName=IP:127.0.0.1", *signed)
    return made


def _openssl(name: str, days: int, certificate: Path, key: Path, *more: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", str(days), "-subj", f"/CN={name}"]
    command += ["-out", str(certificate), "-keyout", str(key), *more]
    subprocess.run(command, check=True, capture_output=True)
