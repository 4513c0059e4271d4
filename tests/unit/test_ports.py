"""Ports for servers of ours."""

import socket
from pathlib import Path

from jetmem.adapters import processes


def test_ports_are_different_free_and_not_those_of_outgoing_connections():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as out:
        outgoing = out.getsockname()[1]
    ports = processes.free_ports(50)
    assert len(set(ports)) == 50
    assert all(10_000 <= port < 32_768 for port in ports) or max(ports) < outgoing
    assert all(processes.port_is_free(port) for port in ports)


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        offered = iter([taken, taken, 12_345, 12_345, 12_346])
        monkeypatch.setattr(processes._random, "randrange", lambda *_: next(offered))
        monkeypatch.setattr(processes, "port_is_free", lambda port, host: port != taken)
        assert processes.free_ports(2) == [12_345, 12_346]


def test_where_the_kernel_does_not_say_or_leaves_no_room_its_default_holds(monkeypatch, tmp_path):
    for text in (None, "", "1024 65535\n", "x y"):
        path = tmp_path / "range"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(processes, "_OUTGOING_PORTS", Path(path))
        assert processes._first_outgoing() == 32_768
    path.write_text("20000\t60999\n")
    assert processes._first_outgoing() == 20_000
