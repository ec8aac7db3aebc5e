"""What the services use to talk to the store."""

import json
import os
import socket

HOST, _, PORT = os.environ["STORE"].partition(":")


def ask(**request):
    with (
        socket.create_connection((HOST, int(PORT)), timeout=5) as sock,
        sock.makefile("rw", encoding="utf-8") as stream,
    ):
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        return json.loads(stream.readline())
