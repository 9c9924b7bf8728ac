"""Leaves a socket."""

import socket

SOCKET = socket.socket()
