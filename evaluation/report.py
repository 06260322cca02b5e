"""The report: measure ranked lists, write the page and its machine-readable twins.

evaluation = evaluate_lists(truth, systems, main="ranker", ks=(10, 100), ...)
page = write_report(evaluation, ReportContext(title="..."), out_dir)
"""

from recsys.evaluation.evaluation import Difference, Evaluation, Segment, evaluate_lists
from recsys.evaluation.lists import PastItems
from recsys.evaluation.off_policy import OffPolicy
from recsys.evaluation.page import (
    alarms,
    render,
    verdict,
    write_report,
)
from recsys.evaluation.report_context import (
    Check,
    Example,
    ExampleItem,
    GateDecision,
    GateRow,
    Importance,
    PositionBias,
    RankerFacts,
    ReportContext,
    SourceFact,
    StageCost,
)
from recsys.evaluation.segments import SegmentLabels
from recsys.evaluation.uncertainty import Interval

__all__ = [
    "Check",
    "Difference",
    "Evaluation",
    "Example",
    "ExampleItem",
    "GateDecision",
    "GateRow",
    "Importance",
    "Interval",
    "OffPolicy",
    "PastItems",
    "PositionBias",
    "RankerFacts",
    "ReportContext",
    "Segment",
    "SegmentLabels",
    "SourceFact",
    "StageCost",
    "alarms",
    "evaluate_lists",
    "render",
    "verdict",
    "write_report",
]
