"""MovieLens, CSV layout (ml-latest, ml-latest-small, ml-25m, ml-32m).

movies.csv (movieId, title, genres), ratings.csv (userId, movieId, rating, timestamp) and, where
there is one, tags.csv (userId, movieId, tag, timestamp). A free tag becomes a `comment`: it is
something a user did, and as an item's text it would tell of the future.
"""

from recsys.data_schemas import columns as c
from recsys.ingestion.importers.layout import Job, listed


def convert(job: Job) -> None:
    """Write items and events."""
    movies = job.find("movies.csv")
    ratings = job.find("ratings.csv")
    tags = job.look("tags.csv")
    genres = "list_filter(string_split(genres, '|'), lambda g: g <> '(no genres listed)')"
    read = "read_csv({}, header = true, all_varchar = true, quote = '\"', escape = '\"')"
    job.write(
        "items",
        f"SELECT movieId AS {c.ITEM_ID}, title AS {c.TITLE}, {genres} AS {c.TAGS},"
        f" {genres}[1] AS {c.CATEGORY} FROM {read.format(listed(movies))}",
        movies,
    )
    rows = [
        f"SELECT userId AS {c.USER_ID}, movieId AS {c.ITEM_ID}, 'rating' AS {c.EVENT_TYPE},"
        f" CAST(rating AS DOUBLE) AS {c.VALUE}, to_timestamp(CAST(timestamp AS BIGINT))"
        f" AS {c.TIMESTAMP} FROM {read.format(listed(ratings))}"
    ]
    if tags:
        rows.append(
            f"SELECT DISTINCT userId, movieId, 'comment', CAST(NULL AS DOUBLE),"
            f" to_timestamp(CAST(timestamp AS BIGINT)) FROM {read.format(listed(tags))}"
        )
    job.write(
        "events",
        f"SELECT * FROM ({' UNION ALL '.join(rows)})"
        f" ORDER BY {c.TIMESTAMP}, {c.USER_ID}, {c.ITEM_ID}, {c.EVENT_TYPE}",
        ratings + tags,
    )
    job.notes += [
        "MovieLens may be used for research, with the citation in its README, not commercially.",
    ]
