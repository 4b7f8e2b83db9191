"""Which subjects a CA may issue, in the two formats of its package, and the patterns in them."""

from __future__ import annotations

import re
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth.name_pattern import MAX_PATTERN, MAX_SUBJECT, NamePattern
from dome_bridge.auth.signing_policy import NOTHING, parse_namespaces, parse_signing_policy

CA = "/C=CH/O=Grid/CN=Some CA"
ADA = "/C=CH/O=Grid/OU=People/CN=Ada"


def signing_policy(conditions: str, *, ca: str = f"'{CA}'", rights: str = "CA:sign") -> str:
    return f"""# An example. Quotes' and "such" in comments do no harm.

access_id_CA   X509      {ca}
pos_rights     globus    {rights}
cond_subjects  globus    {conditions}
"""


@pytest.mark.parametrize(
    "conditions",
    [
        "'\"/C=CH/O=Grid/*\"'",
        "\"'/C=CH/O=Grid/*'\"",
        '"/C=CH/O=Grid/*"',
        "'/C=CH/O=Grid/*'",
        "/C=CH/O=Grid/*",
        '\'"/C=DE/*" "/C=CH/O=Grid/*"\'',
        '\'"/C=DE/*"  "/C=CH/O=Grid/*" \'',
        '\'"/C=CH/O=Grid/*""/C=DE/*"\'',
        '"/C=DE/*" "/C=CH/O=Grid/*"',
        "\"'/C=DE/*' '/C=CH/O=Grid/*'\"",
        "'\"/C=CH/O=Grid/*\"'  # a note",
        "'\"/C=??/O=G*d/OU=People/CN=Ada\"'",
        f"'\"{ADA}\"'",
        "'\"*\"'",
    ],
)
def test_x6_signing_policy_permits_what_one_of_its_patterns_matches(conditions: str) -> None:
    assert parse_signing_policy(signing_policy(conditions)).permits(CA, ADA)


@pytest.mark.parametrize(
    "conditions",
    [
        "'\"/C=DE/*\"'",
        "'\"/C=CH/O=Grid\"'",
        "'\"C=CH/O=Grid/*\"'",
        "'\"/c=ch/o=grid/*\"'",
        "'\"/C=CH/O=Grid/?\"'",
        "'\"/C=CH/O=Grid/*X\"'",
        "'\"/C=CH/O=.*\"'",
        "'/C=DE/O=a /*'",
        "'\"\"'",
        "''",
    ],
)
def test_x6_signing_policy_permits_nothing_else(conditions: str) -> None:
    assert not parse_signing_policy(signing_policy(conditions)).permits(CA, ADA)


def test_x6_only_the_block_of_the_ca_counts() -> None:
    text = signing_policy("'\"/C=CH/*\"'") + signing_policy("'\"/C=DE/*\"'", ca="'/CN=Other CA'")
    policy = parse_signing_policy(text)
    assert policy.permits(CA, ADA)
    assert not policy.permits(CA, "/C=DE/CN=x")
    assert policy.permits("/CN=Other CA", "/C=DE/CN=x")
    assert not policy.permits("/CN=Other CA", ADA)
    assert not policy.permits("/CN=Nobody", ADA)


def test_x6_several_conditions_and_blocks_of_one_ca_all_count() -> None:
    text = signing_policy("'/C=DE/*'") + "cond_subjects globus '/C=FR/*'\n" + signing_policy("'/C=CH/*'")
    policy = parse_signing_policy(text.replace("\n", "\r\n"))
    assert all(policy.permits(CA, f"/C={country}/CN=x") for country in ("DE", "FR", "CH"))


@pytest.mark.parametrize(
    ("ca", "rights"),
    [
        (f"'{CA}'", "CA:verify"),
        (f"'{CA} 2'", "CA:sign"),
        ("'Some CA'", "CA:sign"),
        ("'/OU=x\\/CN=y'", "CA:sign"),
    ],
)
def test_x6_block_without_the_right_or_for_no_ca_permits_nothing(ca: str, rights: str) -> None:
    policy = parse_signing_policy(signing_policy("'*'", ca=ca, rights=rights))
    assert not policy.permits(CA, ADA)
    assert not policy.permits("", ADA)


