"""Container names and references: the grammar, a random `adjective_surname`, and who is meant by a name or id prefix."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pystack.model.errors import Conflict, InvalidInput, NotFound
from pystack.model.names import NAME

_ADJECTIVES = (  # noqa: SIM905 - as a list it would be a hundred lines
    "able agile amber apt ardent basic blithe bold brave bright brisk calm candid civil clear clever cosmic crisp "
    "daring deft eager early exact fair fleet fluent frank fresh gentle glad golden grand happy hardy humble jolly "
    "keen kind lively loyal lucid lucky mellow merry mild modest neat nimble noble patient plain polite proud quick "
    "quiet rapid ready robust serene sharp silent simple sincere smart solid sound steady stellar sunny swift tidy "
    "upbeat vivid warm wise witty"
).split()
_SURNAMES = (  # noqa: SIM905
    "babbage backus bartik blackwell boole borg carmack cerf church clarke codd curie curry dahl dijkstra easley "
    "engelbart estrin floyd franklin galois gauss germain goldberg gosling haskell hamilton hoare holberton hopper "
    "johnson kahn karp kay kernighan kilby knuth lamarr lamport liskov lovelace mccarthy meitner milner minsky moore "
    "naur neumann noether nygaard pascal perlman pike postel ramanujan ritchie rivest sammet shannon shaw sinclair "
    "spence stallman sutherland tarjan thompson torvalds turing wilkes wilson wing wirth zuse"
).split()


def random_id() -> str:
    """64 hex digits that are not all decimal in the first 12: a short id must never read as a number."""
    while True:
        text = os.urandom(32).hex()
        if not text[:12].isdecimal():
            return text


def random_name() -> str:
    """`adjective_surname`, about six thousand of them; the caller retries or adds digits on a clash."""
    first, second = os.urandom(2), os.urandom(2)
    return (
        f"{_ADJECTIVES[int.from_bytes(first, 'big') % len(_ADJECTIVES)]}_"
        f"{_SURNAMES[int.from_bytes(second, 'big') % len(_SURNAMES)]}"
    )


def check_name(name: str) -> str:
    """`name` without its leading slash. InvalidInput with Docker's message when the grammar does not allow it."""
    name = name.removeprefix("/")
    if not NAME.match(name):
        raise InvalidInput(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name


class NameIndex:
    """Which container has which name, and what a reference means. A name is reserved before its record exists."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}  # name -> id
        self._known: set[str] = set()

    def reserve(self, name: str, container_id: str) -> None:
        """Take `name`; Conflict with Docker's message when another container has it."""
        holder = self._ids.get(name, container_id)
        if holder != container_id:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._ids[name] = container_id

    def reserve_random(self, container_id: str) -> str:
        for attempt in range(64):
            name = random_name() + (str(attempt) if attempt > 5 else "")
            if name not in self._ids:
                self._ids[name] = container_id
                return name
        name = container_id[:12]
        self.reserve(name, container_id)
        return name

    def add(self, container_id: str) -> None:
        """Make the id resolvable: the record is there."""
        self._known.add(container_id)

    def release(self, name: str, container_id: str) -> None:
        if self._ids.get(name) == container_id:
            del self._ids[name]

    def forget(self, container_id: str) -> None:
        self._known.discard(container_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def resolve(self, ref: str) -> str:
        """Full id for a full id, a name (with or without slash) or a unique id prefix, tried in this order."""
        if ref in self._known:
            return ref
        found = self._ids.get(ref.removeprefix("/"), "")
        if found in self._known:
            return found
        matches = [i for i in self._known if i.startswith(ref)] if ref else []
        if len(matches) > 1:
            raise InvalidInput(
                f"multiple IDs found with provided prefix: {ref}", hint="give more digits of the id"
            )
        if not matches:
            raise NotFound(f"No such container: {ref}")
        return matches[0]
