"""Where promtool comes from: what is there already, else the distribution's package, else words that say what to install."""

from pathlib import Path

import pytest

from tools import promtool


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that comes first on PATH, and a place of its own for what is fetched."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("sh", "mkdir", "printf", "chmod", "cat", "touch"):
        found = next(path for path in (Path("/bin") / name, Path("/usr/bin") / name) if path.exists())
        (directory / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(promtool, "FETCHED", tmp_path / "environment" / "bin" / "promtool")
    return directory


def write_program(directory: Path, name: str, script: str) -> Path:
    """Write a shell script that stands for a program."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def says(version: str) -> str:
    """Write what a promtool answers when it is asked for its version."""
    return f"echo 'promtool, version {version} (branch: debian/sid)'"


DPKG = f"""mkdir -p "$3/usr/bin"
printf '%s\\n' '#!/bin/sh' "{says("2.42.0+ds")}" > "$3/usr/bin/promtool"
chmod 755 "$3/usr/bin/promtool\""""


def test_one_on_the_path_is_used(programs: Path) -> None:
    """A promtool that is new enough is taken as it is, and nothing is fetched."""
    there = write_program(programs, "promtool", says("3.5.0"))
    assert promtool.find() == there
    assert promtool.version_of(there) == (3, 5)


def test_what_cannot_be_fetched_says_what_to_install(programs: Path) -> None:
    """Without apt-get, or with one that fails, the error names the package; a promtool that is too old does not count."""
    write_program(programs, "promtool", says("2.1.0"))
    with pytest.raises(promtool.NoPromtoolError, match="apt-get install prometheus"):
        promtool.find()
    write_program(programs, "apt-get", "echo 'E: no network' >&2; exit 100")
    write_program(programs, "dpkg-deb", "exit 1")
    with pytest.raises(promtool.NoPromtoolError, match=r"no network.*apt-get install prometheus"):
        promtool.find()


def test_the_package_is_fetched_with_lists_of_our_own_where_the_machine_has_none(programs: Path) -> None:
    """When the machine's lists know no package, fresh lists are read into a scratch folder, and only promtool is kept."""
    write_program(
        programs,
        "apt-get",
        'case "$*" in\n'
        "  *Dir::State::Lists=*update) ;;\n"
        "  *Dir::State::Lists=*prometheus) touch prometheus_1_amd64.deb ;;\n"
        "  *) echo 'E: Unable to locate package' >&2; exit 100 ;;\n"
        "esac",
    )
    write_program(programs, "dpkg-deb", DPKG)
    assert promtool.find() == promtool.FETCHED
    assert promtool.version_of(promtool.FETCHED) == (2, 42)
    assert [path.name for path in promtool.FETCHED.parent.iterdir()] == ["promtool"]
    (programs / "apt-get").unlink()
    assert promtool.find() == promtool.FETCHED
