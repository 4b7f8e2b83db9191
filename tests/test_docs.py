"""The documentation under test: it names everything that the program has, and nothing it names is missing."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

import dome_bridge
from dome_bridge import config, errors
from dome_bridge.chimera.quarantine import REASONS
from dome_bridge.chimera.state import Phase
from dome_bridge.cli import cli
from dome_bridge.config_sections import REPEATED
from dome_bridge.dome_api import reference as dome_reference
from dome_bridge.exporter import check, cutover_plan, gates
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.metrics import described
from sandbox import cli_reference

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
README = PROJECT / "README.md"
CHANGELOG = PROJECT / "CHANGELOG.md"
EXAMPLE = PROJECT / "packaging/dome-bridge.toml"
PAGES = [README, CHANGELOG, PROJECT / "tests/README.md", *sorted(DOCS.rglob("*.md"))]
SHIPPED = [
    path
    for folder in ("dome_bridge", "sandbox", "tests", "benchmarks", "docs", "packaging", "systemd")
    for path in sorted((PROJECT / folder).rglob("*"))
    if path.suffix in (".py", ".sql", ".md", ".toml", ".yml", ".service") and path != Path(__file__)
] + [README, CHANGELOG, PROJECT / "pyproject.toml", PROJECT / "run"]

# Split, so that a search for them does not find this file.
FORBIDDEN = ("/wor" + "k/", "share" + "d/", "chimera.md §", "TO" + "DO", "FIX" + "ME", "X" + "XX")


@cache
def page(name: str) -> str:
    return (DOCS / name).read_text()


def commands() -> list[str]:
    return sorted(cli.commands)


def options(command: click.Command) -> Iterator[str]:
    """With those of the commands of a group."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from options(below)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from parameter.opts


# --- commands


def test_reference_of_commands_ends_with_what_the_program_says() -> None:
    assert page("reference/cli.md").endswith(cli_reference.reference()), (
        "replace everything from `## Options of every command` by the output of "
        "`python -m sandbox.cli_reference`"
    )


def test_reference_of_dome_commands_ends_with_their_declarations() -> None:
    assert page("reference/dome-commands.md").endswith(dome_reference.reference()), (
        "replace the table by the output of `python -m dome_bridge.dome_api.reference`"
    )


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_is_in_the_reference(name: str) -> None:
    text = page("reference/cli.md")
    section = text.partition(f"## `dome-bridge {name}`\n")[2].partition("\n## ")[0]
    assert section
    for option in options(cli.commands[name]):
        assert option in section


@pytest.mark.parametrize("name", commands())
def test_every_command_is_on_a_page_that_tells_when_to_use_it(name: str) -> None:
    pages = [README, *sorted((DOCS / "howto").glob("*.md"))]
    assert any(f"dome-bridge {name}" in path.read_text() for path in pages)


def test_every_command_line_in_the_documentation_is_understood() -> None:
    for path in PAGES:
        for line in path.read_text().splitlines():
            if found := re.match(r"(?:    |\$ |)dome-bridge ((?:--json )?[a-z-]+)( [^#|&]*)?", line):
                name = found[1].split()[-1]
                if line.startswith("dome-bridge: ") or name not in cli.commands:
                    continue
                used = set(re.findall(r"--[a-z-]+", found[2] or ""))
                assert used <= set(options(cli.commands[name])), f"{path}: {line}"


# --- errors, phases, gates, states


def error_classes() -> list[type[errors.BridgeError]]:
    return errors.BridgeError.__subclasses__()


def test_every_error_has_its_exit_code_in_the_reference() -> None:
    text = page("reference/cli.md")
    own = [each for each in error_classes() if each.__module__ == errors.__name__]
    for error in own:
        assert f"| `{error.__name__}` | {error.exit_code} |" in text
    assert set(re.findall(r"^\| `(\w+Error)` \|", text, re.M)) == {error.__name__ for error in own}


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_is_explained(phase: Phase) -> None:
    assert f"`{phase.value}`" in page("howto/monitoring.md")
    assert f"`{phase.value}`" in page("reference/http-api.md")


def test_every_gate_of_the_cutover_is_explained() -> None:
    named = re.findall(r"^\| `([a-z-]+)` \|", page("howto/cutover.md"), re.M)
    assert named == [*gates.GATES, *gates.FURTHER]


def test_every_state_and_step_of_the_cutover_is_explained() -> None:
    text = page("discussion/how-it-works.md")
    for state in State:
        assert state.value in text
    for move in cutover_plan.MOVES.values():
        assert f"`{move.step.value}`" in text


def test_every_reason_of_the_quarantine_has_its_decision() -> None:
    text = page("discussion/decisions.md")
    assert [reason for reason in REASONS if f"`{reason}`" not in text] == []


def test_decisions_name_only_reasons_that_exist() -> None:
    text = page("discussion/decisions.md")
    named = set(re.findall(r"`([a-z]+(?:-[a-z0-9]+)+)`", text))
    assert named <= set(REASONS)


