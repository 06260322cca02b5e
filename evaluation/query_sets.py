"""Which queries are asked: leave-last-out and impressions, as truth and candidates.

Windows by time are cut elsewhere, with the models that are fitted before them; these two need the
events alone. Shapes: E events, G groups, n candidates of all groups.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import PADDING, RELEVANT_FROM, PastItems, RankedLists, Truth
from recsys.features.impressions import Impressions
from recsys.features.interactions import DAY, Floats, Interactions, Ints, Longs
from recsys.features.ragged import offsets_of_owners


class QuerySet(NamedTuple):
    """Truth and what each group's user had before its moment."""

    truth: Truth
    past: PastItems


def leave_last_out(events: Interactions) -> QuerySet:
    """One group per user: their last relevant event, asked at its own time.

    Right for data whose times are ordinal only; elsewhere a model fitted on everybody's past knows
    other users' futures, so prefer windows by time. Only events strictly before the moment are past;
    users whose last relevant item was acted on before, or who have no past, are left out.
    """
    relevant = np.nonzero(events.grade >= RELEVANT_FROM)[0]
    order = relevant[np.lexsort((relevant, events.user[relevant]))]
    users = events.user[order]
    last = order[np.append(users[1:] != users[:-1], np.ones(len(users[-1:]), bool))]
    moment = np.full(events.n_users, np.iinfo(np.int64).min)
    moment[events.user[last]] = events.time[last]
    wanted = np.full(events.n_users, -1, np.int64)
    wanted[events.user[last]] = events.item[last]
    before = events.time < moment[events.user]
    again = before & (events.item == wanted[events.user])
    asked = np.zeros(events.n_users, bool)
    asked[events.user[before]] = True
    asked[events.user[again]] = False
    user = events.user[last][asked[events.user[last]]]
    group = np.full(events.n_users, -1, np.int64)
    group[user] = np.arange(len(user))
    kept = before & (group[events.user] >= 0)
    past = _past(group[events.user[kept]], events.item[kept], len(user))
    grade = np.zeros(events.n_users, np.int8)
    grade[events.user[last]] = events.grade[last]
    truth = Truth.of(np.arange(len(user)), wanted[user], grade[user], user, moment[user])
    return QuerySet(truth, past)


def of_users(
    events: Interactions, chosen: npt.NDArray[np.integer], past: PastItems, time: Longs
) -> tuple[Truth, Longs, int]:
    """One group per chosen user: what they acted on in `events` and had not had before; the group of
    each event, -1 for one of somebody else; and how many events were on items that they had had.

    Args:
        events: positive ones.
        chosen: int[G], the users.
        past: items that each of them had had.
        time: int64[G], when they are asked, µs UTC.
    """
    group_of = np.full(events.n_users, -1, np.int64)
    group_of[chosen] = np.arange(len(chosen))
    group = group_of[events.user]
    again = (group >= 0) & past.contains(group, events.item)
    fresh = (group >= 0) & ~again
    user = np.arange(len(chosen))
    truth = Truth.of(group[fresh], events.item[fresh], events.grade[fresh], user, time)
    return truth, group, int(again.sum())


def of_impressions(lists: Impressions, grades: npt.NDArray[np.integer]) -> Truth:
    """One group per shown list: what was acted on among what was shown.

    The lists of the systems are to be made with `ranked_candidates` from the same items, and the
    evaluation told so (`sampled_candidates`): what was shown is not the catalogue.

    Args:
        lists: with their users.
        grades: int[n], what followed each shown item, 0 where nothing did.
    """
    acted = grades >= RELEVANT_FROM
    return Truth.of(lists.owner[acted], lists.items[acted], grades[acted], lists.user, lists.time)


def grades_of_shown(
    lists: Impressions, events: Interactions, *, within: int = DAY
) -> npt.NDArray[np.int8]:
    """int8[n]: what followed each shown item: the grade of the user's first relevant event on it
    from the moment shown until `within` µs later, 0 without one. An item shown again to the same
    user takes what follows from then on, so that no event counts for two lists.

    Above 0 is what `of_impressions` and the estimate of position bias call acted on, clicked.

    Args:
        lists: users coded as in `events`; -1 for somebody without events.
        events: events that may follow.
        within: µs after the list in which an event counts as its consequence.
    """
    relevant = events.grade >= RELEVANT_FROM
    keys = events.user[relevant].astype(np.int64) << 32 | events.item[relevant]
    order = np.lexsort((events.time[relevant], keys))
    keys, moment = keys[order], events.time[relevant][order]
    grade = events.grade[relevant][order]
    shown = lists.per_row(lists.user.astype(np.int64)) << 32 | lists.items
    shown_at = lists.per_row(lists.time)
    until = np.minimum(shown_at + within, _shown_again(shown, shown_at))
    # Places of (key, time) among the events: merge both and count the events before each.
    merged = np.lexsort(
        (
            np.r_[np.ones(len(keys)), np.zeros(len(shown))],
            np.r_[moment, shown_at],
            np.r_[keys, shown],
        )
    )
    is_event = merged < len(keys)
    place = np.empty(len(shown), np.int64)
    place[merged[~is_event] - len(keys)] = np.cumsum(is_event)[~is_event]
    found = np.zeros(len(shown), np.int8)
    inside = np.nonzero(place < len(keys))[0]
    follows = place[inside]
    same = (keys[follows] == shown[inside]) & (moment[follows] < until[inside])
    found[inside[same]] = grade[follows[same]]
    return found


def _shown_again(key: Longs, time: Longs) -> Longs:
    """int64[n]: when the same key comes next, the far future if never. Of several at one time the
    first row is the last, so that it takes what follows."""
    again = np.full(len(key), np.iinfo(np.int64).max)
    order = np.lexsort((-np.arange(len(key)), time, key))
    same = key[order][1:] == key[order][:-1]
    again[order[:-1][same]] = time[order][1:][same]
    return again


def ranked_candidates(
    name: str, lists: Impressions, scores: npt.NDArray[np.floating], length: int
) -> RankedLists:
    """What was shown in G lists by other scores, best first, ties as shown.

    Args:
        name: of the system.
        lists: the candidates.
        scores: float[n], the higher the better.
        length: places of a list.
    """
    group, place, items = lists.owner, lists.place, lists.items
    order = np.lexsort((np.arange(len(items)), -np.asarray(scores, np.float64), group))
    inside = place < length
    ranked = np.full((len(lists), length), PADDING, np.int32)
    given: Floats = np.full(ranked.shape, -np.inf, np.float32)
    ranked[group[inside], place[inside]] = items[order][inside]
    given[group[inside], place[inside]] = scores[order][inside]
    return RankedLists(name, ranked, given)


def _past(group: npt.NDArray[np.integer], item: Ints, groups: int) -> PastItems:
    """Distinct items of each group, CSR."""
    width = int(item.max()) + 1 if len(item) else 1
    keys = np.unique(group.astype(np.int64) * width + item)
    return PastItems(offsets_of_owners(keys // width, groups), (keys % width).astype(np.int32))
