"""`jetmem health`, `migrate`, `prepare-model` when all is not well; test_deploy.py runs them when it is."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jetmem.adapters.rocks import Rocks
from jetmem.cli import app
from jetmem.index.rows import FAMILIES as ROWS
from jetmem.index.rows import FORMAT as INDEX_FORMAT
from jetmem.persist.record import FAMILIES, FORMAT
from jetmem.runtime.settings import SettingsError


class Sick(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"healthy": False, "detail": "3 messages wait and none was handled for 40 s"}).encode()
        self.send_response(503 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def sick() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sick) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def jetmem(*arguments: str, **environ: str) -> Result:
    kept = {name: None for name in os.environ if name.startswith("JETMEM_")}
    return CliRunner().invoke(app, list(arguments), env={**kept, **environ})


def test_who_is_not_well_is_told_with_why(sick: int) -> None:
    for result in (jetmem("health", JETMEM_HTTP_PORT=str(sick)), jetmem("health", "--port", str(sick))):
        assert (result.exit_code, result.stderr) == (1, "3 messages wait and none was handled for 40 s\n")


def test_who_does_not_listen_yet_is_starting() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Sick) as server:
        port = server.server_address[1]
    result = jetmem("health", "--port", str(port))
    told = f"starting, or not there: nothing healthy listens on 127.0.0.1:{port} yet\n"
    assert (result.exit_code, result.stderr) == (1, told)


def test_it_is_asked_where_it_listens(sick: int) -> None:
    assert jetmem("health", JETMEM_HTTP_HOST="0.0.0.0", JETMEM_HTTP_PORT=str(sick)).exit_code == 1
    elsewhere = jetmem("health", JETMEM_HTTP_HOST="127.0.0.2", JETMEM_HTTP_PORT=str(sick))
    assert elsewhere.stderr.startswith("starting, or not there: nothing healthy listens on 127.0.0.2:")


def test_without_a_port_there_is_nobody_to_ask() -> None:
    assert isinstance(jetmem("health").exception, SettingsError)


def migrate(stage: str, data: Path) -> tuple[int, str, str]:
    """In a process of its own: it sets up logging."""
    command = [sys.executable, "-P", "-m", "jetmem", "migrate", stage, "--data", str(data)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JETMEM_")}
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_store_of_a_newer_version_or_in_use_is_refused(tmp_path: Path) -> None:
    Rocks(tmp_path / "persist", FAMILIES, format_version=FORMAT).close()
    assert migrate("persist", tmp_path) == (0, f"persist: the store in {tmp_path} has this version's format\n", "")
    held = Rocks(tmp_path / "persist", FAMILIES, format_version=FORMAT)
    try:
        code, _, said = migrate("persist", tmp_path)
    finally:
        held.close()
    assert code == 1 and "in use by another process" in said
    Rocks(tmp_path / "index" / "rows", ROWS, format_version=INDEX_FORMAT + 1).close()
    code, _, said = migrate("index", tmp_path)
    assert code == 2 and f"has format {INDEX_FORMAT + 1}, newer than {INDEX_FORMAT}; use a newer jetmem" in said


def test_who_keeps_nothing_has_nothing_to_migrate(tmp_path: Path) -> None:
    assert jetmem("migrate", "query", "--data", str(tmp_path)).stdout == "query keeps nothing\n"
    assert isinstance(jetmem("migrate", "nonsense").exception, SettingsError)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_prepared_where_it_is_told() -> None:
    assert isinstance(jetmem("prepare-model").exception, SettingsError)