def test_every_check_is_in_the_reference() -> None:
    for name in check.CHECKS:
        assert f"`{name}`" in page("reference/checks.md")


def test_every_metric_is_in_the_reference() -> None:
    for metric in described():
        assert f"`{metric.name}`" in page("reference/metrics.md")


def test_documentation_names_only_metrics_that_exist() -> None:
    known = {metric.name for metric in described()}
    for path in PAGES:
        named = set(
            re.findall(
                r"`(dome_bridge_[a-z_]+(?:total|seconds|rows|entries|phase|mismatches))`", path.read_text()
            )
        )
        assert named <= known, path


# --- settings


def example_with_tables() -> str:
    """Tables that may stand there several times are commented out in the example, as their keys are."""
    return re.sub(r"^# (\[)", r"\1", EXAMPLE.read_text(), flags=re.M)


@pytest.mark.parametrize("key", config.KEYS, ids=lambda key: key.name)
def test_every_key_is_in_reference_and_example(key: config.Key) -> None:
    heading = config.heading(key.section)
    section = page("reference/config.md").partition(f"## `{heading}`\n")[2].partition("\n## ")[0]
    assert f"| `{key.key}` |" in section
    section = example_with_tables().partition(f"\n{heading}\n")[2].partition("\n[")[0]
    assert re.search(rf"^# {key.key} = ", section, re.M)


def test_example_changes_nothing(tmp_path: Path) -> None:
    example = config.load(EXAMPLE, {}, etc=tmp_path)
    assert example.dpm == config.DpmConfig()
    assert (example.exporter, example.monitoring, example.dcache) == (
        config.ExporterConfig(),
        config.MonitoringConfig(),
        config.DcacheConfig(),
    )
    assert (example.api, example.auth, example.disk) == (
        config.ApiConfig(),
        config.AuthConfig(),
        config.DiskConfig(),
    )


def flat(tables: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        full = f"{prefix}{name}"
        if full not in config.TABLES and "." in full:
            yield full, value
            continue
        for table in value if full in REPEATED else [value]:
            yield from flat(table, f"{full}.")


WITHOUT_DEFAULT = {
    "dpm.domehead_conf",
    "chimera.timezone",
    "api.listen.port",
    "auth.issuer.name",
    "auth.issuer.issuer",
    "auth.issuer.base_path",
    "auth.issuer.vo",
}


def test_example_has_the_defaults_and_no_other_keys() -> None:
    uncommented = re.sub(r"^# (\w+ = )", r"\1", example_with_tables(), flags=re.M)
    given = dict(flat(tomllib.loads(uncommented)))
    assert set(given) == {key.name for key in config.KEYS}
    for key in config.KEYS:
        if key.name not in WITHOUT_DEFAULT:
            assert given[key.name] == tomllib.loads(f"it = {key.default}")["it"]


# --- links, tests, versions, words


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_first() -> None:
    reached, new = {README}, {README}
    while new:
        found = {(path.parent / link.partition("#")[0]).resolve() for path in new for link in links(path)}
        new = {path for path in found if path.suffix == ".md" and path.exists()} - reached
        reached |= new
    assert set(DOCS.rglob("*.md")) <= reached


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_test_that_a_page_names_exists() -> None:
    for path in PAGES:
        for file, name in re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", path.read_text()):
            assert (PROJECT / file).exists(), f"{path}: {file}"
            assert not name or name in functions_of(PROJECT / file), f"{path}: {file}::{name}"


def test_every_guarantee_is_shown_by_a_test() -> None:
    guarantees = re.split(r"^## (?=\d)", page("discussion/guarantees.md"), flags=re.M)[1:]
    assert len(guarantees) >= 5
    for guarantee in guarantees:
        assert re.search(r"`tests/\w+\.py::\w+`", guarantee), guarantee.splitlines()[0]


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    released = re.findall(r"^## (\d+\.\d+\.\d+)\b", CHANGELOG.read_text(), re.M)
    assert project["version"] == dome_bridge.__version__ == released[0]


def test_changelog_begins_with_what_is_not_released() -> None:
    assert re.findall(r"^## (.+)$", CHANGELOG.read_text(), re.M)[0] == "Unreleased"


def test_readme_begins_with_the_two_commands() -> None:
    lines = [line.strip() for line in README.read_text().splitlines() if line.strip()]
    assert lines[1].startswith("./run demo")
    assert lines[2].startswith("./run test")


def test_every_life_stage_of_the_readme_is_a_command() -> None:
    block = README.read_text().partition("## The life of a site")[2].split("```")[1]
    named = re.findall(r"^dome-bridge ([a-z-]+)", block, re.M)
    assert set(named) <= set(commands())
    assert set(commands()) - set(named) == {"check-config", "sync"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_word_stands_there_that_means_nothing_elsewhere(path: Path) -> None:
    text = path.read_text(errors="replace")
    assert [word for word in FORBIDDEN if word in text] == []
