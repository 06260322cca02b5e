"""Words of items that name the people who act on them: a tag, or a word of a text, that stands on what one
user chose and on little else.

Shapes: N items, U users, W words.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.data_schemas.columns import DESCRIPTION, TAGS, TITLE
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.leaky_columns import ITEMS
from recsys.evaluation.data_leaks.leaky_words import Words, table_of
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.report_context import DROP, REFUSE
from recsys.features.ids import IdIndex
from recsys.features.on_disk import stretches, taken
from recsys.features.packed_strings import AT_ONCE, PackedStrings

LEAST: Final = 4
"""Items that a word must stand on; on fewer, one user may have met them all by chance."""
MOST: Final = 500
"""Items from which a word names no single user (assumed)."""
ALL: Final = 0.9
"""Share of a word's items that one user has."""
EXPECTED: Final = 0.3
"""Share of them that the user would have by the items' popularity alone, at most."""
NAMED: Final = 0.02
"""Share of the users' (user, item) pairs explained so from which a column names people (sound columns:
up to 0.005; measured)."""
PEOPLE: Final = 10
"""Users named, at least (assumed): a few may well have met all there is of something rare."""
ACTED: Final = 0.5
"""Share of the ids of users among the words that stand on an item of that user (ids that are ordinary words
or numbers: a few per cent)."""
ENOUGH: Final = 20
"""Such words, at least."""
MOST_USERS: Final = 1500


def words_that_name(log: LoggedData) -> list[Finding]:
    """One finding per column of text whose words give away who acts on the items."""
    catalogue = log.catalogue
    offsets, tags = catalogue.tags_csr()
    tagged = table_of(offsets, tags, len(catalogue.tag_names))
    columns = {
        TAGS: (Words(tagged, [name.lower() for name in catalogue.tag_names]), DROP),
        TITLE: (log.words[TITLE], REFUSE),
        DESCRIPTION: (log.words[DESCRIPTION], DROP),
    }
    pairs, share = _pairs(log)
    found, most = [], 0.0
    for name, (words, outcome) in columns.items():
        literal = _by_their_ids(log, words)
        if literal is not None:
            found.append(_left_out(name, literal, outcome))
            continue
        part, users, count = _named(words.table, pairs, share)
        most = max(most, part)
        if part < NAMED or users < PEOPLE:
            continue
        detail = (
            f"{count:,} words of {name} each stand on what one of {users:,} users chose: they give away "
            f"{part:.0%} of what {pairs.shape[0]:,} users did"
        )
        found.append(_left_out(name, detail, outcome))
    said = f"at most {most:.1%} of what {pairs.shape[0]:,} users did stands on words of their own"
    return found or [Finding.passed("no text names the people who act on an item", said)]


def _left_out(column: str, detail: str, outcome: str) -> Finding:
    left = "it is left out" if outcome == DROP else "an item cannot do without it"
    name = f"{column} does not name the people who act on an item"
    return Finding.failed(name, f"{detail}; {left}", outcome)._replace(table=ITEMS, column=column)


def _by_their_ids(log: LoggedData, words: Words) -> str | None:
    """Words that are ids of users who acted on the item, in words."""
    user = _users_called(words.names, log.events.user_ids)
    said = words.table.tocoo()
    row, who = said.row[user[said.col] >= 0], user[said.col][user[said.col] >= 0]
    if len(row) < ENOUGH:
        return None
    named = np.zeros(log.events.n_users, bool)
    named[who] = True
    events = log.events.where(taken(named, log.events.user))
    width = np.int64(events.n_items)
    acted = np.isin(who * width + row, events.user.astype(np.int64) * width + events.item)
    if acted.sum() < ENOUGH or acted.mean() < ACTED:
        return None
    return (
        f"{acted.mean():.0%} of {len(row):,} words that are ids of users stand on items on which that "
        "very user acted"
    )


def _users_called(words: Sequence[str], users: PackedStrings) -> npt.NDArray[np.int64]:
    """int64[n]: the last of the users whose id each of n different words is, whatever its case; -1 for none."""
    index, found = IdIndex.build(list(words)), np.full(len(words), -1, np.int64)
    for part in stretches(len(users), AT_ONCE):
        word = index.indices_of([name.lower() for name in users[part]])
        found[word[word >= 0]] = part.start + np.flatnonzero(word >= 0)
    return found


def _pairs(log: LoggedData) -> tuple[Any, Any]:
    """(users × items, 1 where a user drawn has acted on an item; share of the pairs by item)."""
    events = log.of_some_users.events
    pair = np.unique(events.user.astype(np.int64) * events.n_items + events.item)
    pair = pair[log.read[pair % events.n_items]]
    user, item = pair // events.n_items, pair % events.n_items
    active = np.bincount(user, minlength=events.n_users) >= LEAST
    ones = np.ones(len(pair), np.float32)
    table = sp.csr_matrix((ones, (user, item)), shape=(events.n_users, events.n_items))
    share = np.bincount(item, minlength=events.n_items) / max(len(pair), 1)
    return table[log.users_among(active, MOST_USERS, "named")], share


def _named(words: Any, pairs: Any, share: Any) -> tuple[float, int, int]:
    """(share of the pairs on words of the user's own, such users, such words)."""
    times = np.bincount(words.indices, minlength=words.shape[1])
    kept = np.flatnonzero((times >= LEAST) & (times <= MOST))
    if not len(kept) or not pairs.nnz:
        return 0.0, 0, 0
    words = words[:, kept].tocsr()
    met = (pairs @ words).tocoo()
    there = times[kept][met.col]
    usual = np.asarray(pairs.sum(axis=1)).ravel()[met.row] * (words.T @ share)[met.col]
    own = (met.data >= ALL * there) & (usual <= EXPECTED * there)
    named = sp.csr_matrix(
        (np.ones(int(own.sum()), np.float32), (met.row[own], met.col[own])), shape=met.shape
    )
    told = pairs.multiply((named @ words.T) > 0)
    return float(told.nnz / pairs.nnz), len(np.unique(met.row[own])), len(np.unique(met.col[own]))
