"""Health probe: ends with 0 when something listens on HOST:PORT."""

import socket
import sys

host, _, port = sys.argv[1].partition(":")
socket.create_connection((host, int(port)), timeout=2).close()
