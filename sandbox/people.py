"""Users and groups of the made-up site, in numbers that fit its size."""

from __future__ import annotations

import random

from sandbox.posix_acl import AclEntry
from sandbox.rows import Group, User
from sandbox.vos import VOS, Vo


class Population:
    """Users and groups by VO; the first of a VO's users is its production robot."""

    def __init__(self, domain: str, files: int) -> None:
        self.groups = [
            Group(101 + number, name)
            for number, name in enumerate(
                f"{vo.name}/{role}".rstrip("/") for vo in VOS for role in ("", *vo.roles)
            )
        ]
        self.gid = {group.name: group.gid for group in self.groups}
        base = f"/DC=org/DC=example/O={domain}"
        people = max(20, min(400, files // 1000))
        self.users = [
            User(101 + n, f"{base}/OU=robots/CN=Robot: {vo.name} production", vo.name)
            for n, vo in enumerate(VOS)
        ]
        self.users += [
            User(200 + n, f"{base}/OU=users/CN=user {n:04d}", VOS[n % len(VOS)].name, int(n % 17 == 16) * 2)
            for n in range(people)
        ]
        self._of_vo = {vo.name: [user.uid for user in self.users if user.vo == vo.name] for vo in VOS}
        self._gids = {
            vo.name: [gid for name, gid in self.gid.items() if name.split("/")[0] == vo.name] for vo in VOS
        }

    def owner(self, rng: random.Random, vo: Vo) -> int:
        uids = self._of_vo[vo.name]
        return uids[0] if rng.random() < 0.7 else rng.choice(uids)

    def gids(self, vo: Vo) -> list[int]:
        return self._gids[vo.name]

    def stranger(self, rng: random.Random) -> int:
        return rng.choice(self.users).uid


def named_acl(rng: random.Random, population: Population) -> list[AclEntry]:
    """Entries for some users and groups, and the mask that they need."""
    users = {population.stranger(rng) for _ in range(rng.randrange(3))}
    gids = {rng.choice(population.groups).gid for _ in range(1 + rng.randrange(2))}
    named = [AclEntry("B", rng.choice((0, 4, 5, 7)), uid) for uid in sorted(users)]
    named += [AclEntry("D", rng.choice((0, 5, 7)), gid) for gid in sorted(gids)]
    return [*named, AclEntry("E", rng.choice((5, 7)), 0)]
