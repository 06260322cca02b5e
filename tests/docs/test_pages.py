"""The pages name what is there: paths, modules and classes of today; lines that fit a screen."""

import importlib.util
import re
from pathlib import Path

import pytest

import recsys

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
ROOMS = sorted(f.parent.name for f in ROOT.glob("*/__init__.py"))
PLACES = (*ROOMS, "tests", "benchmarks", "docs", "deploy")
CODE = "\n".join(
    f.read_text(encoding="utf-8") for room in ROOMS for f in (ROOT / room).rglob("*.py")
)
WIDTH = 120
GLOSSARY = ROOT / "docs" / "glossary.md"


def quoted(text: str) -> list[str]:
    """What stands in backticks, blocks of code left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def missing_paths(text: str) -> set[str]:
    """Paths below the repository's folders that are not there; those of a workspace are not meant."""
    named = {word for code in quoted(text) for word in re.findall(r"[\w./-]+", code)}
    paths = {word for word in named if word.startswith(tuple(f"{p}/" for p in PLACES))}
    return {path for path in paths if not (ROOT / path).exists()}


def missing_modules(text: str) -> set[str]:
    """Dotted names below `recsys.` that lead to no module and to no name in one."""
    named = {n for code in quoted(text) for n in re.findall(r"\brecsys(?:\.[A-Za-z_]\w*)+", code)}
    return {
        name for name in named - {"recsys.yaml", "recsys.schema.json"} if not leads_somewhere(name)
    }


def leads_somewhere(name: str) -> bool:
    parts = name.split(".")
    if parts[1] in recsys.__all__:
        return len(parts) == 2 or hasattr(getattr(recsys, parts[1]), parts[2])
    for length in range(len(parts), 1, -1):
        try:
            found = importlib.util.find_spec(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        if found is not None:
            source = Path(found.origin or "").read_text(encoding="utf-8")
            return length == len(parts) or re.search(rf"\b{parts[length]}\b", source) is not None
    return False


def missing_classes(text: str) -> set[str]:
    """Names in CamelCase that no code holds."""
    named = {n for code in quoted(text) for n in re.findall(r"\b[A-Z][a-z]+[A-Z]\w*", code)}
    return {name for name in named if not re.search(rf"\b{name}\b", CODE)}


def missing_tests(text: str) -> set[str]:
    """Tests named as `file::function` that are not there."""
    named = {n for code in quoted(text) for n in re.findall(r"(tests/[\w/]+\.py)::(\w+)", code)}
    return {
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists()
        or f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    }


def long_lines(text: str) -> list[str]:
    """Lines of prose that are too long; rows of a table and blocks of code are as long as they are."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S).splitlines()
    return [line for line in prose if len(line) >= WIDTH and not line.lstrip().startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize(
    "fault", [missing_paths, missing_modules, missing_classes, missing_tests, long_lines]
)
def test_a_page_is_of_today(page, fault):
    assert not fault(page.read_text(encoding="utf-8"))


def test_what_is_not_there_is_found():
    text = "see `recsys/gone.py`, `recsys.features.gone`, `recsys.query.Gone` and `GoneClass`"
    assert missing_paths(text) == {"recsys/gone.py"}
    assert missing_modules(text) == {"recsys.features.gone", "recsys.query.Gone"}
    assert missing_classes(text) == {"GoneClass"}
    gone = "tests/docs/test_pages.py::test_gone"
    assert missing_tests(f"`{gone}`, `tests/docs/test_pages.py::test_a_page_is_of_today`") == {gone}
    assert long_lines("x" * WIDTH + "\n| " + "x" * WIDTH) == ["x" * WIDTH]


def entries() -> list[tuple[str, str]]:
    """(word, explanation) of the glossary."""
    text = GLOSSARY.read_text(encoding="utf-8")
    return re.findall(r"^\*\*(.+?)\.\*\* (.+?)(?=\n\n|\Z)", text, re.M | re.S)


def test_the_glossary_is_in_order_and_says_where_a_thing_lives():
    words = [word for word, _ in entries()]
    assert len(words) >= 50
    assert words == sorted(words, key=str.lower)
    for word, text in entries():
        assert any(part.startswith(tuple(f"{p}/" for p in PLACES)) for part in quoted(text)), word


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_glossary_is_found(page):
    assert re.search(r"\]\((docs/)?glossary\.md\)", (ROOT / page).read_text(encoding="utf-8"))


def test_every_script_of_the_benchmarks_has_its_line():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`benchmarks/(\w+\.py)`", page))
    assert {file.name for file in (ROOT / "benchmarks").glob("*.py")} == named
