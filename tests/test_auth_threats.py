"""Every threat that the specification lists, with the tests that show its required answer.

Most are shown where the requirement is tested; here stands where, and each name is looked up. What belongs
to no single requirement is tried at the end.
"""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import pytest

from sandbox.servers import MariaServer
from tests.fixtures.gate import ALICE, DTEAM, PREFIX, Gate, open_gate

HERE = Path(__file__).parent

SHOWN_BY: dict[str, tuple[str, ...]] = {
    "TH-deputy: headers of an untrusted peer": (
        "test_auth_role_matrix::test_n4_user_may_not_name_anybody",
        "test_auth_signed::test_k1_everybody_else_is_refused",
    ),
    "TH-deputy: forwarded unchanged": ("test_auth_role_matrix::test_n7_disk_servers_are_told_who_asks",),
    "TH-root": (
        "test_auth_role_matrix::test_n4_root_means_nobody",
        "test_auth_role_matrix::test_n4_g7_root_with_others_is_refused",
        "test_auth_people::test_g6_g7_groups_of_other_vos_and_root_are_dropped",
    ),
    "TH-xrdhttp": (
        "test_auth_signed::test_k2_no_parameter_may_change",
        "test_auth_signed::test_k2_stale_signature_is_refused",
        "test_auth_signed::test_k2_signature_is_for_one_key_verb_and_command",
        "test_auth_signed::test_k4_older_secret_is_accepted_during_a_change",
    ),
    "TH-proxied": (
        "test_auth_proxied::test_y1_listener_beyond_the_loopback_does_not_start",
        "test_auth_proxied::test_y2_header_given_twice_is_refused",
    ),
    "TH-plain": ("test_auth_signed::test_k5_bearer_token_is_refused_unread",),
    "TH-traversal: scopes": ("test_auth_commands::test_s1_s2_s3_scopes_as_they_are_written",),
    "TH-traversal: request paths": ("test_auth_commands::test_s7_paths_of_users_and_tokens",),
    "TH-traversal: attribute certificates": ("test_auth_voms_signers::v5",),
    "TH-prefix": (
        "test_auth_commands::test_m1_capability_and_command",
        "test_auth_people::test_g8_i1_group_token_stays_in_its_area",
        "test_auth_people::test_g6_g7_groups_of_other_vos_and_root_are_dropped",
        "test_auth_token_claims::t12",
        "test_auth_tokens::t2",
    ),
    "TH-alg-none": ("test_auth_token_keys::t5",),
    "TH-hs256": ("test_auth_token_keys::t5", "test_auth_keyset::t6"),
    "TH-kid": ("test_auth_token_keys::t7", "test_auth_people::test_i2_keys_of_issuers_are_their_own"),
    "TH-jku": ("test_auth_token_keys::t7",),
    "TH-ssrf": ("test_auth_discovery::d4", "test_auth_discovery::d5"),
    "TH-jwks-flood": ("test_auth_issuer_keys::d9",),
    "TH-huge": (
        "test_auth_answers::test_l1_token_of_more_than_8192_bytes_is_invalid",
        "test_auth_answers::test_l1_at_most_128_groups",
        "test_auth_answers::test_l2_body_nested_deeper_than_32_is_refused",
    ),
    "TH-dup": (
        "test_auth_answers::test_h3_more_than_one_token_is_an_invalid_request",
        "test_auth_answers::test_l2_first_of_two_members_is_authorised_and_used",
        "test_auth_role_matrix::test_n4_header_given_twice_is_malformed",
        "test_auth_signed::test_k2_no_parameter_may_change",
        "test_auth_tokens::t3",
    ),
    "TH-replay": ("test_auth_answers::test_a1_both_identities_are_logged", "test_auth_token_claims::t11"),
    "TH-cross-VO": (
        "test_auth_people::test_g6_g7_groups_of_other_vos_and_root_are_dropped",
        "test_auth_people::test_g8_i1_group_token_stays_in_its_area",
    ),
    "TH-union": (
        "test_auth_people::test_g5_any_capability_makes_groups_worthless",
        "test_auth_mixed_credentials::test_mx2_insufficient_token_does_not_fall_back",
    ),
    "TH-stale": (
        "test_auth_people::test_x7_certificate_that_is_revoked_on_an_open_connection",
        "test_auth_people::test_b4_b5_ban_file_is_effective_on_open_connections",
        "test_auth_issuer_keys::d7",
    ),
    "TH-crl: expired": ("test_auth_crls::c1",),
    "TH-crl: hidden behind a proxy": ("test_auth_crls::c1",),
    "TH-proxy": (
        "test_auth_proxies::p1",
        "test_auth_proxies::p2",
        "test_auth_proxies::p3",
        "test_auth_proxies::p4",
    ),
    "TH-dn": (
        "test_auth_role_matrix::test_n2_host_is_who_its_certificate_names_exactly",
        "test_auth_role_matrix::test_u1_name_that_could_be_read_in_two_ways_is_refused",
        "test_auth_threats::test_look_alikes_are_other_users",
    ),
    "TH-ca": ("test_auth_x509::x6",),
    "TH-renegotiation, resumption, downgrade": (
        "test_auth_tls::tls2",
        "test_auth_tls::tls3",
        "test_auth_tls::tls4",
    ),
    "TH-timing": (
        "test_auth_answers::test_order_authorisation_before_existence",
        "test_auth_answers::test_a2_reason_is_precise_in_the_log_and_general_in_the_answer",
    ),
    "TH-log": (
        "test_auth_answers::test_a3_nothing_is_injected_into_a_line",
        "test_auth_answers::test_h4_a4_no_token_is_in_any_log_or_answer",
    ),
    "TH-race": (
        "test_auth_commands::test_m5_of_concurrent_creations_one_wins",
        "test_auth_commands::test_m5_of_concurrent_renames_one_wins",
        "test_auth_commands::test_s8_link_out_of_the_area_is_refused",
    ),
    "TH-id": ("test_auth_commands::test_m4_object_named_by_id_is_authorised_by_its_path",),
    "TH-info": (
        "test_auth_answers::test_h7_info_echoes_nothing_of_the_request",
        "test_auth_answers::test_a2_reason_is_precise_in_the_log_and_general_in_the_answer",
    ),
    "TH-smuggling": ("test_auth_threats::test_request_that_could_be_cut_in_two_ways_is_refused",),
}


