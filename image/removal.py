"""Whether an image may be removed, and what that takes: facts in, a `Removal` or Docker's Conflict out. Pure.

The texts are moby's (`daemon/images/image_delete.go`): clients match on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pystack.image.records import ImageRecord, ImageUser
from pystack.image.references import Reference
from pystack.model.errors import Conflict
from pystack.model.names import short_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """`untag` are canonical references. With `delete` the image goes, too."""

    untag: tuple[str, ...]
    delete: bool


def plan(
    ref: str,
    image: ImageRecord,
    reference: Reference | None,
    tags: Sequence[str],
    users: Sequence[ImageUser],
    *,
    force: bool,
) -> Removal:
    """What `rmi` of this image does. `reference` is None when it was named by id; `tags` are all that it has.

    An image that containers still use keeps its files even with force: it is only untagged (then it is dangling).
    """
    if reference is not None and len(tags) > 1:
        return Removal(untag=(str(reference),), delete=False)
    if reference is None and len(tags) > 1 and not force and _repositories(tags) > 1:
        raise Conflict(
            f"conflict: unable to delete {short_id(image.id)} (must be forced) - image is referenced in multiple repositories"
        )
    running = next((user for user in users if user.running), None)
    if running is not None and (reference is None or not force):
        if reference is not None:
            raise _used_reference(ref, image, running)
        raise Conflict(
            f"conflict: unable to delete {short_id(image.id)} (cannot be forced) - "
            f"image is being used by running container {short_id(running.id)}"
        )
    if users and not force:
        if reference is not None:
            raise _used_reference(ref, image, users[0])
        raise Conflict(
            f"conflict: unable to delete {short_id(image.id)} (must be forced) - "
            f"image is being used by stopped container {short_id(users[0].id)}"
        )
    return Removal(untag=tuple(tags), delete=not users)


def _repositories(tags: Sequence[str]) -> int:
    return len({tag.rpartition(":")[0] for tag in tags})


def _used_reference(ref: str, image: ImageRecord, user: ImageUser) -> Conflict:
    return Conflict(
        f'conflict: unable to remove repository reference "{ref}" (must force) - '
        f"container {short_id(user.id)} is using its referenced image {short_id(image.id)}"
    )
