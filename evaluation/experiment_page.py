"""The page of an experiment's result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.evaluation.experiment_analysis import ExperimentResult, as_json
from recsys.evaluation.experiment_statistics import LEAST_CLUSTERS
from recsys.evaluation.page import FORMAT, template
from recsys.storage.files import atomic_write

PAGE, NUMBERS = "experiment.html", "experiment.json"


def write_experiment(
    result: ExperimentResult, facts: Mapping[str, Any], out_dir: Path, name: str
) -> Path:
    """Write experiment.html and experiment.json; the page's path.

    Args:
        result: what `analyse` found.
        facts: what the experiment was, label → value.
        out_dir: folder of the page; made where it is missing.
        name: of the experiment.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    tree = {"format": FORMAT, "experiment": name, "facts": dict(facts), **as_json(result)}
    atomic_write(out_dir / NUMBERS, json.dumps(tree, ensure_ascii=False, allow_nan=False))
    text = template("experiment.html.j2").render(
        name=name, r=result, facts=facts, least=LEAST_CLUSTERS
    )
    atomic_write(out_dir / PAGE, text)
    return out_dir / PAGE
