"""The lowest versions that pyproject.toml allows, as pip's constraints: `name==lowest`, by line.

PyTorch is left out: it stays at the tested version. pip itself resolves to the newest only.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
KEPT = {"torch"}
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,]+\])?>=(?P<lowest>[\w.]+),<[\w.]+")


def lowest(project: Path = PROJECT) -> dict[str, str]:
    """{distribution: lowest version}, of the dependencies and of every extra.

    Raises:
        ValueError: a requirement is not `name>=lowest,<next`, or two of one name disagree.
    """
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    groups = [table["dependencies"], *table["optional-dependencies"].values()]
    found: dict[str, str] = {}
    for requirement in (r for group in groups for r in group):
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"{requirement!r} is not `name>=lowest,<next`")
        if found.setdefault(match["name"], match["lowest"]) != match["lowest"]:
            raise ValueError(f"{match['name']} has two lowest versions")
    return found


if __name__ == "__main__":
    print("\n".join(f"{n}=={v}" for n, v in lowest().items() if n not in KEPT))
