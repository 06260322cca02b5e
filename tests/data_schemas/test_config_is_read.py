"""Every setting of recsys.yaml is read somewhere: one that nothing reads promises what it does not do.

The code is not run: receivers of attributes are resolved by annotations and assignments, so that
`encoder.history_length` being read does not speak for another section's field of that name.
"""

import ast
from pathlib import Path

from recsys.data_schemas import config as config_module
from recsys.data_schemas.config import RecsysConfig, Section
from recsys.data_schemas.tables import TABLES

ROOMS = ("storage", "features", "ingestion", "evaluation", "recsys", "training", "serving")
ROOT = Path(__file__).parents[2]
FILES = [
    *(file for room in (*ROOMS, "operations") for file in (ROOT / room).rglob("*.py")),
    ROOT / "data_schemas" / "config.py",
]

Models = dict[str, dict[str, str | None]]
"""Section → field → the section it holds (also as a dict's values), None for a value."""
BY_NAME = {("DataConfig", table) for table in TABLES}
"""Read with the table's name, `getattr(config.data, table.name)`."""


def models_of_config() -> Models:
    classes = {n: c for n, c in vars(config_module).items() if isinstance(c, type)}
    sections = {n: c for n, c in classes.items() if issubclass(c, Section) and c is not Section}

    def held(annotation) -> str | None:
        return next((name for name in sections if name in str(annotation)), None)

    return {
        name: {field: held(info.annotation) for field, info in model.model_fields.items()}
        for name, model in sections.items()
    }


class Reads(ast.NodeVisitor):
    """(section, field) of every attribute of one file whose receiver may be that section."""

    def __init__(self, models: Models, attributes: dict[str, set[str]]) -> None:
        self.models, self.attributes = models, attributes
        self.scopes: list[dict[str, set[str]]] = [{}]
        self.found: set[tuple[str, str]] = set()

    def named(self, annotation: ast.AST | None) -> set[str]:
        text = "" if annotation is None else ast.unparse(annotation)
        return {name for name in self.models if name in text}

    def sections_of(self, node: ast.AST) -> set[str]:
        """Sections that an expression may be."""
        if isinstance(node, ast.Name):
            return next((s[node.id] for s in reversed(self.scopes) if node.id in s), set())
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kept = node.func.attr in ("model_copy", "model_validate", "items", "values")
            return self.sections_of(node.func.value) if kept else set()
        if not isinstance(node, ast.Attribute):
            return set()
        parents = self.sections_of(node.value)
        inside = {self.models[p].get(node.attr) for p in parents} - {None}
        return inside if parents else self.attributes.get(node.attr, set())

    def bind(self, target: ast.AST, sections: set[str]) -> None:
        if isinstance(target, ast.Name) and sections:
            self.scopes[-1][target.id] = sections
        elif isinstance(target, ast.Attribute) and sections:
            self.attributes.setdefault(target.attr, set()).update(sections)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        self.scopes.append(
            {arg.arg: self.named(arg.annotation) for arg in given if arg.arg != "self"}
        )
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        own = {node.name} if node.name in self.models else set()
        self.scopes.append({"self": own} if own else {})
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                held = set() if own else self.named(part.annotation)
                self.attributes.setdefault(part.target.id, set()).update(held)
            if isinstance(part, ast.FunctionDef) and own:
                self.scopes[-1]["self"] = own
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for left, right in pairs:
                called = self.named(right.func) if isinstance(right, ast.Call) else set()
                loaded = isinstance(right, ast.Call) and "load_config" in ast.unparse(right.func)
                at_hand = {"RecsysConfig"} if loaded else called or self.sections_of(right)
                self.bind(left, at_hand)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        for part in node.generators:
            for name in ast.walk(part.target):
                self.bind(name, self.sections_of(part.iter))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.found |= {
            (section, node.attr)
            for section in self.sections_of(node.value)
            if node.attr in self.models.get(section, {})
        }
        self.generic_visit(node)


def unread(models: Models) -> set[str]:
    """`Section.field` of every field that no file reads."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in FILES]
    attributes: dict[str, set[str]] = {}
    found = set(BY_NAME)
    for _ in range(2):  # what a class holds is known after the first reading
        for tree in trees:
            reads = Reads(models, attributes)
            reads.visit(tree)
            found |= reads.found
    return {f"{s}.{f}" for s, fields in models.items() for f in fields if (s, f) not in found}


def test_every_setting_is_read():
    assert RecsysConfig.__name__ in models_of_config()
    assert unread(models_of_config()) == set()


def test_a_setting_that_nothing_reads_is_found():
    models = models_of_config()
    # A name that another section has and that is read there.
    models["FeaturesConfig"]["history_length"] = None
    models["GateConfig"]["fondness"] = None
    assert unread(models) == {"FeaturesConfig.history_length", "GateConfig.fondness"}
