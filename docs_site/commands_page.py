"""The page of the ``compsec`` command, from its parser."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator

from docs_site.text import code, table
from pytest_compsec.cli import build_parser


def commands_page() -> str:
    """The page as Markdown."""
    found = subcommands()
    helps = {action.dest: action.help or "" for action in _subparsers()._choices_actions}
    parts = [
        "# The command `compsec`",
        "Exit codes: 0 all is well; 1 something is not what is pinned, signed or asked for; 2 "
        "usage, a faulty file, a hub that cannot be reached.",
        table(
            ["command", "does"], [(f"[`{name}`](#{name})", helps.get(name, "")) for name in found]
        ),
    ]
    for name, parser in found.items():
        parts += [f"## `compsec {name}` {{ #{name} }}", *_section(parser, helps.get(name, ""))]
    return "\n\n".join(parts)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand."""
    return dict(_subparsers().choices)


def _subparsers() -> argparse._SubParsersAction[argparse.ArgumentParser]:
    parser = build_parser()
    (found,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return found


def _section(parser: argparse.ArgumentParser, help: str) -> Iterator[str]:
    # Its own width: by default it is the terminal's.
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=88)
    yield (parser.description or help[:1].upper() + help[1:]).rstrip(".") + "."
    yield f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```"
    rows = [
        (code(_names(action)), _help(action))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    if rows:
        yield table(["argument", "meaning"], rows)
    if parser.epilog:
        yield parser.epilog[:1].upper() + parser.epilog[1:] + "."


def _names(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return str(action.metavar or action.dest)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return f"{text} (required)" if action.option_strings and action.required else text
