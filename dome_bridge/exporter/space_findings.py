"""What a site should know of its spaces before the cutover: a survey, judged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from dome_bridge.chimera.space_plan import LeftOut, LeftOutReason, Model
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.space_survey import FOREIGN_REMEDY, Survey

CHECKS: Mapping[str, str] = {
    "space-model": "which of dCache's models of space is configured, and which one fits the quotatokens",
    "space-left-out": "quotatokens that become no space in dCache",
    "space-overbooked": "unused parts of reservations are more than what is free",
    "space-free-unknown": "whether reservations are overbooked cannot be told: free space is not known",
    "space-overused": "more lies below a quotatoken than it may hold",
    "space-elsewhere": "files below a quotatoken lie outside of its pool",
    "space-used-differs": "DPM counts another used space for a quotatoken than its files have",
    "space-quota-lost": "quotatokens whose limits no quota of a group stands for",
    "space-manager": "whether the space manager's database can be filled",
}

MOST = 5


def judge(survey: Survey, *, told: Collection[LeftOutReason] = ()) -> tuple[Finding, ...]:
    """In the order of `CHECKS`. told: reasons that somebody else has reported."""
    left_out = tuple(each for each in survey.plan.left_out if each.reason not in told)
    survey = replace(survey, plan=replace(survey.plan, left_out=left_out))
    rules = _RESERVATION_RULES if survey.plan.model is Model.SPACE_MANAGER else _UNIT_RULES
    return tuple(finding for rule in rules for finding in rule(survey))


def _model(survey: Survey) -> Iterator[Finding]:
    plan = survey.plan
    fits = plan.model is plan.recommended
    other = "true" if plan.recommended is Model.SPACE_MANAGER else "false"
    yield Finding(
        "space-model",
        Severity.INFO,
        f"{len(plan.spaces)} quotatokens, {_words(plan.model)} configured; recommended: "
        f"{_words(plan.recommended)} ({_why(plan.recommended)})",
        "" if fits else f"set [spacemanager] enabled = {other}, or accept what is reported beside this",
        len(plan.spaces),
    )


def _words(model: Model) -> str:
    return "a space manager" if model is Model.SPACE_MANAGER else "storage units and quotas of groups"


def _why(model: Model) -> str:
    if model is Model.SPACE_MANAGER:
        return "a VO has several quotatokens, or one lies below another"
    return "no VO has more than one quotatoken"


def _left_out(survey: Survey) -> Iterator[Finding]:
    if left_out := survey.plan.left_out:
        yield Finding(
            "space-left-out",
            Severity.INFO
            if all(each.reason is LeftOutReason.NO_PATH for each in left_out)
            else Severity.WARNING,
            f"quotatokens that become no space: {_some([_told(each) for each in left_out])}",
            "correct or delete them with dmlite-shell; what lies there belongs to the token above, if any",
            len(left_out),
        )


def _told(left_out: LeftOut) -> str:
    place = f" at {left_out.path}" if left_out.path else ""
    return f"{left_out.name}{place} ({left_out.reason.value})"


def _overbooked(survey: Survey) -> Iterator[Finding]:
    lacking = {name: found.lacking for name, found in survey.link_groups.items() if found.lacking}
    if lacking:
        shrinks = survey.overbooked == "shrink"
        yield Finding(
            "space-overbooked",
            Severity.WARNING if shrinks else Severity.ERROR,
            "the unused parts of quotas are more than what is free: "
            f"{_some([f'{name} lacks {_size(size)}' for name, size in sorted(lacking.items())])}",
            "the reservations will be smaller than the quotas, all by the same share of their unused part"
            if shrinks
            else "lower quotas with `quotatokenmod` of dmlite-shell, or add file systems; or set "
            '[spacemanager] overbooked = "shrink"',
            len(lacking),
        )


def _free_unknown(survey: Survey) -> Iterator[Finding]:
    unknown = sorted(name for name in survey.link_groups if name not in survey.free)
    if unknown:
        yield Finding(
            "space-free-unknown",
            Severity.WARNING,
            f"what is free is not known for {_some(unknown)}: overbooked reservations cannot be told",
            'give the key for disk servers ([auth] xrdhttp_secret_file, or [disk] scheme = "https") and see '
            "that they answer: `dome-bridge pools`",
            len(unknown),
        )


def _overused(survey: Survey) -> Iterator[Finding]:
    over = [space for space in survey.plan.spaces if survey.used(space) > space.size]
    if over:
        yield Finding(
            "space-overused",
            Severity.WARNING,
            f"more lies there than the quota allows: "
            f"{_some([f'{each.name} by {_size(survey.used(each) - each.size)}' for each in over])}",
            "nothing can be written there until files are deleted, as in DPM; a reservation is made as large "
            "as what is in it",
            len(over),
        )


def _elsewhere(survey: Survey) -> Iterator[Finding]:
    contents = survey.contents or {}
    found = [space for space in survey.plan.spaces if space.token in contents]
    astray = [space for space in found if contents[space.token].elsewhere]
    if astray:
        names = [f"{each.name}: {_size(contents[each.token].elsewhere)}" for each in astray]
        yield Finding(
            "space-elsewhere",
            Severity.WARNING,
            f"copies below quotatokens lie outside of their pools: {_some(names)}",
            "they stay readable and count for the reservation; drain them to the right pool if it matters",
            len(astray),
        )


def _used_differs(survey: Survey) -> Iterator[Finding]:
    contents = survey.contents or {}
    spaces = [space for space in survey.plan.spaces if space.token in contents]
    differing = [each for each in spaces if contents[each.token].copies != survey.dpm_used[each.token]]
    if differing:
        names = [
            f"{each.name}: {_size(survey.dpm_used[each.token])}, not {_size(contents[each.token].copies)}"
            for each in differing
        ]
        yield Finding(
            "space-used-differs",
            Severity.INFO,
            f"DPM's sums have drifted, or count what is in the quarantine: {_some(names)}",
            "run `dmlite-mysql-dirspaces` on the head node if it matters; the files are counted for dCache",
            len(differing),
        )


def _quota_lost(survey: Survey) -> Iterator[Finding]:
    if lost := survey.quotas.lost:
        names = [f"{each.space.name} at {each.space.path} ({each.reason})" for each in lost]
        yield Finding(
            "space-quota-lost",
            Severity.WARNING,
            f"dCache will not enforce the limits of these quotatokens: {_some(names)}",
            "set [spacemanager] enabled = true, or accept it: pools still keep VOs apart",
            len(lost),
        )


def _manager(survey: Survey) -> Iterator[Finding]:
    if survey.problem:
        yield Finding(
            "space-manager",
            Severity.ERROR,
            f"the space manager's database cannot be filled: {survey.problem}",
            "stop dCache's spacemanager service" if "connected" in survey.problem else FOREIGN_REMEDY,
        )


def _size(size: int) -> str:
    return f"{size / 1e12:,.3f} TB" if size >= 10**9 else f"{size:,} bytes"


def _some(names: list[str]) -> str:
    more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


_Rule = Callable[[Survey], Iterator[Finding]]
_RESERVATION_RULES: tuple[_Rule, ...] = (
    _model,
    _left_out,
    _overbooked,
    _free_unknown,
    _overused,
    _elsewhere,
    _used_differs,
    _manager,
)
_UNIT_RULES: tuple[_Rule, ...] = (_model, _left_out, _overused, _elsewhere, _used_differs, _quota_lost)
