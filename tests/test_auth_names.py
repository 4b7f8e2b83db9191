"""Distinguished names: every text form of a certificate's name leads to one user, and no name to two."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type as Asn1
from cryptography.x509.oid import NameOID
from hypothesis import assume, given
from hypothesis import strategies as st
from pyasn1.codec.der import encoder
from pyasn1.type import char

from dome_bridge.auth.dn import (
    COMMON_NAME,
    DistinguishedName,
    canonical,
    canonical_keyword,
    host_of,
    parse,
    user_name,
)
from dome_bridge.auth.refusal import AuthError

C, O, OU, CN = "2.5.4.6", "2.5.4.10", "2.5.4.11", COMMON_NAME  # noqa: E741
DC, UID, EMAIL = "0.9.2342.19200300.100.1.25", "0.9.2342.19200300.100.1.1", "1.2.840.113549.1.9.1"

KEY = ec.generate_private_key(ec.SECP256R1())


def name_of(*rdns: Sequence[tuple[str, str] | tuple[str, str, Asn1]]) -> x509.Name:
    return x509.Name([x509.RelativeDistinguishedName([attribute(*part) for part in rdn]) for rdn in rdns])


def attribute(oid: str, value: str, kind: Asn1 | None = None) -> x509.NameAttribute[str]:
    return x509.NameAttribute(x509.ObjectIdentifier(oid), value, kind)


def openssl(name: x509.Name, form: str) -> str:
    """The subject of a certificate with this name, as the real program prints it."""
    certificate = (
        x509.CertificateBuilder(name, name, KEY.public_key(), 5)
        .not_valid_before(datetime.datetime(2026, 1, 1))
        .not_valid_after(datetime.datetime(2027, 1, 1))
        .sign(KEY, hashes.SHA256())
    )
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", form]
    printed = subprocess.run(
        command, input=certificate.public_bytes(Encoding.PEM), capture_output=True, check=True
    )
    return printed.stdout.decode().removeprefix("subject=").removesuffix("\n")


TABLE = [
    pytest.param(name_of([(DC, "org")], [(DC, "test")], [(CN, "Ada")]), "/DC=org/DC=test/CN=Ada", id="plain"),
    pytest.param(name_of([(CN, "Jürgen Ω 😀")]), r"/CN=J\xC3\xBCrgen \xCE\xA9 \xF0\x9F\x98\x80", id="utf-8"),
    pytest.param(name_of([(CN, "host/d1.test")]), "/CN=host/d1.test", id="host"),
    pytest.param(name_of([(CN, "Robot: a/b+c")]), "/CN=Robot: a/b+c", id="slash-and-plus"),
    pytest.param(name_of([(CN, "a\\b")], [(O, "c\\")]), "/CN=a\\b/O=c\\", id="backslash"),
    pytest.param(name_of([(O, "Ltd., \"X\" <y>; 'z'")]), "/O=Ltd., \"X\" <y>; 'z'", id="comma-and-quotes"),
    pytest.param(name_of([(CN, "#c0ffee")], [(O, "a#b")]), "/CN=#c0ffee/O=a#b", id="leading-hash"),
    pytest.param(name_of([(CN, " a ")], [(O, "  ")]), "/CN= a /O=  ", id="blanks-around"),
    pytest.param(name_of([(CN, "a=b")], [(O, "=")]), "/CN=a=b/O==", id="equals"),
    pytest.param(name_of([(CN, "x/")], [(O, "/")], [(OU, "/y")]), "/CN=x//O=//OU=/y", id="slash-at-the-ends"),
    pytest.param(name_of([(O, "")], [(OU, "x")]), "/O=/OU=x", id="empty-value"),
    pytest.param(
        name_of([(CN, "Ada")], [(EMAIL, "a@b.test")]), "/CN=Ada/emailAddress=a@b.test", id="e-mail-address"
    ),
    pytest.param(name_of([(CN, "Ada")], [(UID, "ada")]), "/CN=Ada/UID=ada", id="user-id"),
    pytest.param(name_of([(CN, "Ada", Asn1.PrintableString)]), "/CN=Ada", id="printable"),
    pytest.param(
        name_of([("2.5.4.5", "5")], [("2.5.4.4", "s")], [("2.5.4.42", "g")], [("2.5.4.12", "t")]),
        "/serialNumber=5/SN=s/GN=g/T=t",
        id="personal",
    ),
    pytest.param(
        name_of([(C, "CH")], [("2.5.4.8", "GE")], [("2.5.4.7", "x")], [(OU, "y")]),
        "/C=CH/ST=GE/L=x/OU=y",
        id="places",
    ),
    pytest.param(
        name_of([("1.2.3.4", "v")], [("2.5.4.9", "Road 1")], [("2.5.4.17", "123")]),
        "/1.2.3.4=v/2.5.4.9=Road 1/2.5.4.17=123",
        id="attributes-without-a-short-name",
    ),
    pytest.param(name_of([(CN, "a"), (UID, "b")], [(O, "c")]), "/CN=a+UID=b/O=c", id="multi-valued"),
]
# OpenSSL takes the bytes for Latin-1 in one form and leaves them alone in the other.
TELETEX = [
    pytest.param(name_of([(CN, "Jür", Asn1.T61String)]), r"/CN=J\xC3\xBCr", id="teletex"),
]
WIDE = [
    pytest.param(name_of([(CN, " #Jür ", Asn1.BMPString)]), r"/CN= #J\xC3\xBCr ", id="bmp"),
    pytest.param(name_of([(CN, "J😀", Asn1.UniversalString)]), r"/CN=J\xF0\x9F\x98\x80", id="universal"),
]


@pytest.mark.parametrize(("name", "slash"), TABLE + TELETEX + WIDE)
def test_u3_name_of_a_certificate_has_one_slash_form(name: x509.Name, slash: str) -> None:
    dn = DistinguishedName.from_x509(name)
    assert dn.slash == str(dn) == slash
    assert not dn.is_ambiguous
    assert parse(slash) == dn
    assert canonical(slash) == slash


# For wide strings OpenSSL prints the bytes of their encoding here, which nobody can tell from characters.
@pytest.mark.parametrize(("name", "slash"), TABLE + TELETEX)
def test_u3_slash_form_is_what_openssl_prints(name: x509.Name, slash: str) -> None:
    printed = openssl(name, "compat")
    assert canonical(printed) == slash
    assert parse(printed) == DistinguishedName.from_x509(name)


@pytest.mark.parametrize(("name", "slash"), TABLE + WIDE)
@pytest.mark.parametrize(
    "form", ["RFC2253", "RFC2253,-esc_msb", "RFC2253,sep_comma_plus_space", "RFC2253,use_quote"]
)
def test_u3_rfc_form_that_openssl_prints_leads_to_the_slash_form(
    name: x509.Name, slash: str, form: str
) -> None:
    printed = openssl(name, form)
    assert parse(printed) == DistinguishedName.from_x509(name)
    assert canonical(printed) == slash


@pytest.mark.parametrize(
    ("text", "slash"),
    [
        (r"/CN=Robot: a\/b \+ c", "/CN=Robot: a/b + c"),
        (r"/CN=host\/d1.test", "/CN=host/d1.test"),
        (r"/CN=J\xc3\xBCrgen", r"/CN=J\xC3\xBCrgen"),
        ("/CN=Jürgen", r"/CN=J\xC3\xBCrgen"),
        (r"/CN=J\xFCrgen", r"/CN=J\xFCrgen"),
        ("/CN=J\udcfcrgen", r"/CN=J\xFCrgen"),
        (r"/CN=\x41\x2f", r"/CN=\x41\x2f"),
        ("/CN=a/Email=b", "/CN=a/emailAddress=b"),
        ("/CN=a/E=b", "/CN=a/emailAddress=b"),
        ("/CN=a/EMAIL=b", "/CN=a/emailAddress=b"),
        ("/CN=a/EMAILADDRESS=b", "/CN=a/emailAddress=b"),
        ("/CN=a/USERID=b", "/CN=a/UID=b"),
        ("/CN=a/title=b", "/CN=a/T=b"),
        ("/CN=a/street=b/postalCode=1", "/CN=a/2.5.4.9=b/2.5.4.17=1"),
        ("/2.5.4.3=a/1.2.840.113549.1.9.1=b", "/CN=a/emailAddress=b"),
        ("/CN=a+USERID=b", "/CN=a+UID=b"),
        ("/CN=C++=x", "/CN=C++=x"),
        ("/CN=a/weird-one=b", "/CN=a/weird-one=b"),
        ("/CN=a /O= b ", "/CN=a /O= b "),
        ("CN=a,O=b", "/O=b/CN=a"),
        (" CN = a , O = b ", "/O=b/CN=a"),
        ("cn=a;o=b", "/O=b/CN=a"),
        (r"CN=a\,b\+c\"\\\<\>\;\=\#\ ", '/CN=a,b+c"\\<>;=# '),
        (r"CN=\ a\20", "/CN= a "),
        (r"CN=a\\ ,O=b", "/O=b/CN=a\\"),
        (r"CN=\23x,O=\#y", "/O=#y/CN=#x"),
        ('CN="a, b + \\"c\\"" ,O=x', '/O=x/CN=a, b + "c"'),
        (r"CN=J\C3\BCrgen", r"/CN=J\xC3\xBCrgen"),
        (r"CN=J\c3\bcrgen", r"/CN=J\xC3\xBCrgen"),
        ("CN=Jürgen", r"/CN=J\xC3\xBCrgen"),
        ("CN=#0c03416461", "/CN=Ada"),
        ("CN=#1E06004100640061", "/CN=Ada"),
        ("CN=#1303416461,O=x", "/O=x/CN=Ada"),
        ("CN=#14044AC3BC72", r"/CN=J\xC3\xBCr"),
        ("1.2.3.4=#0C0176", "/1.2.3.4=v"),
        ("OID.2.5.4.3=a", "/CN=a"),
        ("UID=b+CN=a,O=c", "/O=c/CN=a+UID=b"),
        ("EMAILADDRESS=a@b, commonName=x", "/CN=x/emailAddress=a@b"),
        ("e=a@b,userid=u", "/UID=u/emailAddress=a@b"),
        ("CN=,O=x", "/O=x/CN="),
        ("CN=Robot: a/b", "/CN=Robot: a/b"),
    ],
)
def test_u3_text_in_any_form_becomes_canonical(text: str, slash: str) -> None:
    assert canonical(text) == slash
    assert canonical(slash) == slash


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no attribute and ="),
        ("/", "begins with a slash"),
        ("root", "no attribute and ="),
        ("jwt:atlas:a=b", "no attribute and ="),
        ("//CN=a", "begins with a slash"),
        ("/=a", "begins with a slash"),
        ("/CN", "begins with a slash"),
        ("/a b=c/CN=d", "begins with a slash"),
        ("CN", "no attribute and ="),
        ("CN=a,", "no attribute and ="),
        ("CN=a,,O=b", "no attribute and ="),
        (",CN=a", "no attribute and ="),
        ("CN=a+", "no attribute and ="),
        ('CN=a"b', "is not escaped"),
        ('CN="a', "is not escaped"),
        ('CN="a"b', "is not escaped"),
        ("CN=a<b", "is not escaped"),
        ("CN=a\\", "is not escaped"),
        (r"CN=a\zb", "is not escaped"),
        ("CN=#xy", "is not hexadecimal"),
        ("CN=#", "is not hexadecimal"),
        ("CN=#0c03", "no encoded string"),
        ("CN=#0c0141ff", "no encoded string"),
        ("CN=#0c02ffff", "no encoded string"),
        ("CN=#020105", "no encoded string"),
        ("CN=#30030c0141", "no encoded string"),
        ("CN=#2480040141", "no encoded string"),
        ("CN=#0c0141 x", "is not escaped"),
        ("nonsense=a", "no attribute 'nonsense'"),
        ("CN=a\ud800", "surrogates"),
        ("/CN=a\ud800", "surrogates"),
        ("/CN=" + "a" * 4096, "longer than 4096"),
        ("CN=" + "a" * 4096, "longer than 4096"),
        ("/CN=a\nb", "control character in CN"),
        (r"/CN=a\x00b", "control character in CN"),
        (r"CN=a\00b", "control character in CN"),
        ("/CN=a\x85", "control character in CN"),
        (r"/OU=People\/CN=Ada", "its slash form is another name"),
        ("OU=People/CN=Ada", "its slash form is another name"),
        (r"CN=a\+UID=b", "its slash form is another name"),
        (r"CN=a\\xC3,O=b", "its slash form is another name"),
    ],
)
def test_text_that_is_no_name_or_ambiguous_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        canonical(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        name_of([(OU, "People/CN=Ada Admin")]),
        name_of([(O, "x")], [(CN, "a/emailAddress=b")]),
        name_of([(CN, "a/E=b")]),
        name_of([(CN, "a/1.2.3=b")]),
        name_of([(CN, "a/unheard-of=b")]),
        name_of([(CN, "a+UID=b")]),
        name_of([(CN, "a\\")], [(O, "b")]),
        name_of([(CN, r"a\/b")]),
        name_of([(CN, r"a\+b")]),
        name_of([(CN, r"J\xC3\xBCrgen")]),
        name_of([(CN, "a\nb")]),
        name_of([(CN, "a\0b")]),
        name_of([(CN, "a\x7fb")]),
        name_of([(CN, "a\x85b", Asn1.BMPString)]),
        x509.Name([]),
    ],
)
def test_u1_certificate_with_an_ambiguous_name_is_refused(name: x509.Name) -> None:
    dn = DistinguishedName.from_x509(name)
    assert dn.is_ambiguous
    with pytest.raises(AuthError) as refusal:
        user_name(dn)
    assert (refusal.value.status, refusal.value.rule) == (403, "U1")
    assert "\n" not in str(refusal.value)


def test_u1_name_made_to_look_like_an_administrators_is_refused() -> None:
    admin = DistinguishedName.from_x509(name_of([(OU, "People")], [(CN, "Ada Admin")]))
    other = DistinguishedName.from_x509(name_of([(OU, "People/CN=Ada Admin")]))
    assert other.slash == admin.slash
    assert other != admin
    assert (admin.is_ambiguous, other.is_ambiguous) == (False, True)


def test_u1_multi_valued_rdn_is_refused_for_peers_only() -> None:
    dn = DistinguishedName.from_x509(name_of([(CN, "a"), (UID, "b")]))
    assert dn.is_multivalued
    assert user_name(dn) == "/CN=a+UID=b"
    with pytest.raises(AuthError) as refusal:
        user_name(dn, is_peer=True)
    assert (refusal.value.status, refusal.value.rule) == (403, "U1")
    assert user_name(parse("/CN=a/UID=b"), is_peer=True) == "/CN=a/UID=b"


@pytest.mark.parametrize("value", ["host/x", "Robot: a/b", "http://x/y?z=1", "/", "a/", "/ x=y"])
def test_u2_both_spellings_of_a_value_with_slashes_are_one_user(value: str) -> None:
    dn = DistinguishedName.from_x509(name_of([(DC, "org")], [(CN, value)]))
    new = "/DC=org/CN=" + value.replace("/", "\\/")
    assert user_name(dn) == canonical("/DC=org/CN=" + value) == canonical(new)


def test_u4_user_name_of_255_bytes_is_the_longest() -> None:
    assert len(user_name(parse("/O=" + "a" * 252))) == 255
    for long in ("a" * 253, "ü" * 32 + "a" * 125):
        with pytest.raises(AuthError) as refusal:
            user_name(parse("/O=" + long))
        assert (refusal.value.status, refusal.value.rule) == (403, "U4")


def test_names_are_the_same_whatever_their_string_type_and_order_in_an_rdn() -> None:
    kinds = (Asn1.UTF8String, Asn1.PrintableString, Asn1.BMPString, Asn1.UniversalString, Asn1.IA5String)
    assert len({DistinguishedName.from_x509(name_of([(CN, "Ada", kind)])) for kind in kinds}) == 1
    assert parse("/CN=a+UID=b") == parse("/UID=b+CN=a") != parse("/CN=a/UID=b")
    assert parse("/CN=a/O=b") != parse("/O=b/CN=a")
    assert parse("/CN=a") != parse("/CN=A")
    assert parse("/CN=\u00e9") != parse("/CN=e\u0301")
    assert parse("/CN=a") != "/CN=a"


def test_bits_in_a_name_are_bytes_of_the_slash_form() -> None:
    oid = NameOID.X500_UNIQUE_IDENTIFIER
    name = x509.Name([x509.NameAttribute(oid, b"\x00\xfe", Asn1.BitString)])
    assert DistinguishedName.from_x509(name).slash == r"/2.5.4.45=\x00\xFE"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("/DC=test/OU=hosts/CN=d1.test", "d1.test"),
        ("/DC=test/CN=host/d1.test", "d1.test"),
        (r"/DC=test/CN=host\/d1.test", "d1.test"),
        ("/DC=test/CN=D1.Test", "d1.test"),
        ("/CN=d1.test/emailAddress=a@b", "d1.test"),
        ("/CN=d1.test/Email=a@b/street=x/1.2.3=y", "d1.test"),
        ("/DC=test/CN=ftp/d1.test", "ftp/d1.test"),
        ("/CN=host/host/d1.test", "host/d1.test"),
        ("/DC=test/CN=d1.test/CN=123456", ""),
        ("/DC=test/CN=123456/CN=d1.test", ""),
        ("/CN=d1.test/CN=d1.test", ""),
        ("/CN=d1.test+CN=x", ""),
        ("/O=x+CN=d1.test", ""),
        ("/CN=d1.test/2.5.4.3=x", ""),
        ("/DC=test/OU=CN=d1.test", ""),
        (r"/OU=x\/CN=d1.test", ""),
        (r"/CN=d1.test\/CN=x", ""),
        ("/CN=d1.test/cn=x", ""),
        ("/cn=d1.test", ""),
        ("/DC=test/OU=x", ""),
        ("/CN=dis\u212a.test", ""),
        ("/CN=d1.test\n", ""),
        ("/CN=", ""),
        ("/CN=host/", ""),
        ("CN=d1.test", ""),
        ("x/CN=d1.test", ""),
        ("", ""),
    ],
)
def test_k3_host_of_a_name_is_its_only_cn(text: str, host: str) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("keyword", "expected"),
    [("CN", "CN"), ("E", "emailAddress"), ("USERID", "UID"), ("street", "2.5.4.9"), ("nobody", "nobody")],
)
def test_keyword_becomes_canonical(keyword: str, expected: str) -> None:
    assert canonical_keyword(keyword) == expected


# Properties. The alphabet has every character that means something in one of the forms.

VALUES = st.text(
    st.sampled_from("ab \\/+=,;<>\"#'xCNOE1.ü😀\n\x00") | st.characters(codec="utf-8"), max_size=12
)
OIDS = st.sampled_from([DC, C, O, OU, CN, UID, EMAIL, "2.5.4.9", "1.2.3.4"])
RDNS = st.lists(st.tuples(OIDS, VALUES), min_size=1, max_size=2, unique_by=lambda part: part[0]).map(tuple)
NAMES = st.lists(RDNS, min_size=1, max_size=4).map(lambda rdns: DistinguishedName(tuple(rdns)))


@given(NAMES)
def test_u3_slash_form_is_printable_ascii_and_leads_back_to_the_name(dn: DistinguishedName) -> None:
    assert dn.slash.isascii()
    assert dn.slash.isprintable()
    if not dn.is_ambiguous:
        assert DistinguishedName.from_slash(dn.slash) == dn
        assert canonical(dn.slash) == dn.slash


@given(NAMES)
def test_u3_new_spelling_of_openssl_leads_back_to_any_name(dn: DistinguishedName) -> None:
    # OpenSSL does not escape a backslash, so what looks like an escape cannot be told from one.
    assume(not any("\\" in value for rdn in dn.rdns for _, value in rdn))
    escaped = DistinguishedName(
        tuple(
            tuple((oid, value.replace("/", "\\/").replace("+", "\\+")) for oid, value in rdn)
            for rdn in dn.rdns
        )
    )
    assert DistinguishedName.from_slash(escaped.slash) == dn


@given(NAMES, NAMES)
def test_u1_value_that_holds_the_slash_form_of_a_name_is_never_usable(
    dn: DistinguishedName, held: DistinguishedName
) -> None:
    longer = DistinguishedName(dn.rdns + held.rdns)
    oid, value = dn.rdns[-1][-1]
    crafted = DistinguishedName((*dn.rdns[:-1], (*dn.rdns[-1][:-1], (oid, value + held.slash))))
    assert crafted.slash == longer.slash
    assert crafted != longer
    assert crafted.is_ambiguous


@given(NAMES, st.data())
def test_u3_rfc_form_with_any_choice_of_escapes_leads_back_to_the_name(
    dn: DistinguishedName, data: st.DataObject
) -> None:
    separators = st.sampled_from([",", ";", ", ", " ; "])
    text = ""
    for number, rdn in enumerate(reversed(dn.rdns)):
        parts = [f"{oid}={data.draw(rfc_value(value))}" for oid, value in rdn]
        text += (data.draw(separators) if number else "") + "+".join(reversed(parts))
    assert DistinguishedName.from_rfc4514(text).rdns == dn.rdns


@st.composite
def rfc_value(draw: st.DrawFn, value: str) -> str:
    """The value in one of the ways of RFC 2253 and 4514."""
    match draw(st.sampled_from(["plain", "quoted", "hex"])):
        case "hex":
            kind = draw(st.sampled_from([char.UTF8String, char.UniversalString]))
            return "#" + bytes(encoder.encode(kind(value))).hex()
        case "quoted":
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case _:
            return "".join(draw(rfc_character(character)) for character in value)


def rfc_character(character: str) -> st.SearchStrategy[str]:
    pairs = "".join(f"\\{byte:02x}" for byte in character.encode())
    if character in ' #=",+;<>\\':
        return st.sampled_from([pairs, pairs.upper(), "\\" + character])
    return st.sampled_from([pairs, pairs.upper(), character])


@given(
    st.lists(st.tuples(st.sampled_from([DC, O, OU, CN, UID]), VALUES.filter(bool)), min_size=1, max_size=4)
)
def test_u3_rfc_form_that_cryptography_writes_leads_back_to_the_name(
    attributes: list[tuple[str, str]],
) -> None:
    name = x509.Name([attribute(oid, value) for oid, value in attributes])
    assert DistinguishedName.from_rfc4514(name.rfc4514_string()) == DistinguishedName.from_x509(name)


@given(st.text(st.sampled_from('/\\+=,;"#xC3NO. 0c1ü\x00') | st.characters(), max_size=40))
def test_any_text_is_canonical_for_good_or_refused(text: str) -> None:
    for given_text in (text, "/CN=" + text, "CN=" + text):
        host_of(given_text)
        try:
            slash = canonical(given_text)
        except ValueError:
            continue
        assert canonical(slash) == slash
        assert slash.isascii()
