"""What the configuration says of a cutover holds unless an option says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dome_bridge.cli import cli
from dome_bridge.exporter import cutover, rehearsal
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.cutover_record import CutoverReport
from dome_bridge.exporter.cutover_steps import Options

CONFIGURED = """
[exporter]
upload_wait_seconds = 7.5
max_uploads = 3
postpone_file = "/run/dome-bridge/postpone"
[api]
abandoned_upload_hours = 2
"""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options that a command was carried out with."""
    seen: list[Options] = []

    async def cut_over(config: object, *, terms: Any, **_: object) -> CutoverReport:
        seen.append(terms.options)
        return CutoverReport(State.COMMITTED)

    async def rehearse(config: object, *, terms: Any) -> rehearsal.Rehearsal:
        seen.append(terms.options)
        return rehearsal.Rehearsal(())

    monkeypatch.setattr(cutover, "cut_over", cut_over)
    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    return seen


def run(directory: Path, *arguments: str) -> None:
    file = directory / "dome-bridge.toml"
    file.write_text(CONFIGURED)
    done = CliRunner().invoke(cli, ["--config", str(file), *arguments])
    assert done.exit_code == 0, done.output


def test_cutover_takes_its_limits_from_the_configuration(given: list[Options], tmp_path: Path) -> None:
    run(tmp_path, "cutover", "--yes")
    run(tmp_path, "rehearse")
    options, rehearsed = given
    assert (options.upload_wait_seconds, options.max_uploads, rehearsed.max_uploads) == (7.5, 3, 3)
    assert options.postpone_file == Path("/run/dome-bridge/postpone")
    assert options.abandoned_seconds == 7200


def test_options_of_the_command_come_first(given: list[Options], tmp_path: Path) -> None:
    run(tmp_path, "cutover", "--yes", "--wait-uploads=0", "--max-uploads=0", "--postpone-file=/tmp/p")
    run(tmp_path, "rehearse", "--max-uploads=0")
    options, rehearsed = given
    assert (options.upload_wait_seconds, options.max_uploads, rehearsed.max_uploads) == (0, 0, 0)
    assert options.postpone_file == Path("/tmp/p")
