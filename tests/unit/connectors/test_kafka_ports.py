"""The ports that a local broker gets."""

import socket
from pathlib import Path
from random import Random

import pytest

from eventcore_connectors.kafka.local.ports import free_ports

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_ports_are_free_and_each_another_one():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))


def test_a_port_that_somebody_has_is_left_to_them():
    (wanted,) = free_ports(1, randomness=Random(1))
    with socket.socket() as server:
        server.bind(("127.0.0.1", wanted))
        assert wanted not in free_ports(5, randomness=Random(1))


@pytest.mark.skipif(not OUTGOING.exists(), reason="Linux says which ports outgoing connections get")
def test_no_outgoing_connection_can_take_one_before_the_server_has_it():
    first, last = map(int, OUTGOING.read_text().split())
    assert not [port for port in free_ports(200) if first <= port <= last]
