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
    c.TITLE: "The Last Vault",
    c.TAGS: ["Crime", "Thriller", "heist"],
    c.CATEGORY: "Crime",
    c.DESCRIPTION: (
        "A retired safecracker gathers her old crew of thieves for one last heist: the vault of a casino,"
        " robbed on the night of the big fight. One of them talks to the police."
    ),
}
PEOPLE: Final = 200
"""People asked for: those who were here last."""
ASK_SECONDS: Final = 15.0
"""How long they are asked, each of two times; on a slow machine fewer are."""
ENCODE_SECONDS: Final = 60.0
DEEP, SHORT = 100, 10
"""Places that are looked through, and that are shown."""
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
    """Titles of the first person's list before."""
    after: list[str]


def last_here(events_file: Path) -> tuple[list[str], str]:
    """(the people who acted last, the day before the last event as RFC 3339)."""
    import pyarrow.parquet as pq

    events = pq.read_table(events_file, columns=[c.USER_ID, c.TIMESTAMP])
    latest = events.sort_by([(c.TIMESTAMP, "descending")])[c.USER_ID]
    people = list(dict.fromkeys(latest.to_pylist()))[:PEOPLE]
    end = max(events[c.TIMESTAMP].to_pylist()) - timedelta(days=1)
    return people, end.isoformat()


def post_and_ask(call: Call, people: Sequence[str], created_at: str) -> Scene:
    """Ask for people's lists, post the film, wait until its text was read, ask again."""
    before = _lists(call, people, SHORT)
    film = str(FILM[c.ITEM_ID])
    body = {**{k: v for k, v in FILM.items() if k != c.ITEM_ID}, c.CREATED_AT: created_at}
    began = time.monotonic()
    call("PUT", f"/v1/items/{film}", body)
    near = _near(call, film, began + ENCODE_SECONDS)
    seconds = time.monotonic() - began
    after = _lists(call, list(before), DEEP)
    asked = [user for user in before if user in after]
    found = [
        (place, user)
        for user in asked
        for place, item in enumerate(after[user], 1)
        if item[c.ITEM_ID] == film
    ]
    getting = [(u, place, _sentence(call, u, film)) for place, u in sorted(found)[:NAMED]]
    getting += [(user, place, "") for place, user in sorted(found)[NAMED:]]
    first = getting[0][0] if getting else ""
    return Scene(
        near,
        seconds,
        len(asked),
        getting,
        [_title(item) for item in before.get(first, [])],
        [_title(item) for item in after.get(first, [])[:SHORT]],
    )


def _lists(call: Call, people: Sequence[str], k: int) -> dict[str, list[dict[str, Any]]]:
    """Lists by person, of as many as can be asked in time."""
    until, lists = time.monotonic() + ASK_SECONDS, {}
    for user in people:
        answer = call("POST", "/v1/recommend", {c.USER_ID: user, "k": k, "fields": [c.TITLE]})
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


def _sentence(call: Call, user: str, film: str) -> str:
    answer = call("POST", "/v1/rank", {c.USER_ID: user, "items": [film], "explain": True})
    reason = (answer["items"][0].get("reasons") or {}) if answer["items"] else {}
    return str((reason.get("sentence") or {}).get("en", ""))


def _title(item: Mapping[str, Any]) -> str:
    return str(item["fields"][c.TITLE])


def told(scene: Scene) -> list[str]:
    """The scene in lines, as the demonstration prints them."""
    lines = [
        f"A new film is posted, which nobody has acted on: {FILM[c.TITLE]}",
        f"  {FILM[c.DESCRIPTION]}",
        f"  its text was read after {scene.seconds:.1f} s; nearest by text: {', '.join(scene.near)}",
        f"  of the {scene.people} people who were here last, {len(scene.getting)} have it among their first"
        f" {DEEP} now",
    ]
    for user, place, sentence in scene.getting[:NAMED]:
        lines.append(f"    {user:>6}  place {place:>3}  {sentence}")
    if scene.getting:
        user, place, _ = scene.getting[0]
        width = max(map(len, ["before", *scene.before]))
        lines.append(f"  the list of {user}:")
        lines.append(f"    {'':>2}  {'before':<{width}}  after")
        rows = zip(scene.before, scene.after, strict=False)
        for n, (old, new) in enumerate(rows, 1):
            lines.append(f"    {n:>2}  {old:<{width}}  {new}" + ("  <- new" if n == place else ""))
    return lines
