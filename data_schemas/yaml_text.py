"""YAML as people write it: a key is the text that stands there, and only `true` and `false` are
booleans.

YAML 1.1, which PyYAML reads, takes on, off, yes, no, y and n for booleans, 1 and 2024 for numbers
and null for nothing, in keys too: `notify: {on: [failed]}` would be a setting named True. YAML 1.2
(section 10.3.2) has true and false alone.

A text is bounded before it is built: in its length, its depth, and in how much it is once every
alias is written out, so that nine lines cannot become a billion values.
"""

import re
from typing import Any, Final

import yaml

LENGTH: Final = 1_000_000
"""Characters of a document."""
DEPTH: Final = 50
"""Levels within each other; settings have four."""
VALUES: Final = 100_000
"""Keys and values of a document, each alias counted as what it stands for."""
_BOOL: Final = "tag:yaml.org,2002:bool"
_TEXT: Final = "tag:yaml.org,2002:str"
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the two differences above."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > DEPTH:
            place: Any = super().peek_event()  # type: ignore[no-untyped-call]
            raise _refused(f"more than {DEPTH} levels within each other", place)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_document(self) -> Any:
        node = super().compose_document()
        _count(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                key.tag = _TEXT
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _refused(problem: str, place: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _count(node: Any, known: dict[int, int]) -> int:
    """Keys and values below a node, aliases written out; `known` holds those of nodes by id.

    Raises:
        yaml.YAMLError: there are more than VALUES, or a node holds itself.
    """
    size = known.get(id(node))
    if size == 0:
        raise _refused("an alias stands for what it lies in", node)
    if size is not None:
        return size
    known[id(node)] = 0
    below = [] if isinstance(node, yaml.ScalarNode) else node.value
    pairs = isinstance(node, yaml.MappingNode)
    size = 1 + sum(_count(n, known) for entry in below for n in (entry if pairs else (entry,)))
    if size > VALUES:
        raise _refused(f"more than {VALUES:,} values once aliases are written out", node)
    known[id(node)] = size
    return size


def read_yaml(text: str) -> Any:
    """The content of one YAML document.

    >>> read_yaml("{on: [no, true], 2024: yes}")
    {'on': ['no', True], '2024': 'yes'}

    Raises:
        yaml.YAMLError: it is not valid YAML, or is longer, deeper or more than is bounded here.
    """
    if len(text) > LENGTH:
        raise yaml.YAMLError(f"it is longer than {LENGTH:,} characters")
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, OverflowError, RecursionError) as error:
        # A date such as 2024-02-30, a number of 5,000 digits.
        raise yaml.YAMLError(f"a value is not what it looks like: {error}") from None
