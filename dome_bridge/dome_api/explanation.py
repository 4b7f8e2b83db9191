"""The answer to an administrator's question: each check with its number, the verdict, and what to do next.

What was read from a credential is in it, the credential is not; as a second line of defence every text goes
through the filter that keeps credentials out of logs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from dome_bridge.auth.audit import without_credentials
from dome_bridge.auth.authenticate import Evidence
from dome_bridge.auth.paths import joined, parts_of
from dome_bridge.auth.principal import ANONYMOUS, Channel, Kind, Principal, Role, ValidToken
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.remedies import remedy
from dome_bridge.auth.rules import meaning
from dome_bridge.auth.scopes import MEANING, Grants, Scope
from dome_bridge.dome_api.answers import refusal
from dome_bridge.dome_api.standing import Standing
from dome_bridge.errors import ApiError

WIDTH = 110
_LABEL_WIDTH = 11

BY_PERMISSIONS = "what DPM's permissions allow"


class Step(NamedTuple):
    """A check that was passed. rule: its number."""

    rule: str
    found: str


class Fact(NamedTuple):
    label: str
    text: str


@dataclass
class Explanation:
    """asked: the question in words. status: of the answer, 200 if allowed, 0 without one. rule: what decided.

    is_alone: the database does not answer. commands: that are open to the principal at all; None if it is not
    known who he is. there: what the request's paths lead to. notes: what was not looked at, and what else an
    administrator should know.
    """

    asked: str
    realm: str = ""
    steps: list[Step] = field(default_factory=list)
    status: int = 200
    rule: str = ""
    reason: str = ""
    wanted: str = ""
    told: str = ""
    evidence: Evidence = field(default_factory=Evidence)
    principal: Principal | None = None
    standing: Standing | None = None
    commands: tuple[str, ...] | None = None
    is_alone: bool = False
    there: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def trace(self, rule: str, text: str, *args: object) -> None:
        self.steps.append(Step(rule, text % args if args else text))

    def refused(self, exc: AuthError) -> None:
        self.status, self.rule, self.reason, self.wanted = exc.status, exc.rule, str(exc), exc.wanted
        # A connection that is closed has no answer.
        if self.status:
            who = self.principal or ANONYMOUS
            answer = refusal(exc, who, self.evidence, realm=self.realm)
            self.told = "; ".join(
                [*(f"{name}: {value}" for name, value in answer.headers), answer.body.decode()]
            )

    def answered(self, exc: ApiError) -> None:
        """With an error that is none of authentication."""
        self.status, self.reason, self.told = exc.status, exc.text, exc.text

    @property
    def is_allowed(self) -> bool:
        return 0 < self.status < 400

    @property
    def advice(self) -> str:
        if self.is_allowed:
            return ""
        text = remedy(self.rule)
        return f"{text}; enough would be {self.wanted}" if self.wanted else text

    def lines(self) -> Iterator[str]:
        """For a person to read."""
        yield from _wrapped("asked", self.asked)
        yield ""
        for step in self.steps:
            yield from _wrapped(f"ok  {step.rule}", step.found)
        if not self.is_allowed:
            yield from _wrapped(f"NO  {self.rule}", self.reason)
        yield ""
        for fact in self._verdict():
            yield from _wrapped(*fact)

    def _verdict(self) -> Iterator[Fact]:
        yield Fact("ALLOWED" if self.is_allowed else "REFUSED", self._conclusion())
        if not self.is_allowed:
            yield Fact("rule", f"{self.rule}: {meaning(self.rule)}")
            if self.advice:
                yield Fact("next", self.advice)
            if self.told:
                yield Fact("client sees", f"{self.status}, {self.told}")
        yield from self._facts()
        yield from (Fact("there", text) for text in self.there)
        yield from (Fact("note", text) for text in self.notes)

    def _conclusion(self) -> str:
        if self.is_allowed:
            return f"by rule {self.rule}: {self.reason}"
        if not self.status:
            return f"without an answer, by rule {self.rule}: the connection is closed"
        limit = ", as far as can be told without DPM's database" if self.is_alone else ""
        return f"with status {self.status}, by rule {self.rule}{limit}"

    def _facts(self) -> Iterator[Fact]:
        """Whom the bridge takes him for, and what he may."""
        who = self.principal
        if who is not None:
            yield Fact("principal", f"{who.kind}, role {who.role}")
            yield from self._numbered(who)
        yield from _of_channel(self.evidence.channel)
        yield from self._of_token()
        yield from (Fact(label, text) for label, text in zip(_labels("may"), self.powers(), strict=False))
        if self.commands is not None:
            yield Fact("commands", " ".join(self.commands) or "none but dome_info")

    def _numbered(self, who: Principal) -> Iterator[Fact]:
        standing = self.standing
        number = ""
        if standing is not None:
            uid = standing.subject.uid
            number = f", uid {uid}" if uid >= 0 else ", who has no number yet"
        yield Fact("user", f"{who.user}{number}" if who.user else "none: the system itself, within its role")
        groups = standing.user.groups if standing else who.groups or ()
        gids = standing.subject.gids if standing and groups else ()
        known = f", gid {', '.join(map(str, gids))}" if gids else ""
        yield Fact("groups", f"{', '.join(groups) or 'none'}{known}")

    def _of_token(self) -> Iterator[Fact]:
        token, claimed = self.evidence.token, self.evidence.claimed
        if token is not None:
            until = datetime.fromtimestamp(token.expires, UTC)
            yield Fact(
                "token",
                f"of issuer {token.issuer}, subject {token.sub!a}, until {until:%Y-%m-%d %H:%M:%S} UTC",
            )
        elif claimed.iss:
            subject = f", subject {claimed.sub!a}" if claimed.sub else ""
            yield Fact("token", f"says that it is of {claimed.iss!a}{subject}")

    def powers(self) -> list[str]:
        """What he may, and where, in words."""
        who = self.principal
        if who is None or who.kind is Kind.ANONYMOUS:
            return []
        if who.token is not None:
            return powers_of_token(who.token)
        if who.kind is Kind.NODE:
            return ["what its role may, see the commands"]
        if who.kind is Kind.ADMIN:
            return ["everything"]
        return [BY_PERMISSIONS]

    def as_json(self) -> dict[str, object]:
        document = {
            "allowed": self.is_allowed,
            "status": self.status,
            "rule": self.rule,
            "meaning": meaning(self.rule),
            "reason": self.reason,
            "advice": self.advice,
            "client_sees": self.told,
            "asked": self.asked,
            "steps": [step._asdict() for step in self.steps],
            "principal": self._principal_as_json(),
            "commands": None if self.commands is None else list(self.commands),
            "there": self.there,
            "notes": self.notes,
        }
        cleaned = _cleaned(document)
        assert isinstance(cleaned, dict)
        return cleaned

    def _principal_as_json(self) -> dict[str, object] | None:
        who, standing, token = self.principal, self.standing, self.evidence.token
        if who is None:
            return None
        return {
            "kind": who.kind.value,
            "role": who.role.value,
            "user": who.user,
            "uid": standing.subject.uid if standing and standing.subject.uid >= 0 else None,
            "groups": list(standing.user.groups if standing else who.groups or ()),
            "gids": list(standing.subject.gids) if standing else [],
            "dn": self.evidence.channel.dn,
            "hosts": list(self.evidence.channel.hosts),
            "issuer": token.issuer if token else "",
            "subject": token.sub if token else "",
            "may": self.powers(),
        }


def powers_of_token(token: ValidToken) -> list[str]:
    """Scope by scope and place by place."""
    grants = token.grants
    places = " and ".join(grants.area.base_paths)
    if token.has_capability:
        found = [_of_scope(scope, base) for base in grants.area.base_paths for scope in grants.storage]
        found = found or ["nothing: its capabilities are none of storage"]
    elif token.groups:
        found = [f"{BY_PERMISSIONS} to its groups, in {places} and below"]
    else:
        found = ["nothing: it has neither a capability nor a usable group"]
    if token.is_host:
        found.append("read figures of space, by host.auth")
    return [*found, *_exclusions(grants)]


def _of_scope(scope: Scope, base: str) -> str:
    place = joined([*parts_of(base), *scope.parts])
    operations = ", ".join(sorted(MEANING[scope.capability]))
    below = "below it, and it as a directory" if scope.is_directory and scope.parts else "below it"
    return f"{scope.capability} on {place!a} and {below}: {operations}"


def _exclusions(grants: Grants) -> Iterator[str]:
    if grants.area.exclude_paths:
        yield f"nothing in {', '.join(grants.area.exclude_paths)}, by exclude_paths"


def _of_channel(channel: Channel) -> Iterator[Fact]:
    if not channel.dn:
        return
    kind = " by a limited proxy" if channel.is_limited else " by a proxy" if channel.is_proxy else ""
    yield Fact("connection", f"{channel.dn}{kind}")
    if channel.hosts:
        yield Fact("hosts", ", ".join(channel.hosts))
    if channel.fqans:
        yield Fact("VOMS", ", ".join(channel.fqans))


def role_in_words(role: Role) -> str:
    return "nobody of this site" if role is Role.NOBODY else f"role {role}"


def _labels(first: str) -> Iterator[str]:
    yield first
    while True:
        yield ""


def _wrapped(label: str, text: str) -> Iterator[str]:
    """With a hanging indent. What a client has sent is escaped already, and is so here again."""
    # Before it is broken into lines, where nothing would be found any more.
    clean = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in without_credentials(text))
    lines = textwrap.wrap(clean, WIDTH - _LABEL_WIDTH - 1, break_on_hyphens=False) or [""]
    for head, line in zip((label, *[""] * len(lines)), lines, strict=False):
        yield f"{head:{_LABEL_WIDTH}} {line}".rstrip()


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {name: _cleaned(one) for name, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value
