"""Help pages and documents: options are explained, commands have examples, and every line parses."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import moditalker.cli  # noqa: F401  (the commands)
from moditalker.cli.common import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLE = re.compile(r"^Example: (moditalker .*)$", re.MULTILINE)
NO_COMMAND = {"--help", "--version", "--install-completion", "--show-completion"}


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command, by its words after `moditalker`."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def parse(line: str) -> None:
    """Fails where `moditalker` would refuse the line before it does anything."""
    words = shlex.split(line)
    assert words[0] == "moditalker"
    if set(words[1:]) & NO_COMMAND:
        return
    name = next((n for n in COMMANDS if words[1 : 1 + len(n.split())] == n.split()), None)
    assert name is not None, f"there is no such command: {line}"
    COMMANDS[name].make_context(name, words[1 + len(name.split()) :])


def shell_lines() -> Iterator[tuple[str, str]]:
    """Each call of moditalker in a bash block of a document."""
    for path in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S):
            for line in re.split(r"\n|&&|\||;", block.replace("\\\n", " ")):
                if line.split()[:1] == ["moditalker"]:
                    yield path.name, line.split(" #")[0].strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name):
    command = COMMANDS[name]
    examples = EXAMPLE.findall(command.help)
    assert len(examples) == 1
    assert examples[0].split()[1 : 1 + len(name.split())] == name.split()
    parse(examples[0])
    assert re.match(r"[A-Z].*[.;:]", command.help), "what it does, as a sentence"
    for option in command.params:
        assert option.help, f"{name}: {option.opts[0]} is not explained"
        assert re.fullmatch(r"[^a-z].*\.", option.help), f"{name}: {option.opts[0]} is no sentence"


@pytest.mark.parametrize(("document", "line"), sorted(set(shell_lines())))
def test_each_line_of_the_documents_parses(document, line):
    parse(line)


def test_a_line_that_is_wrong_is_found():
    for wrong in ("moditalker generat --face a", "moditalker generate --fase a", "moditalker config --set"):
        with pytest.raises((AssertionError, typer.BadParameter, typer.BadParameter.__mro__[1])):
            parse(wrong)


@pytest.fixture(scope="module")
def path_with_moditalker(tmp_path_factory) -> str:
    """A PATH on which `moditalker` is the one under test."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "moditalker"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m moditalker "$@"\n')
    script.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("moditalker gen", {"generate"}),
        ("moditalker weights ", {"add", "convert", "list"}),
        ("moditalker generate --ext", {"--extend"}),
        ("moditalker generate --extend p", {"pingpong"}),
    ],
)
def test_bash_completes(path_with_moditalker, monkeypatch, typed, offered):
    """As docs/install.md says, in a real shell; what a key press calls is called by hand."""
    document = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    (setup,) = re.findall(r"^eval .*$", document, flags=re.M)
    words = typed.split(" ")
    call = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _moditalker_completion moditalker"
    monkeypatch.setenv("PATH", path_with_moditalker)
    script = f'{setup}; complete -p moditalker >/dev/null; {call}; echo "${{COMPREPLY[*]}}"'
    result = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=60)
    assert set(result.stdout.split()) == offered, result.stderr