@cache
def names_in(module: str) -> frozenset[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def is_shown(place: str) -> bool:
    """place: a test of a module, or a requirement that tests there have in their names."""
    module, _, name = place.partition("::")
    return any(name == each or f"_{name}_" in each for each in names_in(module))


@pytest.mark.parametrize("threat", SHOWN_BY)
def test_threat_is_shown_to_be_answered(threat: str) -> None:
    assert [place for place in SHOWN_BY[threat] if not is_shown(place)] == []


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate")) as gate:
        yield gate


LOOK_ALIKES = {
    "a Cyrillic letter": "/DC=test/DC=dmlite/OU=users/CN=\u0410lice Tester",
    "another form of Unicode": "/DC=test/DC=dmlite/OU=users/CN=Alice\u00a0Tester",
    "other case": "/DC=test/DC=dmlite/OU=users/CN=alice tester",
    "a blank at the end": "/DC=test/DC=dmlite/OU=users/CN=Alice Tester ",
    "two blanks": "/DC=test/DC=dmlite/OU=users/CN=Alice  Tester",
}


@pytest.mark.parametrize("name", LOOK_ALIKES.values(), ids=LOOK_ALIKES)
async def test_look_alikes_are_other_users(gate: Gate, name: str) -> None:
    private = {"path": f"{DTEAM}/alices"}
    if "alices" not in str((await gate.do("dome_getdir", path=DTEAM)).json):
        await gate.do("dome_makedir", **private)
        await gate.do("dome_setowner", **private, uid=101, gid=101)
        await gate.do("dome_setmode", **private, mode=0o700)
        await gate.do("dome_setacl", **private, acl="A70,C00,F00")
    assert (
        await gate.ask("dome_makedir", {"path": f"{DTEAM}/alices/a"}, certificate=gate.grid.alice)
    ).status != 403
    other = gate.grid.user(name)
    reply = await gate.ask("dome_makedir", {"path": f"{DTEAM}/alices/b"}, certificate=other)
    assert reply.status == 403
    assert reply.audit["user"] != ALICE


REQUESTS = {
    "length and chunks": b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 0\r\n\r\n{}",
    "length with a sign": b"Content-Length: +2\r\n\r\n{}",
    "blank before the colon": b"Content-Length : 2\r\n\r\n{}",
    "folded line": b"X-A: b\r\n  c\r\nContent-Length: 2\r\n\r\n{}",
    "bare carriage return": b"X-A: b\rAuthorization: Bearer x\r\nContent-Length: 0\r\n\r\n",
    "NUL": b"X-A: b\0c\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("rest", REQUESTS.values(), ids=REQUESTS)
async def test_request_that_could_be_cut_in_two_ways_is_refused(gate: Gate, rest: bytes) -> None:
    connection = gate.connection(gate.grid.alice)
    head = f"GET {PREFIX}/dome_info HTTP/1.1\r\nHost: dpmhead.test\r\n".encode()
    reply = await gate.send(head + rest, connection)
    await connection.close()
    assert reply.status == 400
