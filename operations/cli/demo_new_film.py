"""The demonstration's last scene: a film that nobody has seen is posted, and stands in people's lists."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from recsys.data_schemas import columns as c

FILM: Final[Mapping[str, Any]] = {
    c.ITEM_ID: "new-film",
    c.TITLE: "Star Wars: Episode VIII - The Last Jedi (2017)",
    c.TAGS: ["Action", "Adventure", "Fantasy", "Sci-Fi", "space opera", "rebellion", "jedi"],
    c.CATEGORY: "Action",
    c.DESCRIPTION: (
        "Rey finds Luke Skywalker and learns the ways of the Force, while the Resistance flees from the"
        " First Order and Kylo Ren."
    ),
}
"""A film that came after the bundled data: nobody there has acted on it, or could have."""
ASK_SECONDS: Final = 15.0
"""How long people are asked, each of two times; on a slow machine fewer are."""
ENCODE_SECONDS: Final = 60.0
DEEP: Final = 100
"""Places that are looked through."""
FIRST, AROUND = 3, 2
"""Places that are shown of a list: the first, and those around the film."""
NAMED: Final = 4
"""People who are named."""

Call = Callable[..., Any]
"""(method, path, body or None) → the service's answer."""


class Scene(NamedTuple):
    """What happened."""

    near: list[str]
    """Titles nearest to the new film by their texts."""
    seconds: float
    """From the post until the service had read its text."""
    people: int
    """People asked before and after."""
    getting: list[tuple[str, int, str]]
    """(person, place of the film, sentence) of those whose first `DEEP` hold it, best place first."""
    before: list[str]
    """Titles of the first `DEEP` places of the first of them, before."""
    after: list[str]


def last_here(events_file: Path) -> tuple[list[str], str]:
    """(people, those who acted last first; the day before the last event as RFC 3339)."""
    import pyarrow.parquet as pq

    events = pq.read_table(events_file, columns=[c.USER_ID, c.TIMESTAMP])
    latest = events.sort_by([(c.TIMESTAMP, "descending")])[c.USER_ID]
    people = list(dict.fromkeys(latest.to_pylist()))
    end = max(events[c.TIMESTAMP].to_pylist()) - timedelta(days=1)
    return people, end.isoformat()


def post_and_ask(call: Call, people: Sequence[str], created_at: str) -> Scene:
    """Ask for people's lists, post the film, wait until its text was read, ask again."""
    before = _lists(call, people)
    film = str(FILM[c.ITEM_ID])
    body = {**{k: v for k, v in FILM.items() if k != c.ITEM_ID}, c.CREATED_AT: created_at}
    began = time.monotonic()
    call("PUT", f"/v1/items/{film}", body)
    near = _near(call, film, began + ENCODE_SECONDS)
    seconds = time.monotonic() - began
    after = _lists(call, list(before))
    asked = [user for user in before if user in after]
    found = [
        (place, user)
        for user in asked
        for place, item in enumerate(after[user], 1)
        if item[c.ITEM_ID] == film
    ]
    getting = [
        (user, place, _sentence(call, user, [item[c.ITEM_ID] for item in after[user]], film))
        for place, user in sorted(found)[:NAMED]
    ]
    getting += [(user, place, "") for place, user in sorted(found)[NAMED:]]
    first = getting[0][0] if getting else ""
    return Scene(
        near,
        seconds,
        len(asked),
        getting,
        [_title(item) for item in before.get(first, [])],
        [_title(item) for item in after.get(first, [])],
    )


def _lists(call: Call, people: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Lists by person, of as many as can be asked in time."""
    until, lists = time.monotonic() + ASK_SECONDS, {}
    for user in people:
        answer = call("POST", "/v1/recommend", {c.USER_ID: user, "k": DEEP, "fields": [c.TITLE]})
        lists[user] = answer["items"]
        if time.monotonic() > until:
            break
    return lists


def _near(call: Call, film: str, until: float) -> list[str]:
    """Titles nearest by text, once the film's text was read."""
    while True:
        answer = call("GET", f"/v1/items/{quote(film)}/similar?by=text&k=4", None)
        if answer["items"] or time.monotonic() > until:
            return [str(item[c.TITLE]) for item in answer["items"]]
        time.sleep(0.2)


def _sentence(call: Call, user: str, listed: Sequence[str], film: str) -> str:
    """Why the film stands in a person's list: a reason is one against the others there."""
    answer = call("POST", "/v1/rank", {c.USER_ID: user, "items": list(listed), "explain": DEEP})
    row = next(item for item in answer["items"] if item[c.ITEM_ID] == film)
    reason = row.get("reasons") or {}
    return str((reason.get("sentence") or {}).get("en", ""))


def _title(item: Mapping[str, Any]) -> str:
    return str(item["fields"][c.TITLE])


def told(scene: Scene) -> list[str]:
    """The scene in lines, as the demonstration prints them."""
    lines = [
        f"A new film is posted, which nobody has acted on: {FILM[c.TITLE]}",
        f"  {FILM[c.DESCRIPTION]}",
        f"  its text was read after {scene.seconds:.1f} s; nearest by text: {'; '.join(scene.near)}",
        f"  of {scene.people} people asked before and after, {len(scene.getting)} have it among their first"
        f" {DEEP} now",
    ]
    for user, place, sentence in scene.getting[:NAMED]:
        lines.append(f"    {user:>6}  place {place:>3}  {sentence}")
    if scene.getting:
        user, place, _ = scene.getting[0]
        lines += _beside(user, place, scene.before, scene.after)
    return lines


def _beside(user: str, place: int, before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Two lists of a person side by side, as far as the first places and those around `place` go."""
    rows = [
        (n, old, new)
        for n, (old, new) in enumerate(zip(before, after, strict=False), 1)
        if n <= FIRST or abs(n - place) <= AROUND
    ]
    width = max(len(old) for _, old, _ in rows)
    lines = [f"  the list of {user}:", f"    {'':>3}  {'before':<{width}}  after"]
    last = 0
    for n, old, new in rows:
        if n > last + 1:
            lines.append("      …")
        lines.append(f"    {n:>3}  {old:<{width}}  {new}" + ("  <- new" if n == place else ""))
        last = n
    return lines
