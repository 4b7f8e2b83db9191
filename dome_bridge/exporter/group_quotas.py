"""Quotas of groups in Chimera, in place of quotatokens where dCache has no space manager."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import asyncpg

from dome_bridge.chimera import stage, target
from dome_bridge.chimera.quota_plan import QuotaPlan, Used, plan_quotas
from dome_bridge.chimera.space_plan import SpacePlan
from dome_bridge.exporter.session import Session
from dome_bridge.exporter.spaces import mirrored_plan, require_mirrored

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuotasLoaded:
    """foreign: gids with a quota that somebody else has made; those are left alone."""

    plan: QuotaPlan
    foreign: tuple[int, ...] = ()


async def load_quotas(session: Session) -> QuotasLoaded:
    """Writes the quotas that stand for a token, and takes away those that the bridge made before.

    dCache itself counts the files of a group anew every few hours; what it starts with is written here.
    """
    sql = stage.fill("dome_bridge.chimera", "spaces.sql", session.site)
    conn = session.conn
    async with target.told("writing quotas of groups"):
        await require_mirrored(conn)
        plan = await mirrored_quotas(conn, sql, await mirrored_plan(conn, sql))
        async with conn.transaction():
            foreign = {row["gid"] for row in await conn.fetch(sql["quotas"]) if not row["ours"]}
            wanted = {quota.gid: quota for quota in plan.quotas if quota.gid not in foreign}
            for name in ("forget_quotas", "forget_noted_quotas"):
                await conn.execute(sql[name], list(wanted))
            for gid, quota in wanted.items():
                await conn.execute(sql["note_quota"], gid)
                await conn.execute(sql["put_quota"], gid, quota.used, quota.limit)
    logger.info("quotas written groups=%d lost=%d", len(wanted), len(plan.lost))
    left = tuple(sorted(foreign & {quota.gid for quota in plan.quotas}))
    return QuotasLoaded(plan, left)


async def mirrored_quotas(conn: asyncpg.Connection, sql: stage.Statements, plan: SpacePlan) -> QuotaPlan:
    """One look at all files."""
    rows = await conn.fetch(sql["used_by_groups"])
    usage = [Used(row["gid"], row["path"], row["files"], int(row["used"] or 0)) for row in rows]
    return plan_quotas(plan.spaces, usage)
