"""LSC files: names of a VO's servers and of their CAs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth.lsc import parse_lsc

SERVER, CA, ROOT = "/DC=ch/OU=computers/CN=voms.test", "/DC=ch/CN=Some CA", "/DC=ch/CN=Root"


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        (f"{SERVER}\n{CA}\n", ((SERVER, CA),)),
        (f"{SERVER}\n{CA}", ((SERVER, CA),)),
        (f"\n  \"{SERVER}\"  \r\n\r\n\t'{CA}'\r\n", ((SERVER, CA),)),
        (f'" {SERVER} "\n# a note\n{CA}', ((SERVER, CA),)),
        (f"{SERVER}\n{CA}\n{CA}\n{ROOT}\n", ((SERVER, CA, CA, ROOT),)),
        (
            f"{SERVER}\n{CA}\n------ NEXT CHAIN ------\n/CN=voms2\n{CA}\n",
            ((SERVER, CA), ("/CN=voms2", CA)),
        ),
        (f"------ NEXT CHAIN ------\n{SERVER}\n{CA}\n---NEXT CHAIN---\n\n", ((SERVER, CA),)),
        (
            r"/CN=host\/voms.test/Email=a@b" + "\nCN=J\\C3\\BCr,O=x",
            (("/CN=host/voms.test/emailAddress=a@b", r"/O=x/CN=J\xC3\xBCr"),),
        ),
        (
            "/CN=host/voms.test/E=a@b\n/O=x/CN=Jür",
            (("/CN=host/voms.test/emailAddress=a@b", r"/O=x/CN=J\xC3\xBCr"),),
        ),
    ],
)
def test_v5_lsc_file_is_chains_of_canonical_names(text: str, chains: tuple[tuple[str, ...], ...]) -> None:
    assert parse_lsc(text) == chains


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no chain"),
        ("\n# nothing\n------ NEXT CHAIN ------\n", "names no chain"),
        (f"{SERVER}\n", "pairs of a subject and its issuer"),
        (f"{SERVER}\n------ NEXT CHAIN ------\n{CA}\n", "pairs of a subject and its issuer"),
        (f"{SERVER}\n{CA}\n-----BEGIN CERTIFICATE-----\n", "line 3: "),
        (f"{SERVER}\nvoms.test\n", "line 2: "),
        (f"{SERVER}\n{CA}\n------ NEXT CHIAN ------\n", "line 3: "),
        ("/OU=x\\/CN=voms\n/CN=CA\n", "line 1: .*its slash form is another name"),
        (f'"{SERVER}\n{CA}\n', "line 1: "),
    ],
)
def test_v5_lsc_file_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_lsc(text)


NAMES = st.text("abc", min_size=1).map("/CN={}".format)
CHAINS = st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=3).map(lambda pairs: sum(pairs, ()))
NOISE = st.sampled_from(["", "\n", "  \n", "# note\n", "\t\r\n"])


@given(st.lists(CHAINS, min_size=1, max_size=3), st.data())
def test_v5_lsc_file_of_any_layout_gives_its_chains(
    chains: list[tuple[str, ...]], data: st.DataObject
) -> None:
    quoted = st.sampled_from(["{}", '"{}"', "'{}'", "  {} "])
    pieces = []
    for chain in chains:
        lines = [data.draw(NOISE) + data.draw(quoted).format(name) + "\n" for name in chain]
        pieces.append("".join(lines))
    assert parse_lsc("------ NEXT CHAIN ------\n".join(pieces)) == tuple(chains)
