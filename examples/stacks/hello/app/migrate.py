"""One-shot: gives the store its first keys. Ends with 0, which is what `web` waits for."""

from client import ask

version = ask(do="setdefault", key="schema", value=1)
visits = ask(do="setdefault", key="visits", value=0)
print(f"migrate: schema {version}, {visits} visits so far")
