"""How images are shown: records in, views, Docker's history and filtered lists out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pystack.image.records import ImageRecord, OciImage, image_config, parse_config
from pystack.image.references import parse
from pystack.model.durations import parse_duration
from pystack.model.errors import InvalidInput
from pystack.model.observed import NEVER, ImageView

_FILTERS = {"reference", "dangling", "label", "label!", "before", "since", "until"}
_AGES = 60_000_000_000  # seconds that datetime can go back and forth


@lru_cache(maxsize=512)
def _parsed(config: str) -> OciImage:
    return parse_config(config)


@lru_cache(maxsize=512)
def _view(image: ImageRecord, tags: tuple[str, ...]) -> ImageView:
    config = _parsed(image.config)
    return ImageView(
        id=image.id,
        repo_tags=tuple(parse(tag).familiar for tag in tags),
        repo_digests=image.repo_digests,
        parent="",
        created=config.created or NEVER,
        size=image.size,
        architecture=config.architecture,
        os=config.os,
        config=image_config(config),
        layers=config.diff_ids,
        author=config.author,
        comment=config.comment,
        variant=config.variant,
        synthetic=image.synthetic,
    )


def view_of(image: ImageRecord, tags: Sequence[str]) -> ImageView:
    """The view of an image with these canonical references."""
    return _view(image, tuple(tags))


def _instant(text: str) -> datetime:
    """An RFC 3339 instant (nanoseconds are cut), or a moment of the past when it is none."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    zone = rest[digits:] if dot else ""
    try:
        found = datetime.fromisoformat(f"{head}.{rest[:digits][:6].ljust(6, '0')}{zone}" if dot else head)
    except ValueError:
        return datetime(1, 1, 1, tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def epoch_seconds(text: str) -> int:
    """Seconds since the epoch of an RFC 3339 instant, 0 for none or one before."""
    return max(0, int(_instant(text).timestamp())) if text else 0


def history_of(image: ImageRecord, view: ImageView, sizes: Sequence[int]) -> list[dict[str, object]]:
    """Docker's history, newest first. `sizes` are of the layers, lowest first; entries without a layer have 0."""
    left = iter(sizes)
    entries: list[dict[str, object]] = [
        {
            "Id": "<missing>",
            "Created": epoch_seconds(entry.created),
            "CreatedBy": entry.created_by,
            "Tags": None,
            "Size": 0 if entry.empty_layer else next(left, 0),
            "Comment": entry.comment,
        }
        for entry in _parsed(image.config).history or ()
    ]
    if not entries:
        entries = [{"Id": "", "Created": 0, "CreatedBy": "", "Tags": None, "Size": sum(sizes), "Comment": ""}]
    entries[-1] |= {"Id": image.id, "Tags": list(view.repo_tags) or None}
    return entries[::-1]


def keep(
    views: Sequence[ImageView], filters: Mapping[str, Sequence[str]], resolve: Callable[[str], ImageView]
) -> list[ImageView]:
    """The views that pass every filter. `resolve` finds the images that `before` and `since` name."""
    unknown = next((name for name in filters if name not in _FILTERS), None)
    if unknown is not None:
        raise InvalidInput(
            f"invalid filter {unknown!r}", hint=f"images are filtered by {', '.join(sorted(_FILTERS))}"
        )
    found = list(views)
    if patterns := filters.get("reference"):
        found = [narrow for view in found if (narrow := _narrowed(view, patterns)) is not None]
    for value in filters.get("dangling", ()):
        if value not in {"true", "false", "1", "0"}:
            raise InvalidInput(f"invalid filter 'dangling=[{value}]'", hint="dangling is true or false")
        found = [view for view in found if bool(view.repo_tags) != (value in {"true", "1"})]
    for value in filters.get("label", ()):
        found = [view for view in found if labelled(view, value)]
    for value in filters.get("label!", ()):
        found = [view for view in found if not labelled(view, value)]
    for value in filters.get("before", ()):
        limit = _instant(resolve(value).created)
        found = [view for view in found if _instant(view.created) < limit]
    for value in filters.get("since", ()):
        limit = _instant(resolve(value).created)
        found = [view for view in found if _instant(view.created) > limit]
    for value in filters.get("until", ()):
        limit = parse_until(value)
        found = [view for view in found if _instant(view.created) < limit]
    return found


def _narrowed(view: ImageView, patterns: Sequence[str]) -> ImageView | None:
    """The image with those of its names that one of the patterns matches; None without any."""
    tags = tuple(tag for tag in view.repo_tags if any(_matches(tag, ":", p) for p in patterns))
    digests = tuple(name for name in view.repo_digests if any(_matches(name, "@", p) for p in patterns))
    return replace(view, repo_tags=tags, repo_digests=digests) if tags or digests else None


def _matches(reference: str, separator: str, pattern: str) -> bool:
    """Docker's pattern: `*` and `?` stop at a slash; without a tag it is the repository that matches."""
    depth = pattern.count("/")
    for text in (reference, reference.rpartition(separator)[0]):
        if text.count("/") == depth and fnmatch.fnmatchcase(text, pattern):
            return True
    return False


def labelled(view: ImageView, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    labels = view.config.labels
    return key in labels and (not equals or labels[key] == value)


def parse_until(text: str) -> datetime:
    """An instant, seconds since the epoch, or a duration before now (24h)."""
    ago = parse_duration(text)
    if ago is not None and ago <= _AGES * 10**9 and not text.isdecimal():
        return datetime.now(tz=UTC) - timedelta(seconds=ago / 10**9)
    if text.isascii() and text.isdecimal() and int(text) <= _AGES:
        return datetime.fromtimestamp(int(text), tz=UTC)
    found = _instant(text)
    if found.year == 1:
        raise InvalidInput(
            f'failed to parse value as time or duration: "{text}"',
            hint="a time (2026-01-31), or an age (24h)",
        )
    return found
