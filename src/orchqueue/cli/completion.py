"""`orchq completion`: scripts for bash, zsh and fish, made from the parser itself."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from typing import NamedTuple

from orchqueue.cli.context import Context

SUMMARY = "print a completion script for your shell"
DETAILS = """examples:
  source <(orchq completion bash)                                    for this shell
  orchq completion bash > ~/.local/share/bash-completion/completions/orchq
  orchq completion zsh > "${fpath[1]}/_orchq"
  orchq completion fish > ~/.config/fish/completions/orchq.fish"""

_FILE_METAVARS = frozenset({"FILE"})


class Option(NamedTuple):
    """One option of a command as the shells need it."""

    names: tuple[str, ...]
    summary: str
    choices: tuple[str, ...]
    takes_value: bool
    takes_file: bool


class Completable(NamedTuple):
    """One command with its options; `words` are the choices of its positional arguments."""

    name: str
    summary: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")


async def execute(context: Context, args: Namespace) -> int:
    """Print the script.

    Req: ORCH-4028
    """
    context.output.text(script(args.shell))
    return 0


def script(shell: str) -> str:
    """Make the completion script of a shell."""
    from orchqueue.cli.parser import COMMANDS, build_parser

    commands = []
    for command in COMMANDS:
        sub = ArgumentParser(add_help=False)
        command.add_arguments(sub)
        actions = _actions(sub)
        words = tuple(str(choice) for action in actions if not action.option_strings for choice in action.choices or ())
        options = tuple(_option(action) for action in _with_nested(actions) if action.option_strings)
        commands.append(Completable(command.name, _plain(command.summary), options, words))
    shared = tuple(_option(action) for action in _actions(build_parser()) if action.option_strings)
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](shared, commands)


def _actions(parser: ArgumentParser) -> list[Action]:
    # argparse has no public way to list what it was given.
    return parser._actions  # noqa: SLF001


def _with_nested(actions: list[Action]) -> list[Action]:
    """Add the options of subcommands that those of every command do not have already."""
    nested = [choice for action in actions for choice in _nested(action)]
    from orchqueue.cli.parser import shared_options

    shared = {tuple(action.option_strings) for action in _actions(shared_options())} | {("-h", "--help")}
    added = {tuple(action.option_strings): action for sub in nested for action in _actions(sub)}
    return [*actions, *(action for names, action in added.items() if names not in shared)]


def _nested(action: Action) -> list[ArgumentParser]:
    choices = action.choices if isinstance(action.choices, dict) else {}
    return [choice for choice in choices.values() if isinstance(choice, ArgumentParser)]


def _option(action: Action) -> Option:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return Option(
        tuple(action.option_strings),
        _plain(action.help or ""),
        tuple(str(choice) for choice in action.choices or ()),
        action.nargs != 0,
        metavar in _FILE_METAVARS,
    )


def _plain(text: str) -> str:
    # Quotes, brackets and colons mean something to one shell or another, in any kind of quotes.
    return text.replace("'", "").replace("[", "(").replace("]", ")").replace(":", "")


def _names(options: tuple[Option, ...]) -> str:
    return " ".join(name for option in options for name in option.names)


def _bash(shared: tuple[Option, ...], commands: list[Completable]) -> str:
    every = {option.names: option for command in commands for option in command.options} | {o.names: o for o in shared}
    values = []
    for option in every.values():
        if option.choices:
            values.append(
                f'    {"|".join(option.names)}) COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur")); return ;;'
            )
        elif option.takes_file:
            values.append(f'    {"|".join(option.names)}) COMPREPLY=($(compgen -f -- "$cur")); return ;;')
        elif option.takes_value:
            values.append(f"    {'|'.join(option.names)}) return ;;")
    cases = [
        f'    {command.name}) words="{" ".join([*command.words, _names(command.options)])}" ;;' for command in commands
    ]
    names = " ".join(command.name for command in commands)
    return "\n".join(
        [
            "# bash completion for orchq; made by 'orchq completion bash'",
            "_orchq() {",
            '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command="" word words',
            "  COMPREPLY=()",
            '  case "$prev" in',
            *values,
            "  esac",
            '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            f'    case " {names} " in *" $word "*) command="$word"; break ;; esac',
            "  done",
            '  case "$command" in',
            f'    "") words="{names}" ;;',
            *cases,
            "  esac",
            f'  COMPREPLY=($(compgen -W "$words {_names(shared)}" -- "$cur"))',
            "}",
            "complete -F _orchq orchq",
            "",
        ]
    )


def _zsh(shared: tuple[Option, ...], commands: list[Completable]) -> str:
    def spec(option: Option) -> str:
        value = ""
        if option.choices:
            value = f":value:({' '.join(option.choices)})"
        elif option.takes_value:
            value = ":file:_files" if option.takes_file else ":value: "
        return " ".join(f"'{name}[{option.summary}]{value}'" for name in option.names)

    cases = []
    for command in commands:
        words = f" ':word:({' '.join(command.words)})'" if command.words else ""
        specs = " ".join(spec(option) for option in (*command.options, *shared))
        cases.append(f"    {command.name}) _arguments {specs}{words} ;;")
    return "\n".join(
        [
            "#compdef orchq",
            "# zsh completion for orchq; made by 'orchq completion zsh'",
            "_orchq() {",
            "  local -a commands",
            "  commands=(",
            *(f"    '{command.name}:{command.summary}'" for command in commands),
            "  )",
            "  if (( CURRENT == 2 )); then _describe command commands; return; fi",
            '  local command="${words[2]}"',
            "  shift words; (( CURRENT-- ))",
            '  case "$command" in',
            *cases,
            "  esac",
            "}",
            'if [[ "${funcstack[1]}" == _orchq ]]; then _orchq "$@"; else compdef _orchq orchq; fi',
            "",
        ]
    )


def _fish(shared: tuple[Option, ...], commands: list[Completable]) -> str:
    def line(option: Option, condition: str) -> str:
        parts = [f"complete -c orchq{condition}"]
        parts += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
        parts.append(f"-d '{option.summary}'")
        if option.choices:
            parts.append(f"-xa '{' '.join(option.choices)}'")
        elif option.takes_file:
            parts.append("-rF")
        elif option.takes_value:
            parts.append("-x")
        return " ".join(parts)

    lines = ["# fish completion for orchq; made by 'orchq completion fish'", "complete -c orchq -f"]
    lines += [line(option, "") for option in shared]
    for command in commands:
        lines.append(f"complete -c orchq -n __fish_use_subcommand -a {command.name} -d '{command.summary}'")
        condition = f" -n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"complete -c orchq{condition} -a '{' '.join(command.words)}'")
        lines += [line(option, condition) for option in command.options]
    return "\n".join([*lines, ""])
