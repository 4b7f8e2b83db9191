"""The unit file: systemd understands it, it gives little away, and its command exists."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "systemd" / "dome-bridge.service"

MOST_EXPOSED = 2.0
"""systemd-analyze's measure: 10 is a service without any hardening, below 2 is its best class."""


class Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture(scope="module")
def unit() -> Unit:
    parsed = Unit(strict=False)
    parsed.read(UNIT)
    return parsed


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    found = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if re.search("unrecognized option|Unknown (command|operation)", found.stderr):
        pytest.skip("this systemd-analyze is too old")
    return found


@pytest.fixture
def installed(tmp_path: Path, unit: Unit) -> Path:
    """The unit with a program that exists on any machine."""
    program = shlex.split(unit["Service"]["ExecStart"])[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(program, sys.executable))
    return copy


def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    found = analyze("verify", "--man=no", str(installed))
    complaints = [line for line in found.stderr.splitlines() if UNIT.name in line]
    assert (complaints, found.returncode) == ([], 0)


def test_service_is_hardly_exposed(installed: Path) -> None:
    found = analyze("security", "--offline=true", "--no-pager", str(installed))
    level = re.search(r"exposure level for \S+: ([\d.]+)", found.stdout)
    assert level is not None, found.stderr
    assert float(level[1]) < MOST_EXPOSED, found.stdout


def test_command_is_one_that_the_program_knows(unit: Unit) -> None:
    if importlib.util.find_spec("dome_bridge.cli") is None:
        pytest.skip("there is no command line yet")
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "dome-bridge"
    # --help after it: everything before must be understood, and nothing is run.
    command = [sys.executable, "-m", "dome_bridge", *arguments, "--help"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert arguments[-1] in found.stdout


def test_every_setting_is_below_a_comment_that_explains_it(unit: Unit) -> None:
    """Blocks are separated by blank lines; [Install] needs no words."""
    blocks = [block for block in UNIT.read_text().split("\n\n") if re.search(r"^\w+=", block, re.MULTILINE)]
    bare = [block for block in blocks if "#" not in block and not block.startswith("[Install]")]
    assert bare == []


def test_daemon_reports_to_systemd_and_is_watched(unit: Unit) -> None:
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert "WatchdogSec" in service
    # "always" would start it again after a wanted end; a wrong exit code must not be final either.
    assert service["Restart"] == "on-failure"
    assert "RestartPreventExitStatus" not in service
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_reload_is_a_signal_to_the_main_process(unit: Unit) -> None:
    program, *arguments = shlex.split(unit["Service"]["ExecReload"])
    assert (Path(program).name, arguments) == ("kill", ["-HUP", "$MAINPID"])
    assert Path(program).exists()


def test_files_of_the_grid_can_be_read_and_keys_of_issuers_be_kept(unit: Unit) -> None:
    service = unit["Service"]
    assert "InaccessiblePaths" not in service
    assert service["StateDirectory"] == "dome-bridge"