@pytest.mark.parametrize(
    "text",
    [
        "cond_subjects globus '*'\n",
        f"access_id_CA X509 '{CA}'\ncond_subjects globus '*'\n",
        f"pos_rights globus CA:sign\naccess_id_CA X509 '{CA}'\ncond_subjects globus '*'\n",
        f"access_id_USER X509 '{CA}'\npos_rights globus CA:sign\ncond_subjects globus '*'\n",
        f"access_id_CA X509 '{CA}'\npos_rights kerberos CA:sign\ncond_subjects globus '*'\n",
        f"access_id_CA X509 '{CA}'\npos_rights globus CA:sign\ncond_subjects kerberos '*'\n",
        "# nothing\n",
        "",
    ],
)
def test_x6_conditions_without_their_ca_and_right_permit_nothing(text: str) -> None:
    assert not parse_signing_policy(text).permits(CA, ADA)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cond_subjects\n", "line 1: expected a keyword"),
        ("# x\nneg_rights globus CA:sign\n", "line 2: 'neg_rights' is not understood"),
        ("-----BEGIN CERTIFICATE-----\n", "line 1: expected a keyword"),
        (signing_policy("'" + "x" * 513 + "'"), "line 5: a pattern of 513 characters"),
        ("x" * 9000, "line 1 has more than 8192 characters"),
    ],
)
def test_x6_signing_policy_that_does_not_parse_says_where(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_signing_policy(text)


@pytest.mark.parametrize("pattern", ["/O=x/Email=*", "/O=x/E=*", "/O=x/emailAddress=*", "/O=x/*=a@*"])
@pytest.mark.parametrize("parse", ["wildcards", "namespaces"])
def test_x6_pattern_may_spell_attributes_as_old_openssl_does(pattern: str, parse: str) -> None:
    if parse == "wildcards":
        policy = parse_signing_policy(signing_policy(f"'\"{pattern}\"'"))
    else:
        policy = parse_namespaces(f'TO Issuer SELF PERMIT Subject "{pattern.replace("*", ".*")}"')
    assert policy.permits(CA, "/O=x/emailAddress=a@b")


def test_x6_pattern_may_have_letters_that_are_escaped_in_names() -> None:
    assert parse_signing_policy(signing_policy("'\"/O=Zürich/*\"'")).permits(CA, r"/O=Z\xC3\xBCrich/CN=a")
    assert parse_signing_policy(signing_policy(r"""'"/O=Z\xC3\xBCrich/*"'""")).permits(
        CA, r"/O=Z\xC3\xBCrich/CN=a"
    )
    assert parse_namespaces('TO Issuer SELF PERMIT Subject "/O=Zürich/.*"').permits(
        CA, r"/O=Z\xC3\xBCrich/CN=a"
    )


NAMESPACES = rf"""#NAMESPACES-VERSION: 1.0
# a comment that goes on \
TO Issuer "{CA}" \
  PERMIT Subject "/C=CH/O=Grid/.*"

to issuer SELF permit subject "/DC=ch/DC=(cern|psi)/.+"   # as well
TO Issuer SELF DENY Subject ".*/CN=Mallory"
TO Issuer "/CN=Other CA" \
  PERMIT \
  # in between
  Subject "/C=DE/.*"
"""


@pytest.mark.parametrize(
    ("issuer", "subject", "is_permitted"),
    [
        (CA, ADA, True),
        (CA, "/DC=ch/DC=psi/CN=x", True),
        (CA, "/DC=ch/DC=psi/", False),
        (CA, "/DC=ch/DC=ethz/CN=x", False),
        (CA, "/C=CH/O=Grid", False),
        (CA, "x/C=CH/O=Grid/CN=a", False),
        (CA, "/C=CH/O=Grid/CN=Mallory", False),
        (CA, "/C=CH/O=Grid/CN=Mallory2", True),
        (CA, "/C=DE/CN=x", False),
        ("/CN=Other CA", "/C=DE/CN=x", True),
        ("/CN=Other CA", "/C=DE/CN=Mallory", False),
        ("/CN=Other CA", ADA, False),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_x6_namespaces_permit_what_they_do_not_deny(
    issuer: str, subject: str, is_permitted: bool, line_end: str
) -> None:
    policy = parse_namespaces(NAMESPACES.replace("\n", line_end))
    assert policy.permits(issuer, subject) is is_permitted


def test_x6_denial_wins_in_any_order() -> None:
    lines = ['TO Issuer SELF PERMIT Subject "/O=x/.*"', 'TO Issuer SELF DENY Subject "/O=x/CN=a"']
    for text in ("\n".join(lines), "\n".join(reversed(lines))):
        assert parse_namespaces(text).permits(CA, "/O=x/CN=b")
        assert not parse_namespaces(text).permits(CA, "/O=x/CN=a")


@pytest.mark.parametrize("text", ["", "# nothing\n", 'TO Issuer "/CN=x" PERMIT Subject ".*"'])
def test_x6_namespaces_that_do_not_name_the_ca_permit_nothing(text: str) -> None:
    assert not parse_namespaces(text).permits(CA, ADA)
    assert not NOTHING.permits(CA, ADA)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('# x\n\nPERMIT Subject ".*"\n', "line 3: expected TO Issuer"),
        ('TO Issuer SELF PERMIT Subject "/O=x/.*" and more', "line 1: expected TO Issuer"),
        ('TO Issuer SELF PERMIT Subject ""', "line 1: expected TO Issuer"),
        ('TO Issuer SELF ALLOW Subject ".*"', "line 1: expected TO Issuer"),
        ("\nTO Issuer SELF \\\n PERMIT \\\n Subject\n", "line 2: expected TO Issuer"),
        ("TO Issuer SELF PERMIT \\", "line 1: expected TO Issuer"),
        ('TO Issuer "nobody" PERMIT Subject ".*"', "line 1: no attribute"),
        ('TO Issuer SELF PERMIT Subject "("', "line 1: .*not closed"),
        ('TO Issuer SELF PERMIT Subject "' + "x" * 513 + '"', "line 1: a pattern of 513 characters"),
    ],
)
def test_x6_namespaces_that_do_not_parse_say_where(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_namespaces(text)


def test_x6_name_of_more_than_1024_bytes_is_not_permitted() -> None:
    for policy in (
        parse_signing_policy(signing_policy("'*'")),
        parse_namespaces('TO Issuer SELF PERMIT Subject ".*"'),
    ):
        assert policy.permits(CA, "/CN=" + "a" * (MAX_SUBJECT - 4))
        assert not policy.permits(CA, "/CN=" + "a" * (MAX_SUBJECT - 3))


# Patterns.


@pytest.mark.parametrize(
    "expression",
    [
        r"(a)\1",
        "(?=a)b",
        "(?<!a)b",
        "(?i)a",
        "(?P<x>a)",
        "a**",
        "a{2}{3}",
        "*a",
        "(|*)",
        "a|+",
        "a)",
        "(a",
        "[a",
        "[",
        "[]",
        "[z-a]",
        r"[\d-z]",
        "[[:alpha:]]",
        "a{3,2}",
        "a{x}",
        "a{99999}",
        "a{9999}",
        "((((a{20}){20}){20}){20})",
        "(()*){9999}",
        "((){99}){99}",
        "(" * 17 + ")" * 17,
        "a^b",
        "a$b",
        "(a$)",
        r"\bа",
        r"\x41",
        "a\\",
        "[ü]",
        "x" * (MAX_PATTERN + 1),
    ],
)
def test_expression_that_has_no_meaning_here_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"the (expression|pattern)|a pattern of"):
        NamePattern.of_expression(expression)


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("(a|a)*b", "a" * MAX_SUBJECT),
        ("(a+)+b", "a" * MAX_SUBJECT),
        ("(a?){50}" + "a{50}" + "b", "a" * MAX_SUBJECT),
        (".*.*.*.*.*.*.*.*x", "a" * MAX_SUBJECT),
        ("((((((a*)*)*)*)*)*)*b", "a" * MAX_SUBJECT),
    ],
)
def test_expression_that_is_made_to_take_for_ever_takes_a_moment(expression: str, name: str) -> None:
    started = time.thread_time()
    assert not NamePattern.of_expression(expression).matches(name)
    assert time.thread_time() - started < 2


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "[a-c]", r"\.", r"[\]b-]", r"\d", r"\W", "[]a]", "/"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        st.builds(
            lambda part, count: f"(?:{part}){count}",
            inner,
            st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,}", "{0}", "{1,2}?"]),
        ),
    ),
    max_leaves=6,
)
SUBJECTS = st.text("abc.]-1/", max_size=8)


