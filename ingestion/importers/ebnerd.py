"""EB-NeRD (Ekstra Bladet News): articles.parquet, and behaviors.parquet and history.parquet of
each split, in folders of their own. Where several bundles lie side by side, what they share is taken
once.

Times carry no zone and are taken as UTC. Totals that articles carry (inviews, pageviews) tell of
the future and are left out. The published order within lists is not the shown one.
"""

from pathlib import Path

import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.ingestion.importers.layout import Job, listed

_ATTRIBUTES = ("premium", "article_type", "sentiment_label")
_USER_ATTRIBUTES = ("is_sso_user", "is_subscriber", "gender", "age", "postcode")
_NEEDED = {
    "articles": ("article_id", "title"),
    "behaviors": (
        "impression_id",
        "user_id",
        "impression_time",
        "article_ids_inview",
        "article_ids_clicked",
    ),
    "history": ("user_id", "impression_time_fixed", "article_id_fixed"),
}


def convert(job: Job) -> None:
    """Write items, events, impressions and users."""
    articles = job.find("articles.parquet")
    behaviours = _labelled(job, job.find("behaviors.parquet"))
    history = [f.parent / "history.parquet" for f in behaviours]
    history = [file for file in history if file.is_file()] or job.find("history.parquet")
    there = {
        "articles": _columns(articles, "articles"),
        "behaviors": _columns(behaviours, "behaviors"),
        "history": _columns(history, "history"),
    }
    _items(job, articles, there["articles"])
    attributes = [name for name in _USER_ATTRIBUTES if name in there["behaviors"]]
    kept = ", ".join(("impression_id", "user_id", "impression_time", "article_ids_inview",
                      "article_ids_clicked", *attributes))  # fmt: skip
    # A smaller bundle holds lists of a larger one again, under the same number.
    once = "row_number() OVER (PARTITION BY impression_id ORDER BY filename) = 1"
    bundles = {file.parent.parent for file in behaviours}
    job.duck.run(
        f"CREATE VIEW shown AS SELECT {kept} FROM read_parquet({listed(behaviours)},"
        f" union_by_name = true, filename = true)"
        + (f" QUALIFY {once}" if len(bundles) > 1 else "")
    )
    job.write(
        "impressions",
        f"SELECT CAST(impression_id AS VARCHAR) AS {c.IMPRESSION_ID}, CAST(user_id AS VARCHAR)"
        f" AS {c.USER_ID}, impression_time AT TIME ZONE 'UTC' AS {c.TIMESTAMP},"
        f" CAST(article_ids_inview AS VARCHAR[]) AS {c.ITEM_IDS} FROM shown"
        f" ORDER BY impression_time, impression_id",
        behaviours,
    )
    job.write("events", _events(history), behaviours + history)
    latest = "".join(f", arg_max({name}, impression_time) AS {name}" for name in attributes)
    job.write(
        "users",
        f"SELECT CAST(user_id AS VARCHAR) AS {c.USER_ID}{latest} FROM shown"
        f" GROUP BY user_id ORDER BY user_id",
        behaviours,
    )
    job.notes += [
        "Times are taken as UTC. A click is placed one second after its list was shown.",
        "EB-NeRD may be used for research; see its licence.",
    ]


def _labelled(job: Job, behaviours: list[Path]) -> list[Path]:
    """The files that say what was clicked; a test set does not and is left out.

    Raises:
        UsageError: none does.
    """
    clicked = "article_ids_clicked"
    silent = [file for file in behaviours if clicked not in _schema(file)]
    kept = [file for file in behaviours if file not in silent]
    if not kept and any("article_ids_inview" in _schema(file) for file in silent):
        raise UsageError(
            "this is the test set of EB-NeRD, which does not say what was clicked",
            where=str(silent[0]),
            found=f"no column `{clicked}`",
            expected="the splits train and validation of a bundle",
            fix="name the folder of a bundle, such as ebnerd_small",
        )
    if not kept:
        return behaviours
    for file in silent:
        rows = pq.read_metadata(file).num_rows
        job.notes.append(
            f"{rows:,} lists of {file.parent.relative_to(job.source).as_posix()} are left out: they"
            " do not say what was clicked."
        )
    return kept


