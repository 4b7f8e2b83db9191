"""Prints the example of docs/howto/tokens.md: what `dome-bridge auth explain` says of two real tokens.

    .venv/bin/python -m sandbox.explained

An issuer, a made-up catalog and the command line itself; only the issuer's name is that of the example.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from sandbox.catalog import create_schemas, make_site
from sandbox.issuer import AUDIENCE, TokenIssuer
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions

CNS, DPM = "cns_explained", "dpm_explained"
ISSUER = "https://atlas-auth.example/"
AREA = "/dpm/example.org/home/atlas"
SCOPE = "storage.read:/ storage.create:/atlasdatadisk/user"

CONFIG = """\
[dpm]
domehead_conf = ""
host = "{maria.host}"
port = {maria.port}
user = "{maria.user}"
password_file = "{directory}/password"
cns_db = "{cns}"
dpm_db = "{dpm}"
[api]
enabled = true
host_names = ["dpmhead.example.org"]
[[api.listen]]
port = 1094
address = "0.0.0.0"
protocol = "https"
[auth]
audience = ["{audience}"]
jwks_cache_dir = ""
[[auth.issuer]]
name = "atlas"
issuer = "{issuer}"
base_path = "{area}"
jwks_uri = "{keys.jwks_uri}"
ca_file = "{keys.ca_file}"
allow_private_address = true
"""


async def explained(maria: MariaServer, directory: Path) -> str:
    """Two pieces, each with the command that gives it; of the second only what is not in the first."""
    await create_schemas(maria, CNS, DPM)
    try:
        await maria.grant(CNS, DPM)
        await make_site(maria, CNS, DPM, SiteOptions(files=200))
        async with TokenIssuer(directory, name="atlas") as issuer:
            file = _configuration(maria, directory, issuer)
            token = issuer.token(iss=ISSUER, scope=SCOPE)
            made = json.dumps({"path": f"{AREA}/atlasscratchdisk/new"})
            believed = await _shown(file, token)
            refused = await _shown(file, token, "--command", "dome_makedir", "--body", made)
    finally:
        await maria.drop_database(CNS, DPM)
    return f"{believed}\n\n{_without_repetition(refused, believed)}"


def _without_repetition(text: str, before: str) -> str:
    """Checks that the clock has changed are the same ones all the same."""
    known = {line[:8] for line in before.splitlines() if line.startswith("ok ")}
    lines = [line for line in text.splitlines() if line[:8] not in known]
    facts = next(place for place, line in enumerate(lines) if line.startswith("principal "))
    first = next(place for place, line in enumerate(lines) if line.startswith("ok "))
    return "\n".join([*lines[:first], "[…]", *lines[first:facts], "[…]"])


def _configuration(maria: MariaServer, directory: Path, issuer: TokenIssuer) -> Path:
    password, file = directory / "password", directory / "dome-bridge.toml"
    password.touch(mode=0o600)
    password.write_text(maria.password)
    file.write_text(
        CONFIG.format(
            maria=maria,
            directory=directory,
            cns=CNS,
            dpm=DPM,
            audience=AUDIENCE,
            issuer=ISSUER,
            area=AREA,
            keys=issuer,
        )
    )
    return file


async def _shown(config: Path, token: str, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dome_bridge", "--config", str(config), "auth", "explain", *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(token.encode())
    quoted = [f"'{each}'" if each.startswith("{") else each for each in options]
    command = " ".join(["$ dome-bridge auth explain token.txt", *quoted])
    return f"{command}\n{out.decode().rstrip()}"


async def _main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with MariaServer() as maria:
            text = await explained(maria, Path(directory))
    print("\n".join(f"    {line}".rstrip() for line in text.splitlines()))


if __name__ == "__main__":
    asyncio.run(_main())
