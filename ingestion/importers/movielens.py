"""MovieLens, in the layouts of its releases.

- ml-latest, ml-latest-small, ml-20m, ml-25m, ml-32m: movies.csv (movieId, title, genres), ratings.csv
  (userId, movieId, rating, timestamp) and, where there is one, tags.csv.
- ml-1m, ml-10m: movies.dat, ratings.dat and, in ml-10m, tags.dat, fields divided by `::`; ml-1m is
  Latin-1 and has users.dat.
- ml-100k: u.item (fields divided by `|`, Latin-1), u.data (by tabs) and u.user. Its split files
  (u1.base …) hold the same ratings again and are passed over.

A free tag becomes a `comment`: it is something a user did, and as an item's text it would tell of the
future. Releases number their users each on its own, so only one is imported at a time.
"""

from collections.abc import Callable
from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.ingestion.importers.layout import Job, listed
from recsys.ingestion.tables.duck import quote

GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
"""Columns 6 to 24 of ml-100k's u.item, as its README lists them."""
_AGES = "1 = under 18, 18 = 18-24, 25 = 25-34, 35 = 35-44, 45 = 45-49, 50 = 50-55, 56 = 56 or older"


def convert(job: Job) -> None:
    """Write items, events and, where the release tells of them, users."""
    name = _release(job)
    _CONVERT[name](job)
    job.notes.append(
        "MovieLens may be used for research, with the citation in its README, not commercially."
    )


def _release(job: Job) -> str:
    """File that tells which layout the one release in the folder has.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = [file for name in _CONVERT for file in job.look(name)]
    if len(found) > 1:
        raise UsageError(
            "there is more than one MovieLens release in this folder",
            where=str(job.source),
            found=", ".join(str(file.relative_to(job.source)) for file in found[:5]),
            expected="one release; the same number is another person in each",
            fix="name the folder of the one to import",
        )
    if not found:
        job.find(*_CONVERT, why="the list of films of ml-latest, ml-20m to ml-32m; ml-1m, ml-10m;"
                 " ml-100k")  # fmt: skip
    return found[0].name


def _csv(job: Job) -> None:
    movies, ratings, tags = job.find("movies.csv"), job.find("ratings.csv"), job.look("tags.csv")
    read = "read_csv({}, header = true, all_varchar = true, quote = '\"', escape = '\"')"
    _write(
        job,
        (read.format(listed(movies)), movies),
        (read.format(listed(ratings)), ratings),
        (read.format(listed(tags)), tags) if tags else None,
    )


def _dat(job: Job) -> None:
    movies, ratings, tags = job.find("movies.dat"), job.find("ratings.dat"), job.look("tags.dat")
    _write(
        job,
        (_divided(movies, "::", "movieId, title, genres"), movies),
        (_divided(ratings, "::", "userId, movieId, rating, timestamp"), ratings),
        (_divided(tags, "::", "userId, movieId, tag, timestamp"), tags) if tags else None,
    )
    users = job.look("users.dat")
    if users:
        _users(job, _divided(users, "::", "userId, gender, age, occupation, zip"), users)
        job.notes.append(
            f"Ages of users are groups: {_AGES}. Occupations are numbered as published."
        )


def _100k(job: Job) -> None:
    movies, ratings, users = job.find("u.item"), job.find("u.data"), job.look("u.user")
    flags = [f"g{place}" for place in range(len(GENRES))]
    films = _divided(
        movies, "|", ", ".join(["movieId", "title", "released", "video", "url", *flags])
    )
    named = ", ".join(f"CASE WHEN {flag} = '1' THEN {quote(genre)} END"
                      for flag, genre in zip(flags, GENRES, strict=True) if genre != "unknown")  # fmt: skip
    films = f"(SELECT movieId, title, concat_ws('|', {named}) AS genres FROM {films})"
    _write(
        job,
        (films, movies),
        (_divided(ratings, "\t", "userId, movieId, rating, timestamp"), ratings),
        None,
    )
    if users:
        _users(job, _divided(users, "|", "userId, age, gender, occupation, zip"), users)


def _divided(files: list[Path], by: str, columns: str) -> str:
    """SQL that reads text with divided fields as it is: quotes mean nothing."""
    named = ", ".join(f"'{name}': 'VARCHAR'" for name in columns.split(", "))
    encoding = "utf-8" if all(map(_is_utf8, files)) else "latin-1"
    return (
        f"read_csv({listed(files)}, delim = {quote(by)}, header = false, quote = '', escape = '',"
        f" columns = {{{named}}}, auto_detect = false, encoding = '{encoding}')"
    )


def _is_utf8(file: Path) -> bool:
    with file.open("rb") as content:
        try:
            for line in content:
                line.decode("utf-8")
        except UnicodeDecodeError:
            return False
    return True


Read = tuple[str, list[Path]]
"""(SQL that reads files, the files)."""


def _write(job: Job, movies: Read, ratings: Read, tags: Read | None) -> None:
    """Write items and events of relations with the columns of the CSV releases."""
    genres = "list_filter(string_split(genres, '|'), lambda g: g NOT IN ('', '(no genres listed)'))"
    job.write(
        "items",
        f"SELECT movieId AS {c.ITEM_ID}, title AS {c.TITLE}, {genres} AS {c.TAGS},"
        f" {genres}[1] AS {c.CATEGORY} FROM {movies[0]}",
        movies[1],
    )
    rows = [
        f"SELECT userId AS {c.USER_ID}, movieId AS {c.ITEM_ID}, 'rating' AS {c.EVENT_TYPE},"
        f" CAST(rating AS DOUBLE) AS {c.VALUE}, to_timestamp(CAST(timestamp AS BIGINT))"
        f" AS {c.TIMESTAMP} FROM {ratings[0]}"
    ]
    if tags:
        rows.append(
            f"SELECT DISTINCT userId, movieId, 'comment', CAST(NULL AS DOUBLE),"
            f" to_timestamp(CAST(timestamp AS BIGINT)) FROM {tags[0]}"
        )
    job.write(
        "events",
        f"SELECT * FROM ({' UNION ALL '.join(rows)})"
        f" ORDER BY {c.TIMESTAMP}, {c.USER_ID}, {c.ITEM_ID}, {c.EVENT_TYPE}",
        ratings[1] + (tags[1] if tags else []),
    )


def _users(job: Job, read: str, files: list[Path]) -> None:
    """Write what is told of users; postal codes are left out."""
    job.write(
        "users",
        f"SELECT userId AS {c.USER_ID}, CAST(age AS INTEGER) AS age, gender, occupation FROM {read}"
        f" ORDER BY {c.USER_ID}",
        files,
    )


_CONVERT: dict[str, Callable[[Job], None]] = {
    "movies.csv": _csv,
    "movies.dat": _dat,
    "u.item": _100k,
}
"""File that lists the films → how its layout is read."""
