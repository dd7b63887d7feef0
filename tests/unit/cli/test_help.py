from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest

from orchqueue.cli import exit_codes, parser, verify
from orchqueue.cli.completion import script
from orchqueue.client import errors
from tests.unit.cli.running import orchq

DOCS = Path(__file__).parents[3] / "docs"
pytestmark = pytest.mark.req("ORCH-4226")


@pytest.mark.parametrize(
    "command",
    [command.name for command in parser.COMMANDS] + [f"verify {subject.name}" for subject in verify.SUBJECTS],
)
def test_every_command_teaches_with_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each help has examples, and each example is a command line that the parser takes."""
    with pytest.raises(SystemExit) as left:
        parser.build_parser().parse_args([*command.split(), "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    lines = [
        line for line in text.splitlines() if re.search(rf"\borchq (-q )?{command}\b", line) and line.startswith("  ")
    ]
    assert lines
    for line in lines:
        argv = arguments_of(line)
        if "--help" not in argv:
            assert parser.build_parser().parse_args(argv).command == command.split(maxsplit=1)[0]


def arguments_of(line: str) -> Sequence[str]:
    """Take what stands between `orchq` and the next operator of the shell or the column of remarks."""
    line = line.replace("$(orchq tasks --state queued --json | jq -r .task_id)", "ID")
    _, _, rest = line.partition("orchq ")
    words = shlex.split(re.split(r"   +", rest)[0].replace(";", " ;").replace(")", " )"))
    return list(takewhile(lambda word: word not in {"|", ">", "<", "&&", ";", ")"}, words))


def test_help_imports_nothing_heavy() -> None:
    """`--help` loads neither the HTTP client nor asyncio, which alone cost more than it may take."""
    probe = (
        "import sys\nfrom orchqueue.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'asyncio', 'httpx', 'msgspec', 'ssl', 'rich', 'cyclopts'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.req("ORCH-4224")
@pytest.mark.parametrize(("handler", "status"), [("default_int_handler", -signal.SIGINT), ("SIG_IGN", 0)])
def test_an_interrupt_before_the_command_listens_is_no_error(handler: str, status: int) -> None:
    """While modules are still read Ctrl-C ends the process without a trace, or nothing where it is switched off."""
    probe = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'orchqueue.cli.main': os.kill(os.getpid(), signal.SIGINT)\n"
        f"signal.signal(signal.SIGINT, signal.{handler})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv[1:] = ['--version']\n"
        "from orchqueue.cli.start import main\nsys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


def test_a_command_imports_no_other_command_line() -> None:
    """Posting a task loads the HTTP client without the client's own command line and its formatting."""
    probe = (
        "import sys\nfrom orchqueue.cli.main import main\n"
        "status = main(['--url', 'http://127.0.0.1:9', '-q', 'submit', 'hi'])\n"
        "print(status, sorted({'httpx', 'rich', 'click', 'pygments'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "6 ['httpx']\n"


@pytest.mark.req("ORCH-4028")
def test_every_exit_status_is_documented() -> None:
    """docs/exit-codes.md and the help name exactly the statuses that exist."""
    text = (DOCS / "exit-codes.md").read_text()
    section = text[text.index("\n## orchq\n") :].split("\n## ")[1]
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert documented == {int(code) for code in exit_codes.ExitCode} | {130, 141, 143}
    for code in exit_codes.ExitCode:
        assert re.search(rf"\b{int(code)} \w", parser.EXAMPLES)


@pytest.mark.req("ORCH-4028")
def test_every_error_of_the_client_has_a_status() -> None:
    """No exception class falls through to a status by accident."""
    expected = {
        errors.InvalidRequest: 2,
        errors.Conflict: 2,
        errors.BadSetting: 2,
        errors.Refused: 3,
        errors.Unavailable: 3,
        errors.NotFound: 4,
        errors.Unauthorized: 5,
        errors.Forbidden: 5,
        errors.ConnectFailed: 6,
        errors.AnswerLost: 6,
        errors.StreamBroken: 6,
        errors.StreamMismatch: 7,
        errors.ReceiptMismatch: 7,
        errors.ServerFault: 8,
        errors.ProtocolBroken: 8,
        errors.TaskFailed: 1,
    }
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.OrchQueueError)
    } - {errors.OrchQueueError, errors.ApiError}
    assert kinds == set(expected)
    for kind, status in expected.items():
        assert exit_codes.code_of(Exception.__new__(kind)) == status


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_know_every_command_and_option(shell: str) -> None:
    """Each script names all commands and options, and the shell (where it is installed) accepts it."""
    text = script(shell)
    for command in parser.COMMANDS:
        assert re.search(rf"\b{command.name}\b", text)
    assert [line for line in text.splitlines() if line[:1] != "#" and line.count("'") % 2] == []
    assert "repeat-penalty" in text
    assert "api-key-file" in text
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=text, text=True, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("orchq", "re"), {"reload", "replicasets"}),
        (("orchq", "run", "--pri"), {"--priority"}),
        (("orchq", "run", "--priority", "b"), {"batch"}),
        (("orchq", "--json", "completion", "z"), {"zsh"}),
        (("orchq", "drain", "--dea"), {"--deadline-ms"}),
        (("orchq", "verify", "determinism", "--und"), {"--under"}),
        (("orchq", "verify", "determinism", "--under", "ca"), {"cancels"}),
        (("orchq", "verify", "haiku", "--no"), {"--no-metrics"}),
        (("orchq", "verify", "haiku", "--mode", "pl"), {"plain"}),
    ],
)
def test_bash_completes_as_typed(words: tuple[str, ...], expected: set[str]) -> None:
    """The bash function offers commands, options and values."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = f'{script("bash")}\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(words) - 1}\n_orchq\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    done = subprocess.run(["bash"], input=program, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_the_version_is_told() -> None:
    """--version prints the package's version."""
    import orchqueue

    assert asyncio.run(orchq("--version")).out == f"orchq {orchqueue.__version__}\n"
