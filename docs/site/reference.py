"""Reference pages of the docs site, made from what they describe: parser, settings, docstrings, routes.

A hook of mkdocs: the pages exist only while the site is built, so they cannot be out of date.
"""

import argparse
import html
import inspect
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

import recsys
from recsys.data_schemas.config import EventTypeConfig, RecsysConfig
from recsys.data_schemas.config_file import section_of
from recsys.evaluation.metrics import METRICS
from recsys.operations.cli.completion import commands
from recsys.operations.cli.main import build_parser
from recsys.retrieval.source_kinds import shipped
from recsys.retrieval.source_params import declared
from recsys.serving.routes import OPERATIONS

COMMON = ("--config", "--debug", "--help")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for name, lines in (
        ("commands", command_page()),
        ("settings", settings_page()),
        ("python-names", python_page()),
        ("calls", calls_page()),
        ("sources", sources_page()),
        ("metrics", metrics_page()),
    ):
        text = "\n".join(lines) + "\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def cell(text: object) -> str:
    """Text in one cell of a table."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")


def command_page() -> Iterator[str]:
    """Every command with its arguments."""
    yield "# Commands\n\nAs `recsys COMMAND --help` says it. Every command takes `-c FILE` (the workspace's"
    yield "`recsys.yaml`, by default the one in this folder) and `--debug`. Exit codes: 0 done, 1 failed, 2 call or"
    yield "config wrong, 3 data refused, 4 promotion refused."
    for path, parser in commands(build_parser()):
        if not path:
            continue
        yield f"\n## recsys {' '.join(path)}\n"
        about = help_of(path)
        if about:
            yield f"{about[0].upper()}{about[1:]}.\n"
        rows = [a for a in parser._actions if not set(COMMON) & set(a.option_strings)]
        rows = [a for a in rows if not isinstance(a, argparse._SubParsersAction)]
        if rows:
            yield "| argument | |\n|---|---|"
        for action in rows:
            name = ", ".join(action.option_strings) or action.metavar or action.dest
            value = action.metavar if action.option_strings and action.nargs != 0 else None
            choices = ", ".join(map(str, action.choices)) if action.choices else ""
            said = "; ".join(part for part in (action.help or "", choices) if part)
            yield f"| `{name}{f' {value}' if value else ''}` | {cell(said)} |"


def help_of(path: tuple[str, ...]) -> str:
    """The line of a command on the help page above it."""
    parser: argparse.ArgumentParser = build_parser()
    said = ""
    for name in path:
        action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        said = next((c.help or "" for c in action._choices_actions if c.dest == name), "")
        parser = action.choices[name]
    return said


def settings_page() -> Iterator[str]:
    """Every setting with its default and what it does."""
    yield "# recsys.yaml\n\nOnly `data.items` and `data.events` are needed. `recsys init DIR` writes a file with all of"
    yield "these; `recsys schema` prints their JSON schema. Any of them may come from the environment:"
    yield "`RECSYS__SERVING__WORKERS=4`."
    yield "\n## Settings of the file\n\n| setting | default | |\n|---|---|---|"
    sections = []
    for name, info in RecsysConfig.model_fields.items():
        section = section_of(info)
        if section is None:
            yield setting_row(name, info)
        else:
            sections.append((name, section))
    for name, section in [*sections, ("events.types.NAME", EventTypeConfig)]:
        yield f"\n## {name}\n"
        said = (section.__doc__ or "").strip().split("\n\n")[0]
        if said and "BaseModel" not in said:
            yield f"{said}\n"
        yield "| setting | default | |\n|---|---|---|"
        for key, info in section.model_fields.items():
            inner = section_of(info)
            if inner is None:
                yield setting_row(key, info)
            else:
                for below, field in inner.model_fields.items():
                    yield setting_row(f"{key}.{below}", field)


def setting_row(name: str, info: Any) -> str:
    default = (
        "needed" if info.is_required() else f"`{info.get_default(call_default_factory=True)!r}`"
    )
    if section_of(info) is None and default.startswith("`{") and len(default) > 60:
        default = "…"
    return f"| `{name}` | {cell(default)} | {cell(info.description or '')} |"


def python_page() -> Iterator[str]:
    """Every public name with its signature and docstring."""
    yield "# Python, name by name\n\n`import recsys` loads nothing; each name loads its room when it is first used."
    yield "[The Python API](../python.md) tells how they go together."
    for name in sorted(recsys.__all__, key=str.lower):
        found = getattr(recsys, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            yield from described(f"recsys.{name}", found, 2)
            if inspect.isclass(found):
                for method, value in vars(found).items():
                    if inspect.isfunction(value) and not method.startswith("_"):
                        yield from described(f"{name}.{method}", value, 3)
    for name in recsys.models.__all__:
        yield from described(f"recsys.models.{name}", getattr(recsys.models, name), 2)


def described(name: str, found: Any, level: int) -> Iterator[str]:
    """A heading, the signature, and the docstring as it is laid out."""
    yield f"\n{'#' * level} {name}\n"
    try:
        signature = re.sub(
            r"\b(?:recsys|pandas|numpy|pathlib|collections)\.[\w.]*\.",
            "",
            str(inspect.signature(found)),
        )
    except (TypeError, ValueError):
        signature = ""
    if signature:
        yield f"```python\n{name.rpartition('.')[2]}{signature}\n```\n"
    text = inspect.getdoc(found) or ""
    if text:
        yield f"```text\n{text}\n```"


def calls_page() -> Iterator[str]:
    """Every route of the service."""
    yield "# HTTP, call by call\n\nThe service's own `/docs` and `/openapi.json` have the fields of every body."
    yield "[The HTTP API](../api.md) tells how they go together.\n"
    yield "| call | | scope |\n|---|---|---|"
    for operation in OPERATIONS:
        scope = operation.scope or "none"
        said = operation.about
        yield f"| `{operation.method} {operation.path}` | {cell(said)} | {scope} |"


def sources_page() -> Iterator[str]:
    """Every source as its class declares it."""
    yield "# Sources and their params\n\nIn the order in which they are fitted, the cheapest first. `sources.use`"
    yield "names them, `sources.dials` sets their params (`sources: {dials: {als: {factors: 64}}}`); what is not set is"
    yield "tuned among the values named, and stays at its default where there is one value or none. A source of"
    yield "[your own](../python.md#sources-metrics-and-hooks-of-your-own) declares the same.\n"
    for name, kind in shipped().items():
        yield f"\n## {name}\n\n{cell((kind.__doc__ or '').partition('Args:')[0])}\n"
        facts = [f"family: {kind.family}", f"reads: {', '.join(sorted(kind.reads))}"]
        facts += [f"always there, {kind.always}"] * bool(kind.always)
        facts += ["goes on from an earlier night's fit"] * kind.warm
        facts += ["made in parts on an engine"] * kind.in_parts
        facts += ["speaks for items without events"] * kind.content
        yield "; ".join([f"Costs: {kind.cost.name.lower()}", *facts]) + ".\n"
        yield "| param | default | tuned among | from | to | unit | |\n|---|---|---|---|---|---|---|"
        for param, said in declared(kind.Params).items():
            most = "" if said.most is None else f"{said.most:g}"
            tries = ", ".join(f"{value:g}" for value in said.tries)
            yield (
                f"| `{param}` | {said.default:g} | {tries} | {said.least:g} | {most} | {cell(said.unit)} |"
                f" {cell(said.about)} |"
            )


def metrics_page() -> Iterator[str]:
    """Every metric as it is declared."""
    yield "# Metrics\n\nEvery evaluation measures them, a night's as `recsys evaluate`; [the report](../report.md) has"
    yield "their formulas and corners. With `@k` they are taken from the first k places: at each, the smallest or the"
    yield "largest of `evaluation.k`. `gate.metric` may name those marked.\n"
    yield "| metric | | better | unit | measured at | gate |\n|---|---|---|---|---|---|"
    for metric in METRICS:
        name = metric.name if metric.places == "list" else f"{metric.name}@k"
        gate = "yes" if metric.gate else ""
        yield (
            f"| `{name}` | {cell(metric.about)} | {metric.better} | {metric.unit} | {metric.places} | {gate} |"
        )
