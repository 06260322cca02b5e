"""MIND (Microsoft News): news.tsv and behaviors.tsv, in one folder or one per split.

behaviors.tsv: impression, user, time, clicked history, shown items as `N1-1 N2-0`. What a user
had clicked before the log began has no times: those clicks are placed one second apart before the
user's first list, so their order is real and their times are not. MIND shuffled the order within
lists, so nothing about position can be read off it. Lists of the test set say what was shown and not
what was clicked; they are left out.
"""

from pathlib import Path

from recsys.data_schemas import columns as c
from recsys.ingestion.importers.layout import Job, listed
from recsys.ingestion.tables.duck import quote

_NEWS = "id, category, subcategory, title, abstract, url, title_entities, abstract_entities"
_BEHAVIOURS = "impression, reader, time, history, shown"


def convert(job: Job) -> None:
    """Write items, events and impressions."""
    news = job.find("news.tsv")
    behaviours = job.find("behaviors.tsv")
    job.write(
        "items",
        f"SELECT id AS {c.ITEM_ID}, any_value(title) AS {c.TITLE}, any_value(abstract)"
        f" AS {c.DESCRIPTION}, [any_value(subcategory)] AS {c.TAGS}, any_value(category)"
        f" AS {c.CATEGORY} FROM {_read(news, _NEWS)} GROUP BY id ORDER BY id",
        news,
    )
    _view(job, behaviours)
    unlabelled = job.count("SELECT count(*) FROM every_list WHERE NOT labelled", behaviours)
    job.write(
        "impressions",
        f"SELECT id AS {c.IMPRESSION_ID}, reader AS {c.USER_ID}, moment AS {c.TIMESTAMP},"
        f" list_transform(shown, lambda s: regexp_replace(s, '-[01]$', '')) AS {c.ITEM_IDS}"
        f" FROM lists ORDER BY moment, id",
        behaviours,
    )
    job.write("events", f"{_clicks()} UNION ALL {_history()} ORDER BY 4, 1, 2", behaviours)
    if unlabelled:
        job.notes.append(
            f"{unlabelled:,} lists of a test set are left out: they do not say what was clicked."
        )
    job.notes += [
        "Times are taken as UTC. A click is placed one second after its list was shown.",
        "Clicks before the log began have an order but no real times; lists have no real order.",
        "MIND may be used for research; see the Microsoft Research licence terms.",
    ]


def _read(files: list[Path], columns: str) -> str:
    """SQL that reads tab-separated text as it is: quotes mean nothing."""
    named = ", ".join(f"'{name.strip()}': 'VARCHAR'" for name in columns.split(","))
    return (
        f"read_csv({listed(files)}, delim = '\\t', header = false, quote = '', escape = '',"
        f" columns = {{{named}}}, filename = true, auto_detect = false, max_line_size = 8000000)"
    )


def _view(job: Job, behaviours: list[Path]) -> None:
    """The views `every_list` and `lists`, those that say what was clicked. An impression is named by
    its number, with its split's folder in front where there is one."""
    folders = [file.parent.relative_to(job.source).as_posix() for file in behaviours]
    prefix = " ".join(
        f"WHEN {quote(str(file))} THEN {quote('' if folder == '.' else folder + '-')}"
        for file, folder in zip(behaviours, folders, strict=True)
    )
    job.duck.run(
        f"CREATE VIEW every_list AS SELECT CASE filename {prefix} END || impression AS id, reader,"
        f" strptime(time, '%m/%d/%Y %I:%M:%S %p') AT TIME ZONE 'UTC' AS moment,"
        f" string_split(history, ' ') AS history, list_filter(string_split(shown, ' '),"
        f" lambda s: s <> '') AS shown, regexp_matches(shown, '-[01](\\s|$)') AS labelled"
        f" FROM {_read(behaviours, _BEHAVIOURS)}"
    )
    job.duck.run("CREATE VIEW lists AS SELECT * FROM every_list WHERE labelled")


def _clicks() -> str:
    return (
        f"SELECT reader AS {c.USER_ID}, regexp_replace(place, '-1$', '') AS {c.ITEM_ID},"
        f" 'click' AS {c.EVENT_TYPE}, moment + INTERVAL 1 SECOND AS {c.TIMESTAMP},"
        f" id AS {c.IMPRESSION_ID} FROM (SELECT id, reader, moment, unnest(shown) AS place FROM lists)"
        f" WHERE place LIKE '%-1'"
    )


def _history() -> str:
    """Clicks before the log began: a user's earliest history, ending a second before its list."""
    first = "SELECT reader, arg_min(history, (moment, id)) AS history, min(moment) AS moment FROM lists GROUP BY reader"
    return (
        f"SELECT reader, item, 'click', moment - to_seconds(len(history) - place + 1), NULL FROM"
        f" (SELECT reader, moment, history, unnest(history) AS item, generate_subscripts(history, 1)"
        f" AS place FROM ({first})) WHERE item <> ''"
    )