@given(EXPRESSIONS, st.lists(SUBJECTS, min_size=1, max_size=8))
def test_expression_matches_what_python_matches(expression: str, names: list[str]) -> None:
    pattern = NamePattern.of_expression(expression)
    for name in names:
        assert pattern.matches(name) is (re.fullmatch(expression, name) is not None)


@pytest.mark.parametrize("expression", ["^/O=x/.*$", "^a|/O=x/.*", "a$|^/O=x/.*", "/O=x/.*"])
def test_anchors_at_the_ends_change_nothing(expression: str) -> None:
    pattern = NamePattern.of_expression(expression)
    assert pattern.matches("/O=x/CN=a")
    assert not pattern.matches(" /O=x/CN=a")


@given(st.text("ab*?/", max_size=8), st.lists(st.text("ab/", max_size=8), min_size=1, max_size=8))
def test_wildcards_match_what_those_of_file_names_do(wildcards: str, names: list[str]) -> None:
    pattern = NamePattern.of_wildcards(wildcards)
    for name in names:
        assert pattern.matches(name) is fnmatchcase(name, wildcards)


@given(st.text(st.sampled_from("ab()[]{}|*+?.^$\\-,0123:/=E") | st.characters(), max_size=20))
def test_any_expression_is_compiled_or_refused(expression: str) -> None:
    try:
        pattern = NamePattern.of_expression(expression)
    except ValueError:
        return
    pattern.matches("/CN=a")
