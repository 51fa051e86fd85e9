"""The agent that an actor runs on a device node, without a cluster."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

ray = pytest.importorskip("ray")


def test_its_log_does_not_stop_it(monkeypatch):
    """A pipe holds 64 KiB: an agent whose lines nobody reads waits for ever once it is full."""
    from sousvit.search.executors.ray.device import DeviceNode

    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    node = DeviceNode("a token of some length")
    try:
        port = urlsplit(node.serve()).port
        for _ in range(250):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                line.sendall(f"GET /{'a' * 400} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert line.recv(100).startswith(b"HTTP/1."), "no answer"
    finally:
        node.close()
