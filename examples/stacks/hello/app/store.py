"""A key-value service: one JSON request a line over TCP, kept in one file. `store.py FILE`, port 6399."""

import json
import os
import socketserver
import sys
import threading

PATH = sys.argv[1]
LOCK = threading.Lock()


def load():
    try:
        with open(PATH, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def save(data):
    with open(PATH + ".new", "w", encoding="utf-8") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(PATH + ".new", PATH)


DATA = load()


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            request = json.loads(line)
            with LOCK:
                key = request["key"]
                if request["do"] == "increment":
                    DATA[key] = DATA.get(key, 0) + 1
                    save(DATA)
                elif request["do"] == "setdefault":
                    DATA.setdefault(key, request["value"])
                    save(DATA)
                answer = DATA.get(key)
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


print(f"store: {len(DATA)} keys from {PATH}", flush=True)
with Server(("", 6399), Handler) as server:
    server.serve_forever()
