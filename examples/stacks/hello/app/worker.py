"""Asks the web whether it is well, and the store for the count, every five seconds."""

import os
import time
import urllib.request

from client import ask

while True:
    with urllib.request.urlopen(f"http://{os.environ['WEB']}/health", timeout=5) as answer:
        state = answer.read().decode().strip()
    print(f"worker: web is {state}, {ask(do='get', key='visits')} visits", flush=True)
    time.sleep(5)
