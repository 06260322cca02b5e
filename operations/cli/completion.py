"""`recsys completion bash|zsh|fish`: a script that completes commands and options."""

import argparse
from collections.abc import Iterator
from typing import Any, Final

SHELLS: Final = ("bash", "zsh", "fish")
BASH: Final = """\
_recsys() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path="" part
  for part in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$path $part" in
{steps}
    esac
  done
  case "$before" in -c|--config) COMPREPLY=($(compgen -f -- "$word")); return;; esac
  case "$path" in
{words}
  esac
  [[ $word == -* || ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _recsys recsys
"""


def add_parsers(subparsers: Any) -> None:
    """Register `completion`."""
    parser = subparsers.add_parser(
        "completion", help="a script that completes commands and options"
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from recsys.operations.cli.main import build_parser

    print(script(build_parser(), args.shell), end="")
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a shell; it is static, so completing starts no Python."""
    if shell == "fish":
        return _fish(parser)
    nodes = list(commands(parser))
    steps = "\n".join(
        f'      "{" ".join(("", *p))}") path="{" ".join(("", *p))}";;' for p, _ in nodes if p
    )
    words = "\n".join(
        f'    "{" ".join(("", *path))}") COMPREPLY=($(compgen -W "{" ".join(known(node))}" -- "$word"));;'
        for path, node in nodes
    ).replace('    " ")', '    "")')
    text = BASH.format(steps=steps, words=words)
    return text if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{text}"


def commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """(words that lead to it, parser) of a parser and all below it."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, (*path, name))


def known(parser: argparse.ArgumentParser) -> list[str]:
    """Words that may follow: names of commands, choices and long options."""
    found: list[str] = []
    for action in parser._actions:
        found += [name for name in action.option_strings if name.startswith("--")]
        if not action.option_strings and action.choices:
            found += [str(choice) for choice in action.choices]
    return found


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = []
    for path, node in commands(parser):
        inside = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path)
        where = inside or "__fish_use_subcommand"
        for word in known(node):
            shown = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c recsys -n '{where}' {shown}")
    return "\n".join([*lines, ""])
