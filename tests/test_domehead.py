"""DPM's domehead.conf: the syntax, the defaults, the includes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dpm import domehead
from dome_bridge.errors import ConfigError

STOCK = """\
# written by puppet
glb.role: head
glb.debug: 1
glb.auth.authorizeDN[]: "CN=disk1.example.org,O=Example,C=CH"
glb.auth.authorizeDN[]: "CN=disk2.example.org,O=Example,C=CH"
glb.restclient.xrdhttpkey: aKeyOfThirtyTwoCharactersOrMore!
head.db.host: localhost
head.db.user: dpmmgr
head.db.password: s3cr:t#1
head.db.port: 0
head.db.poolsz: 128
"""

words = st.text(st.characters(exclude_characters="\n:", exclude_categories=["Cs"]), min_size=1)
keys = words.filter(lambda key: not key.startswith("#") and "[]" not in key and key[:7].lower() != "include")
values = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])).map(
    lambda value: value.strip(" \t\r").replace("${", "")
)


def test_stock_file_gives_the_database_of_dome() -> None:
    conf = domehead.parse(STOCK, {})
    assert (conf.host, conf.port, conf.user, conf.password) == ("localhost", 3306, "dpmmgr", "s3cr:t#1")
    assert (conf.cns_db, conf.dpm_db) == ("cns_db", "dpm_db")
    assert conf.values["glb.role"] == "head"
    assert conf.lists["glb.auth.authorizeDN"] == (
        '"CN=disk1.example.org,O=Example,C=CH"',
        '"CN=disk2.example.org,O=Example,C=CH"',
    )


def test_empty_file_gives_the_defaults_of_dome() -> None:
    conf = domehead.parse("", {})
    assert (conf.host, conf.port, conf.user, conf.password) == ("localhost", 3306, "guest", "none")
    assert (conf.cns_db, conf.dpm_db) == ("cns_db", "dpm_db")


def test_secrets_stay_out_of_repr() -> None:
    shown = repr(domehead.parse(STOCK, {}))
    assert "s3cr" not in shown
    assert "aKey" not in shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("head.db.host = db.example.org", {}),
        ("# head.db.host: old", {}),
        (" # head.db.host: old", {" # head.db.host": "old"}),
        ("head.db.host:db", {"head.db.host": "db"}),
        ("head.db.host: \t db \r", {"head.db.host": "db"}),
        ("head.db.host : db", {"head.db.host ": "db"}),
        ("head.db.host: a\nhead.db.host: b", {"head.db.host": "b"}),
        ("head.db.host:", {"head.db.host": ""}),
        (": db", {}),
        ("[]: db", {"[]": "db"}),
        ("a: x\x85y\x0cz", {"a": "x\x85y\x0cz"}),
        ("a: ${DB}-${DB}", {"a": "tank-tank"}),
        ("a: ${NONE} ${} ${DB", {"a": "${NONE} ${} ${DB"}),
        ("a: ${SELF}", {"a": "${SELF}"}),
    ],
)
def test_line_is_read_as_dome_reads_it(line: str, expected: dict[str, str]) -> None:
    assert domehead.parse(line, {"DB": "tank", "SELF": "${SELF}"}).values == expected


@pytest.mark.parametrize(("text", "port"), [("0", 3306), ("", 3306), ("3307", 3307), ("0000003307", 3307)])
def test_port_is_taken_or_the_default(text: str, port: int) -> None:
    assert domehead.parse(f"head.db.port: {text}", {}).port == port


@pytest.mark.parametrize("text", ["-1", "65536", "mysql", "33 06", "3_306", "9" * 5000, "٣٣٠٦"])
def test_port_that_is_none_is_refused_with_its_place(text: str) -> None:
    conf = domehead.parse(f"head.db.port: {text}", {}, source="/etc/domehead.conf")
    with pytest.raises(ConfigError, match=r"^/etc/domehead\.conf: head\.db\.port: expected a whole number"):
        _ = conf.port


@given(st.text())
def test_any_text_is_parsed_without_error(text: str) -> None:
    domehead.parse(text, {})


@given(
    st.lists(st.sampled_from(["a", "[]", ":", "#", "${", "}", "A", "include", " ", "/", "\n", "\r", "\0"]))
)
def test_any_mixture_of_the_special_signs_is_parsed_without_error(pieces: list[str]) -> None:
    domehead.parse("".join(pieces), {"A": "${A}"})


@given(st.dictionaries(keys, values))
def test_written_keys_and_values_come_back(wanted: dict[str, str]) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in wanted.items())
    assert domehead.parse(text, {}).values == wanted


@given(keys, st.lists(values, min_size=1))
def test_written_lists_come_back_in_order(key: str, wanted: list[str]) -> None:
    text = "".join(f"{key}[]: {value}\n" for value in wanted)
    assert domehead.parse(text, {}).lists == {key: tuple(wanted)}


def test_included_directory_is_read_afterwards_in_order(tmp_path: Path) -> None:
    extra = tmp_path / "domehead.d"
    extra.mkdir()
    (extra / "20.conf").write_text("head.db.host: second\nl[]: c\n")
    (extra / "10.conf").write_text("head.db.host: first\nhead.db.user: dpmmgr\nl[]: b\n")
    main = tmp_path / "domehead.conf"
    main.write_text(f"INCLUDE  {extra}\nhead.db.host: main\nhead.db.port: 3307\nl[]: a\n")
    conf = domehead.read(main, {})
    assert (conf.host, conf.user, conf.port) == ("second", "dpmmgr", 3307)
    assert conf.lists == {"l": ("a", "b", "c")}


@pytest.mark.parametrize("name", ["db.conf.rpmsave", "db.conf~", ".db.conf", "db"])
def test_file_dome_would_not_include_is_left_out(tmp_path: Path, name: str) -> None:
    extra = tmp_path / "domehead.d"
    extra.mkdir()
    (extra / name).write_text("head.db.host: stale\n")
    (tmp_path / "domehead.conf").write_text(f"include {extra}\nhead.db.host: main\n")
    assert domehead.read(tmp_path / "domehead.conf", {}).host == "main"


def test_relative_include_is_ignored() -> None:
    assert domehead.parse("include domehead.d\n", {}).includes == ()


def test_missing_include_is_logged_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    main = tmp_path / "domehead.conf"
    main.write_text(f"include {tmp_path}/none\nhead.db.host: main\n")
    assert domehead.read(main, {}).host == "main"
    assert f"directory={tmp_path}/none" in caplog.text


def test_include_loop_is_refused(tmp_path: Path) -> None:
    main = tmp_path / "domehead.conf"
    main.write_text(f"include {tmp_path}\n")
    with pytest.raises(ConfigError, match="included by itself"):
        domehead.read(main, {})


def test_include_loop_through_a_link_is_refused(tmp_path: Path) -> None:
    extra = tmp_path / "domehead.d"
    extra.mkdir()
    main = tmp_path / "domehead.conf"
    main.write_text(f"include {extra}\n")
    (extra / "back.conf").symlink_to(main)
    with pytest.raises(ConfigError, match=r"back\.conf: is included by itself"):
        domehead.read(main, {})


def test_same_directory_included_twice_without_a_loop_is_read(tmp_path: Path) -> None:
    extra = tmp_path / "domehead.d"
    extra.mkdir()
    (extra / "db.conf").write_text("head.db.host: db\n")
    (tmp_path / "domehead.conf").write_text(f"include {extra}\ninclude {extra}\n")
    assert domehead.read(tmp_path / "domehead.conf", {}).host == "db"


def test_missing_file_names_the_key_that_points_to_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.conf: cannot be read .*dpm\.domehead_conf"):
        domehead.read(tmp_path / "none.conf", {})


def test_password_that_is_not_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    main = tmp_path / "domehead.conf"
    main.write_bytes(b"head.db.password: p\xe4ss\r\n")
    assert domehead.read(main, {}).password.encode("utf-8", "surrogateescape") == b"p\xe4ss"