def _schema(file: Path) -> set[str]:
    """Names of a file's columns.

    Raises:
        DataRefused: it is no Parquet file.
    """
    try:
        return set(pq.read_schema(file).names)
    except (OSError, ValueError) as error:
        raise DataRefused(
            "this is not a Parquet file that can be read",
            where=str(file),
            found=(str(error).splitlines() or [""])[0][:200],
            fix="unpack the data set again",
        ) from None


def _columns(files: list[Path], name: str) -> set[str]:
    """Columns of the files, checked against what the layout needs."""
    there: set[str] = set()
    for file in files:
        found = _schema(file)
        missing = [column for column in _NEEDED[name] if column not in found]
        if missing:
            raise DataRefused(
                f"column `{missing[0]}` is not found",
                where=str(file),
                found="existing columns: " + ", ".join(sorted(found)),
                expected=", ".join(_NEEDED[name]),
                fix="give the files as published",
            )
        there |= found
    return there


def _items(job: Job, articles: list[Path], there: set[str]) -> None:
    texts = [name for name in ("subtitle", "body") if name in there]
    description = f"concat_ws(' ', {', '.join(texts)})" if texts else "NULL"
    tags = "CAST(topics AS VARCHAR[])" if "topics" in there else "CAST([] AS VARCHAR[])"
    category = "category_str" if "category_str" in there else "NULL"
    created = "published_time AT TIME ZONE 'UTC'" if "published_time" in there else "NULL"
    kept = "".join(f", {name}" for name in _ATTRIBUTES if name in there)
    job.write(
        "items",
        f"SELECT CAST(article_id AS VARCHAR) AS {c.ITEM_ID}, title AS {c.TITLE},"
        f" CAST({description} AS VARCHAR) AS {c.DESCRIPTION}, {tags} AS {c.TAGS},"
        f" CAST({category} AS VARCHAR) AS {c.CATEGORY}, CAST({created} AS TIMESTAMPTZ)"
        f" AS {c.CREATED_AT}{kept} FROM read_parquet({listed(articles)}, union_by_name = true,"
        f" filename = true) QUALIFY row_number() OVER (PARTITION BY article_id ORDER BY filename)"
        f" = 1 ORDER BY article_id",
        articles,
    )


def _events(history: list[Path]) -> str:
    """Clicks of the lists, and those of the histories that no list holds."""
    clicks = (
        f"SELECT CAST(user_id AS VARCHAR) AS {c.USER_ID}, CAST(item AS VARCHAR) AS {c.ITEM_ID},"
        f" 'click' AS {c.EVENT_TYPE}, impression_time AT TIME ZONE 'UTC' + INTERVAL 1 SECOND"
        f" AS {c.TIMESTAMP}, CAST(impression_id AS VARCHAR) AS {c.IMPRESSION_ID} FROM"
        f" (SELECT user_id, impression_id, impression_time, unnest(article_ids_clicked) AS item"
        f" FROM shown)"
    )
    earlier = (
        f"SELECT DISTINCT CAST(user_id AS VARCHAR), CAST(item AS VARCHAR), 'click',"
        f" moment AT TIME ZONE 'UTC', CAST(NULL AS VARCHAR) FROM (SELECT user_id,"
        f" unnest(article_id_fixed) AS item, unnest(impression_time_fixed) AS moment"
        f" FROM read_parquet({listed(history)}, union_by_name = true)) h"
        f" WHERE NOT EXISTS (SELECT 1 FROM shown b WHERE b.user_id = h.user_id"
        f" AND b.impression_time = h.moment)"
    )
    return f"{clicks} UNION ALL {earlier} ORDER BY 4, 1, 2"
