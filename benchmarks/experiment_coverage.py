"""Do the intervals of an experiment keep their word? 500 runs without and 500 with a known effect.

    python benchmarks/experiment_coverage.py [--runs 500] [--users 2000] [--days 28] [--seed 7]

People come back over the days: most seldom, some very often; who comes often clicks less; days of one
person resemble each other. Every day somebody looks. Counted are, for lists per person (`user`), for
visits dealt to the arms one by one (`session`) and for interleaved lists (`interleaved`):

- coverage: how often the interval of the last day holds the true difference;
- sequential coverage: how often the interval for every look holds it on *all* days;
- false stops: runs without an effect in which that interval excludes 0 on any day, and the same for the
  fixed interval looked at every day, which is what it is for;
- found: runs with an effect in which it excludes 0 by the last day, on the right side.
"""

import argparse
import json

import numpy as np

from recsys.evaluation.experiment_statistics import Settings, compare_rates, preference

ACTIVITY = np.array([0.05, 0.3, 2.0])
"""Lists a day of three kinds of people."""
SHARES = np.array([0.6, 0.3, 0.1])
CLICKS = np.array([0.14, 0.10, 0.06])
"""Mean chance of a click of a list, by kind."""
SPREAD = 12.0
"""Concentration of a kind's chances: beta(mean × 12, (1 − mean) × 12)."""


class People:
    """U people: how active they are and how often they click."""

    def __init__(self, rng, users):
        kind = rng.choice(len(SHARES), users, p=SHARES)
        self.active = ACTIVITY[kind] * rng.gamma(2.0, 0.5, users)
        mean = CLICKS[kind]
        self.click = rng.beta(mean * SPREAD, (1 - mean) * SPREAD)


def truth(lift):
    """Clicks per list with the lift minus without."""
    weight = SHARES * ACTIVITY
    return float((weight * CLICKS).sum() / weight.sum()) * lift


def counted(rng, people, days, lift, by_session):
    """(clicks, lists): int64[U, 2, days], by person, arm and day."""
    lists = rng.poisson(people.active[:, None], (len(people.active), days))
    if by_session:
        second = rng.binomial(lists, 0.5)
    else:
        second = lists * (rng.random(len(lists)) < 0.5)[:, None]
    lists = np.stack([lists - second, second], 1)
    chance = people.click[:, None, None] * np.array([1.0, 1.0 + lift])[None, :, None]
    return rng.binomial(lists, np.minimum(chance, 1.0)), lists


def looks_at_rates(rng, users, days, lift, settings, by_session):
    """(value, fixed interval, interval for every look) of each day."""
    people = People(rng, users)
    clicks, lists = (np.cumsum(x, 2) for x in counted(rng, people, days, lift, by_session))
    found = [
        compare_rates(clicks[:, :, d].astype(float), lists[:, :, d].astype(float), settings)
        for d in range(days)
    ]
    return [(e.difference.fixed, e.difference.always) for e in found]


def looks_at_preference(rng, users, days, lift, settings):
    """The same for interleaved lists: a person's taste for the challenger is their own."""
    people = People(rng, users)
    lists = rng.poisson(people.active[:, None], (users, days))
    clicked = rng.binomial(lists, people.click[:, None])
    person, day = np.nonzero(clicked)
    times = clicked[person, day]
    person, day = np.repeat(person, times), np.repeat(day, times)
    taste = np.clip(0.5 + lift + 0.5 * (rng.beta(20, 20, users) - 0.5), 0, 1)
    credit = np.where(rng.random(len(person)) < taste[person], 1.0, -1.0)
    order = np.argsort(day, kind="stable")
    person, credit, ends = person[order], credit[order], np.cumsum(np.bincount(day, minlength=days))
    found = [preference(credit[:n], person[:n], settings) for n in ends]
    return [(e.fixed, e.always) for e in found]


def tally(runs, true, effect):
    """Shares over runs of looks."""

    def holds(interval, value):
        return interval.low is None or interval.low <= value <= interval.high

    every = [[always for _, always in looks] for looks in runs]
    result = {
        "coverage": np.mean([holds(looks[-1][0], true) for looks in runs]),
        "sequential coverage": np.mean([all(holds(i, true) for i in looks) for looks in every]),
    }
    if effect:
        found = [looks[-1].low is not None and looks[-1].low > 0 for looks in every]
        result["found"] = np.mean(found)
    else:
        stops = [not all(holds(i, 0.0) for i in looks) for looks in every]
        result["false stops"] = np.mean(stops)
        peeked = [not all(holds(fixed, 0.0) for fixed, _ in looks) for looks in runs]
        result["false stops of the fixed interval looked at daily"] = np.mean(peeked)
    return {name: round(float(value), 4) for name, value in result.items()}


def measure(runs, users, days, seed, lift=0.15):
    """{design: {A/A, effect: shares}}"""
    settings = Settings(tightest_at=users)
    designs = {
        "user": lambda rng, by: looks_at_rates(rng, users, days, by, settings, False),
        "session": lambda rng, by: looks_at_rates(rng, users, days, by, settings, True),
        "interleaved": lambda rng, by: looks_at_preference(rng, users, days, by / 2, settings),
    }
    result = {}
    for name, look in designs.items():
        result[name] = {}
        for effect in (0.0, lift):
            rng = np.random.default_rng([seed, int(effect > 0)])
            looked = [look(rng, effect) for _ in range(runs)]
            true = effect / 2 if name == "interleaved" else truth(effect)
            result[name]["effect" if effect else "A/A"] = tally(looked, true, effect > 0)
    return result


def main():
    """Print the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(json.dumps(measure(args.runs, args.users, args.days, args.seed), indent=2))


if __name__ == "__main__":
    main()
