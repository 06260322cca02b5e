"""The evaluation tree and the page: honest verdicts, nothing blank, nothing unescaped."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.evaluation import segments
from recsys.evaluation.drift import Drift, summary
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.report import (
    Check,
    Evaluation,
    Example,
    ExampleItem,
    GateDecision,
    GateRow,
    Interval,
    OffPolicy,
    PastItems,
    PositionBias,
    RankerFacts,
    ReportContext,
    SourceFact,
    StageCost,
    alarms,
    evaluate_lists,
    render,
    verdict,
    write_report,
)
from recsys.evaluation.report_context import DROP, WARN, MaskedItems

ITEMS = 200


@pytest.fixture(scope="module")
def evaluation(truth: Truth, systems: list[RankedLists], popularity: np.ndarray) -> Evaluation:
    past = PastItems(
        np.arange(0, 2 * truth.n_groups + 1, 2),
        np.arange(2 * truth.n_groups, dtype=np.int32) % ITEMS,
    )
    vectors = np.eye(ITEMS, 8, dtype=np.float32) + 0.1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fair = systems[1]
    return evaluate_lists(
        truth,
        [*systems, RankedLists("without text", fair.items, fair.scores)],
        main="good",
        variants={"without text": "good"},
        ks=(10, 30),
        segments={
            "users": segments.by_activity(truth.user % 20),
            "items": segments.by_item_popularity(
                truth, PopularityAt.same(popularity, truth.n_groups, ITEMS)
            ),
        },
        catalogue_size=ITEMS,
        item_popularity=popularity,
        item_vectors=vectors,
        item_category=np.arange(ITEMS) % 7,
        past_items=past,
        resamples=200,
    )


@pytest.fixture(scope="module")
def full_page(evaluation: Evaluation) -> str:
    return render(evaluation, full_context())


def full_context() -> ReportContext:
    return ReportContext(
        title="Night <of> the & tests",
        created_at=1_700_000_000_000_000,
        model_version="recsys/7",
        data={"events": 12_345, "quarantine": {"unknown_item": 3}},
        split={"fit until": "2020-09-13"},
        release={"overlap of the first 10": 0.81},
        validation={"ndcg@10": 0.4},
        stages=[StageCost("ranker", 161.5, 812.0, 2_345_678), ("encoder", 190.0, None, None, True)],
        budget={"encoder": 12.0},
        learning_curves=[{"step": 0, "loss": 5.0, "val": 0.1}, {"step": 10, "loss": 4.0}],
        ranker=RankerFacts(
            {"trees": 40}, {"both": 0.2}, [("text.score", "text", 9.5)], {"text": 0.4}
        ),
        sources=[
            SourceFact("als", True, "adds recall", 0.31, {"factors": 64}, 1_600_000_000_000_000),
            ("ease", False, "no gain"),
        ],
        gate=GateDecision(
            True,
            ["not worse than recsys/6"],
            "recsys/6",
            "Promoted over version 6 by policy, not by evidence.",
            [
                GateRow("not worse (overall)", "policy", -0.0123, -0.02, 0.0077, True),
                GateRow("latency, ms", "passed", 12.5, 250.0, 237.5),
                GateRow("no leak", "passed"),
            ],
            ["the smallest loss that would have been seen is 7.4%"],
        ),
        leak_checks=[Check("fit before test", True, "fine")],
        parity=[("interest.score", True, "1e-9")],
        drift=summary([Drift("events", "PSI", 0.02, 0.25, "ok", "little")]),
        warnings=["encoder kept"],
        failed_systems={"bm25": "no text in the items"},
        examples=[
            Example(
                "<script>alert(1)</script>",
                ["Old & gold"],
                [ExampleItem("$5 <b>bold</b>", 1.5, ["text +0.3"], True)],
                ["Missed"],
            )
        ],
        position_bias=PositionBias([1.0, 0.5], [1.0, 0.4], [1.0, 0.6], "swaps"),
        off_policy=OffPolicy(
            "a click", 900, {"snips": Interval(0.31, 0.2, 0.4, 9, 9)}, 0.2, 340.0, 0.01, None
        ),
        seen={"encoder": "events before 2015"},
        live={
            "window_days": 7,
            "champion": "7",
            "before": "6",
            "fall": "",
            "change": {},
            "drift": [],
            "versions": [
                {
                    "version": "7",
                    "lists": 12,
                    "persons": 9,
                    "coverage": 0.4,
                    "rates": {"positive@10": [0.25, 0.1, 0.4]},
                    "days": {},
                }
            ],
        },
        masked=MaskedItems(
            items=20,
            lists=45,
            positives=51,
            since=1_600_000_000_000_000,
            metrics=("recall@10",),
            systems={"good": {"recall@10": Interval(0.31, 0.2, 0.4, 45, 45)}},
            ahead={"without text": {"recall@10": Interval(0.05, 0.01, 0.09, 45, 45)}},
        ),
        caveats=["One city only."],
    )


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails on tags left open."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        for name in ("href", "src", "xlink:href"):
            if found.get(name):
                self.links.append(str(found[name]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_three_systems_of_known_quality_are_ordered(evaluation: Evaluation) -> None:
    means = [evaluation.systems[n]["ndcg@10"].value for n in ("good", "fair", "chance")]
    assert means == sorted(means, reverse=True)
    assert evaluation.differences["fair"]["ndcg@10"].verdict == "ahead"
    assert evaluation.differences["chance"]["ndcg@10"].verdict == "ahead"
    assert verdict(evaluation).startswith("On ndcg@10, good (")
    assert "is ahead of fair and chance, measured on 60 users (120 lists)" in verdict(evaluation)


def test_differences_are_the_means_apart(evaluation: Evaluation) -> None:
    for name in ("fair", "chance"):
        for metric, difference in evaluation.differences[name].items():
            own, other = (evaluation.systems[n][metric].value for n in ("good", name))
            if metric != "auc":  # defined on other groups
                assert difference.interval.value == pytest.approx(own - other, abs=1e-9), metric


def test_a_variant_is_held_against_its_base_and_is_no_competitor(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray, evaluation: Evaluation
) -> None:
    assert "without text" not in verdict(evaluation)
    assert "without text" not in evaluation.segments["users"][0].systems
    part, fair = (evaluation.differences[n]["ndcg@10"] for n in ("without text", "fair"))
    assert part.interval == fair.interval  # same lists, same base

    found = evaluate_lists(
        truth, systems, main="good", variants={"chance": "fair"}, ks=(10,), catalogue_size=ITEMS,
        item_popularity=popularity, resamples=50,
    )  # fmt: skip
    means = {n: found.systems[n]["ndcg@10"].value for n in ("fair", "chance")}
    assert found.differences["chance"]["ndcg@10"].interval.value == pytest.approx(
        means["fair"] - means["chance"]
    )
    with pytest.raises(UsageError, match="variant"):
        evaluate_lists(
            truth, systems, main="good", variants={"good": "fair"}, ks=(10,),
            catalogue_size=ITEMS, item_popularity=popularity, resamples=50,
        )  # fmt: skip


def test_group_segments_average_to_the_whole(evaluation: Evaluation) -> None:
    rows = evaluation.segments["users"]
    total = sum(s.systems["good"].value * s.groups for s in rows if s.groups)
    assert total / sum(s.groups for s in rows) == pytest.approx(
        evaluation.systems["good"]["ndcg@10"].value
    )
    days = sum(d.systems["good"].value * d.groups for d in evaluation.days)
    assert days / evaluation.groups == pytest.approx(evaluation.systems["good"]["ndcg@10"].value)
    assert len(evaluation.days) == 12


def test_item_segments_measure_the_whole_list_by_part_of_the_truth(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray, evaluation: Evaluation
) -> None:
    from recsys.evaluation import metrics

    cold = popularity[truth.items] == 0
    values = metrics.ndcg(metrics.match(truth.restricted(cold), systems[0]), 10)
    row = evaluation.segments["items"][0]
    assert row.label == "cold_items"
    assert row.systems["good"].value == pytest.approx(np.nanmean(values))
    assert row.groups == int(np.isfinite(values).sum()) < truth.n_groups


def test_main_against_itself_cannot_be_told_apart(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    twin = RankedLists("twin", systems[0].items, systems[0].scores)
    found = evaluate_lists(
        truth, [systems[0], twin], main="good", ks=(10,), catalogue_size=ITEMS,
        item_popularity=popularity, resamples=50,
    )  # fmt: skip
    difference = found.differences["twin"]["ndcg@10"]
    assert (difference.interval.low, difference.interval.high) == (0.0, 0.0)
    assert difference.verdict == "cannot tell"
    assert "not to be told apart from twin" in verdict(found)


def test_the_same_seed_gives_the_same_tree(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    trees = [
        evaluate_lists(
            truth, systems, main="fair", ks=(5,), catalogue_size=ITEMS,
            item_popularity=popularity, seed=3, resamples=60,
        ).to_json()
        for _ in range(2)
    ]  # fmt: skip
    assert trees[0] == trees[1]
    assert trees[0]["differences"]["good"]["ndcg@5"]["verdict"] == "behind"


@pytest.mark.usefixtures("undrawn")
def test_written_files_hold_the_same_numbers(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_report(evaluation, full_context(), tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    assert sorted(p.name for p in page.parent.iterdir()) == [
        "report.html", "report.json", "report.parquet",
    ]  # fmt: skip
    tree = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    own = evaluation.systems["good"]["ndcg@10"]
    assert tree["evaluation"]["systems"]["good"]["ndcg@10"] == own._asdict()
    assert tree["context"]["sources"][0]["params"] == {"factors": 64}
    table = pq.read_table(page.parent / "report.parquet")
    values = table.column("good/ndcg@10").to_numpy()
    assert values.mean() == pytest.approx(own.value, rel=1e-5)
    assert table.num_rows == evaluation.groups


def test_page_is_whole_self_contained_and_accessible(full_page: str) -> None:
    page = Page(full_page)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links), page.links
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)
    assert ("html", {"lang": "en"}) in page.tags
    assert all(found.get("scope") in ("row", "col") for tag, found in page.tags if tag == "th")
    figures = [found for tag, found in page.tags if tag == "figure"]
    assert len(figures) >= 9
    assert all(len(str(found["aria-label"])) > 30 for found in figures)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe")]
    assert page.tags[0][0] == "html"


def test_page_says_everything_it_was_given(full_page: str) -> None:
    words = Page(full_page).words
    for text in (
        "Night <of> the & tests", "recsys/7", "12,345", "unknown_item: 3", "2 min 41 s", "2.3 MB",
        "unchanged, earlier output used", "not worse than recsys/6", "no gain", "encoder kept",
        "bm25 could not be evaluated", "no text in the items", "<script>alert(1)</script>",
        "Old & gold", "$5 <b>bold</b>", "✓ hit", "One city only.", "2020-09-13 12:26 UTC",
    ):  # fmt: skip
        assert text in words, text
    assert "Not in this report" not in words
    assert "did not hand over" not in words


def test_a_metric_that_reads_worse_than_chance_is_not_in_the_first_table(full_page: str) -> None:
    tables = full_page.split("<table")
    first = next(t for t in tables if "Means over lists" in t)
    every = next(t for t in tables if "<caption>All metrics" in t)
    assert ">auc<" not in first
    assert ">auc<" in every


def test_every_cell_of_a_table_is_filled(full_page: str) -> None:
    """A generator used up by the first row once left a table half blank."""
    import re

    for table in re.findall(r"<table.*?</table>", full_page, flags=re.S):
        head = table.count('scope="col"')
        if not head:
            continue
        body = table.split("<tbody>")[1]
        for row in re.findall(r"<tr.*?</tr>", body, flags=re.S):
            assert len(re.findall(r"<t[dh][ >]", row)) == head, row


@pytest.mark.usefixtures("undrawn")
def test_runs_of_one_stage_are_one_row(evaluation: Evaluation) -> None:
    stages = [
        StageCost("als", 1.0, 100.0, 1_000_000),
        ("als", 2.5, 300.0, 2_000_000, True),
        ("ranker", 4.0),
        ("encoder", 1332.0, 900.0, 5_000_000, True),
    ]
    page = Page(render(evaluation, ReportContext(stages=stages, elapsed=513.0))).words
    assert "als 1.0 s 2.5 s 100 MB 1.0 MB 2 outputs, 1 unchanged, earlier output used" in page
    assert "ranker 4.0 s — — — —" in page
    assert "encoder — 22 min 12 s — — unchanged, earlier output used" in page
    assert "together 5.0 s 22 min 14 s" in page  # what was kept took no time tonight
    assert "until this page was written the night took 8 min 33 s." in page


@pytest.mark.usefixtures("undrawn")
def test_off_policy_estimates_or_their_refusal_are_shown(evaluation: Evaluation) -> None:
    given = Page(render(evaluation, full_context())).words
    assert "As logged: 0.2000 , over 900 choices" in given or "As logged: 0.2000, over 900" in given
    assert "snips 0.3100 0.2000 – 0.4000" in given
    refused = OffPolicy("a click", 900, {}, 0.2, 3.0, 0.0, "only 3 effective choices")
    words = Page(render(evaluation, ReportContext(off_policy=refused))).words
    assert "No estimate is given: only 3 effective choices" in words
    assert "snips" not in words


def test_the_gates_decision_comes_first_then_its_rules_with_the_room_they_leave(
    full_page: str,
) -> None:
    words = Page(full_page).words
    told = words[words.index("Promoted over version 6 by policy, not by evidence.") :]
    order = [
        "the smallest loss that would have been seen is 7.4%",
        "rule finding value limit room",
        "not worse (overall) policy −1.2% −2.0% +0.8%",
        "latency, ms passed 12.5 250 237.5",
        "no leak passed — — —",
        "What each rule found not worse than recsys/6",
    ]
    places = [told.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("promoted", "said"), [(True, "Promoted."), (False, "Not promoted.")])
def test_a_gate_without_rules_is_told_in_words(
    evaluation: Evaluation, promoted: bool, said: str
) -> None:
    context = ReportContext(gate=GateDecision(promoted, ["one reason"]))
    words = Page(render(evaluation, context)).words
    assert f"{said} There was no champion to compare with. one reason" in words
    assert "rule finding value" not in words


@pytest.mark.usefixtures("undrawn")
def test_what_refuses_nothing_is_no_alarm(evaluation: Evaluation) -> None:
    """A red “leak suspected” once stood beside a gate that had passed it as no leak."""
    checks = [
        Check("no feature is stronger in training", False, "age (AUC .9, .7)", WARN),
        Check("created_at is its own", False, "it is the first event", DROP),
    ]
    assert not any(check.refuses for check in checks)
    context = ReportContext(leak_checks=checks)
    assert alarms(evaluation, context) == []
    words = Page(render(evaluation, context)).words
    care = words[words.rindex("Read with care") : words.index("Means over lists")]
    assert "no feature is stronger in training: not so, age (AUC .9, .7)" in care
    assert "worth a look" in words
    assert "left out" in words
    assert "Leak suspected" not in words


@pytest.mark.usefixtures("undrawn")
def test_missing_parts_are_named(evaluation: Evaluation) -> None:
    words = Page(render(evaluation, ReportContext())).words
    assert alarms(evaluation, ReportContext()) == []
    for part in (
        "Not in this report: the gate's decision", "examples of ranked lists",
        "leak checks: none were run", "learning curves of the encoder", "costs of the stages",
        "position bias (it needs impressions)", "facts about the ranker", "masked cold items", "what each part has seen", "version not said",
    ):  # fmt: skip
        assert part in words, part


@pytest.mark.usefixtures("undrawn")
def test_leaks_drift_parity_and_too_good_validation_come_first(evaluation: Evaluation) -> None:
    context = ReportContext(
        leak_checks=[Check("no future counts", False, "suspected: f3"), Check("other", True)],
        parity=[Check("score", False, "off by 0.1")],
        drift=[{"what": "items", "level": "stop", "detail": "all new"}],
        alarms=["disk nearly full"],
        validation={"ndcg@10": 3.0, "unknown": 1.0},
    )
    found = alarms(evaluation, context)
    assert len(found) == 5
    source = render(evaluation, context)
    assert source.index("5 alarms") < source.index('class="verdict"')
    words = Page(source).words
    for text in ("no future counts", "suspected: f3", "off by 0.1", "all new", "disk nearly full"):
        assert text in words
    assert "Validation ndcg@10 3.0000 is far above test" in words


@pytest.mark.usefixtures("undrawn")
def test_sampled_ranking_is_warned_about(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    found = evaluate_lists(
        truth, systems[:1], main="good", ks=(10,), catalogue_size=ITEMS,
        item_popularity=popularity, sampled_candidates=100, resamples=20,
    )  # fmt: skip
    assert "not the whole catalogue" in verdict(found)
    assert any("sample of 100 candidates" in w for w in found.warnings)
    assert "measured alone" in verdict(found)
    assert "Nothing to compare with" in Page(render(found, ReportContext())).words


def test_the_verdict_names_the_strongest_beaten_and_everybody_else(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    good, fair, chance = systems
    many = [RankedLists(f"chance {i}", chance.items, chance.scores) for i in range(6)]
    twin = RankedLists("twin", good.items, good.scores)
    found = evaluate_lists(
        truth, [good, *many, fair, twin], main="good", ks=(10,), catalogue_size=ITEMS,
        item_popularity=popularity, resamples=100,
    )  # fmt: skip
    said = verdict(found)
    assert "ahead of fair, chance 0, chance 1, chance 2 and 3 weaker others;" in said
    assert "not to be told apart from twin" in said


def test_blocks_of_columns_change_nothing(
    truth: Truth,
    systems: list[RankedLists],
    popularity: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tree() -> dict[str, object]:
        return evaluate_lists(
            truth, systems, main="good", ks=(10,), catalogue_size=ITEMS,
            item_popularity=popularity, resamples=40,
        ).to_json()  # fmt: skip

    whole = tree()
    monkeypatch.setattr("recsys.evaluation.evaluation.BLOCK_CELLS", 500)
    blocks = tree()
    for name in ("fair", "chance"):
        for metric, difference in blocks["differences"][name].items():
            assert difference["interval"] == pytest.approx(
                whole["differences"][name][metric]["interval"]
            )


def test_days_of_the_callers_own_replace_those_of_the_moments(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    own = segments.from_column(["weekday", "weekend"] * (truth.n_groups // 2))
    found = evaluate_lists(
        truth, systems[:2], main="good", ks=(10,), segments={"day": own}, catalogue_size=ITEMS,
        item_popularity=popularity, resamples=20,
    )  # fmt: skip
    assert [d.label for d in found.days] == ["weekday", "weekend"]
    assert found.segments == {}


def test_items_beyond_the_popularity_table_are_new(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    same = {"main": "good", "ks": (10,), "catalogue_size": ITEMS, "resamples": 20}
    short = evaluate_lists(truth, systems[:1], item_popularity=popularity[:150], **same)
    padded = np.append(popularity[:150], np.zeros(50, int))
    whole = evaluate_lists(truth, systems[:1], item_popularity=padded, **same)
    assert short.to_json() == whole.to_json()
    assert sum(short.exposure["good"]) == pytest.approx(1.0)


@pytest.mark.usefixtures("undrawn")
def test_an_empty_window_is_said_to_be_empty(popularity: np.ndarray, tmp_path: Path) -> None:
    nothing = Truth(
        np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int8),
        np.empty(0, np.int32), np.empty(0, np.int64),
    )  # fmt: skip
    lists = [
        RankedLists(n, np.empty((0, 10), np.int32), np.empty((0, 10), np.float32)) for n in "ab"
    ]
    found = evaluate_lists(
        nothing, lists, main="a", ks=(10,), catalogue_size=ITEMS, item_popularity=popularity
    )
    assert verdict(found).startswith("Nothing was measured")
    assert "The evaluation window holds no groups: nothing was measured." in found.warnings
    page = write_report(found, ReportContext(), tmp_path)
    assert "Nothing was measured" in Page(page.read_text(encoding="utf-8")).words


def test_users_without_candidates_or_truth_are_counted(popularity: np.ndarray) -> None:
    truth = Truth.of(
        np.array([0]), np.array([3]), np.array([1]), np.arange(2), np.zeros(2, np.int64)
    )
    lists = RankedLists("a", np.full((2, 5), -1, np.int32), np.zeros((2, 5), np.float32))
    found = evaluate_lists(
        truth, [lists], main="a", ks=(5,), catalogue_size=ITEMS, item_popularity=popularity
    )
    assert found.groups_without_truth == 1
    assert found.systems["a"]["ndcg@5"].value == 0.0
    assert any("2 of 2 lists are empty" in w for w in found.warnings)
    assert any("1 of 2 groups have no relevant item" in w for w in found.warnings)
    assert any("Only 2 users" in w for w in found.warnings)


def test_wrong_calls_name_what_is_there(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    same = {"ks": (10,), "catalogue_size": ITEMS, "item_popularity": popularity}
    with pytest.raises(UsageError, match="one of good, fair, chance"):
        evaluate_lists(truth, systems, main="best", **same)
    with pytest.raises(UsageError, match="share a name"):
        evaluate_lists(truth, [systems[0], systems[0]], main="good", **same)
    with pytest.raises(UsageError, match="positive"):
        evaluate_lists(truth, systems, main="good", **(same | {"ks": (0,)}))
    wrong = {"users": segments.SegmentLabels(("x",), np.zeros(3, np.int32))}
    with pytest.raises(UsageError, match=r"segments\.users"):
        evaluate_lists(truth, systems, main="good", segments=wrong, **same)


@pytest.mark.usefixtures("undrawn")
def test_scores_that_can_be_chances_are_calibrated(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    chance = systems[0].items * 0 + np.linspace(1, 0, systems[0].length, dtype=np.float32)
    lists = RankedLists("p", systems[0].items, chance.astype(np.float32))
    found = evaluate_lists(
        truth, [lists], main="p", ks=(10,), catalogue_size=ITEMS, item_popularity=popularity,
        resamples=20,
    )  # fmt: skip
    assert found.scores_are_probabilities
    error = sum(b.rows * abs(b.predicted - b.observed) for b in found.score_bins)
    assert found.calibration_error == pytest.approx(error / sum(b.rows for b in found.score_bins))
    assert "Expected calibration error" in Page(render(found, ReportContext())).words


def test_segments_of_a_column_pool_the_rare_ones() -> None:
    values = ["a"] * 5 + ["b"] * 3 + [None] + [f"rare {i}" for i in range(40)]
    found = segments.from_column(values)
    assert found.labels[:2] == ("a", "b")
    assert found.labels[-1] == segments.OTHER
    assert len(found.labels) == segments.MAX_SEGMENTS
    assert found.code[8] == -1
    assert (found.code == len(found.labels) - 1).sum() == 40 - (segments.MAX_SEGMENTS - 3)


def test_long_windows_are_cut_into_stretches() -> None:
    day = segments.DAY_US
    found = segments.by_day(np.arange(100, dtype=np.int64) * day)
    assert len(found.labels) == segments.MAX_DAYS
    assert found.labels[:2] == ("1970-01-01", "1970-01-06")
    assert segments.by_day(np.empty(0, np.int64)).labels == ()


def test_the_headline_is_of_returning_people(
    truth: Truth, systems: list[RankedLists], popularity: np.ndarray
) -> None:
    length = (truth.user % 3).astype(np.int64)  # a third has no history
    found = evaluate_lists(
        truth, systems, main="fair", ks=(10,), catalogue_size=ITEMS, item_popularity=popularity,
        segments={segments.BY_HISTORY: segments.by_history(length)}, resamples=50,
    )  # fmt: skip
    returning, new = found.segments[segments.BY_HISTORY]
    said = verdict(found)
    assert f"fair ({returning.systems['fair'].value:.4f}) is" in said
    assert f"{returning.users:,} returning users ({returning.groups:,} lists)" in said
    share = new.groups / truth.n_groups
    assert said.endswith(
        f"People without a history are {share:.0%} of the lists and shown apart: "
        f"ndcg@10 {new.systems['fair'].value:.4f}."
    )
