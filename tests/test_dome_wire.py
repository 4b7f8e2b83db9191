"""The DOME wire: command names, boost's conversions of parameters, boost's form of answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.wire import Answer, ParameterError, Parameters, Tree, command_of, render

MIB = 1 << 20

unicode_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
stored_bytes = st.binary(max_size=20)
stored_texts = unicode_texts | stored_bytes.map(lambda name: name.decode("utf-8", "surrogateescape"))
trees: st.SearchStrategy[Tree] = st.recursive(
    stored_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(stored_texts, inner, max_size=4),
    max_leaves=20,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | unicode_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode_texts, inner, max_size=3),
    max_leaves=10,
)


def parameters(**values: object) -> Parameters:
    return Parameters.from_body(json.dumps(values).encode())


def raw(value: bytes) -> Parameters:
    """Parameters of which `k` is spelled just so."""
    return Parameters.from_body(b'{"k": ' + value + b"}")


# Command names


@pytest.mark.parametrize(
    "target",
    [
        "/domehead/command/dome_getstatinfo",
        "/domehead/command/dome_getstatinfo/",
        "/domehead/command//dome_getstatinfo",
        "//domehead/command/dome_getstatinfo//",
        "/domehead/dome_getstatinfo",
        "/domehead/x/y/z/dome_getstatinfo",
        "/dome_getstatinfo",
        "dome_getstatinfo",
        "/domehead/command/dome_getstatinfo?",
        "/domehead/command/dome_getstatinfo?xrdhttptk=ab/cd&lfn=/dpm",
        "http://head.example.org:1094/domehead/command/dome_getstatinfo",
        "HTTPS://[::1]/dome_getstatinfo/?a=/b",
    ],
)
def test_command_is_the_last_component_whatever_surrounds_it(target: str) -> None:
    assert command_of(target) == "dome_getstatinfo"


@pytest.mark.parametrize(
    "target", ["", "/", "///", "?/dome_info", "/?dome_info", "http://dome_info", "http://h?/x"]
)
def test_target_without_a_component_has_no_command(target: str) -> None:
    assert command_of(target) == ""


@pytest.mark.parametrize("name", ["dome%5Fgetstatinfo", "DOME_GETSTATINFO", "http:", "..", "a#b"])
def test_component_is_taken_as_it_stands(name: str) -> None:
    assert command_of(f"/domehead/command/{name}") == name


@given(st.text())
def test_command_of_any_target_has_no_slash_and_no_query(target: str) -> None:
    assert not {"/", "?"} & set(command_of(target))


# Bodies: the first element is the body, the second what the recorded head took for `lfn`

RECORDED_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{}", None),
    (b"{", None),
    (b"x", None),
    (b'{"lfn":"/dpm"', None),
    (b'{"lfn":"/dpm"}garbage', None),
    (b'{"lfn":"/dpm"}\n\n', "/dpm"),
    (b'  {"lfn":"/dpm"}', "/dpm"),
    (b"[]", None),
    (b'["/dpm"]', None),
    (b'"/dpm"', None),
    (b"123", None),
    (b"null", None),
    (b"lfn=/dpm", None),
    (b"{'lfn':'/dpm'}", None),
    (b'{"lfn":"\\/dpm\\/test"}', "/dpm/test"),
    (b'{"lfn":"/dpm","lfn":"/"}', "/dpm"),
    (b'{"LFN":"/dpm"}', None),
    (b'{"lfn":"/dpm","x":{"y":[1,2,{"z":null}]}}', "/dpm"),
    (b'\xef\xbb\xbf{"lfn":"/dpm"}', "/dpm"),
    (b'{"lfn":"/\\u0064pm"}', "/dpm"),
    (b'{"lfn":"/dpm\\u0000x"}', "/dpm\x00x"),
    (b'{"lfn":"/dpm",}', None),
    (b'{"lfn":"/dpm"} {"lfn":"/"}', None),
    (b'{"lfn": "/dteam/uni\\u00e9\\u4e2d"}', "/dteam/unié中"),
    (b'{"lfn": "hello \\"w\\u00f6rld\\" / \\\\ end"}', 'hello "wörld" / \\ end'),
    (b'{"lfn": ["a"]}', ""),
    (b'{"lfn": {"a": "b"}}', ""),
    (b'{"lfn": 123}', "123"),
    (b'{"lfn": true}', "true"),
    (b'{"lfn": null}', "null"),
]


@pytest.mark.parametrize(("body", "lfn"), RECORDED_BODIES)
def test_body_is_read_as_the_recorded_head_read_it(body: bytes, lfn: str | None) -> None:
    read = Parameters.from_body(body)
    assert ("lfn" in read) is (lfn is not None)
    assert read.text("lfn", "absent") == ("absent" if lfn is None else lfn)


@pytest.mark.parametrize("size", [4095, 4096, 20_000, MIB])
def test_body_longer_than_the_originals_buffer_is_read(size: int) -> None:
    body = b'{"lfn":"/dpm","pad":"' + b"p" * (size - 23) + b'"}'
    assert len(body) == size
    assert Parameters.from_body(body).text("lfn") == "/dpm"


@pytest.mark.parametrize(
    "value", [b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b".5", b"+1", b"True", b"'a'"]
)
def test_body_with_what_is_not_json_has_no_parameters(value: bytes) -> None:
    assert "k" not in raw(value)


@pytest.mark.parametrize("number", [b"1e400", b"-0.10", b"1E+02", b"-0", b"12345678901234567890123"])
def test_number_keeps_its_spelling(number: bytes) -> None:
    assert raw(number).text("k") == number.decode()


def test_body_nested_beyond_the_limit_has_no_parameters() -> None:
    assert "k" in raw(b"[" * 31 + b"]" * 31)
    assert "k" not in raw(b"[" * 32 + b"]" * 32)


def test_raw_control_characters_stand_for_themselves_as_in_boost() -> None:
    assert raw(b'"a\n\x00\tb"').text("k") == "a\n\x00\tb"


# Text: bytes, escapes, surrogates


@given(st.binary(max_size=20).map(lambda name: bytes(byte | 0x80 for byte in name)))
def test_any_bytes_of_a_name_come_out_as_they_are_stored(name: bytes) -> None:
    assert b'"' + name + b'"' in render({"k": name.decode("utf-8", "surrogateescape")})


@pytest.mark.parametrize("name", [b"\xff", b"caf\xe9", b"\xc3", b"\xed\xa0\x80"])
def test_body_that_is_not_utf_8_has_no_parameters(name: bytes) -> None:
    assert "lfn" not in Parameters.from_body(b'{"lfn": "/dpm/' + name + b'"}')


@given(unicode_texts)
def test_bytes_escaped_one_by_one_are_joined_to_the_text_they_spell(name: str) -> None:
    escaped = "".join(f"\\u{byte:04X}" for byte in name.encode())
    assert raw(b'"' + escaped.encode() + b'"').text("k") == name


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        ('"caf\\u00C3\\u00A9"', "café"),
        ('"caf\\u00e9"', "café"),
        ('"\\u00e9\\u4e2d"', "é中"),
        ('"\\u00c3\\u00a9\\u4e2d"', "Ã©中"),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\uD83D\\uDE00"', "😀"),
        ('"\\\\ud800"', "\\ud800"),
        ('"Ã©"', "Ã©"),
        ('"中\\u00c3\\u00a9"', "中Ã©"),
    ],
)
def test_spelling_of_text_beyond_ascii_is_told_apart(spelled: str, text: str) -> None:
    assert raw(spelled.encode()).text("k") == text


@pytest.mark.parametrize(
    "spelled",
    [
        "\\ud800",
        "\\uDFFF",
        "a\\udc80",
        "\\udc80\\ud800",
        "\\ud83d\\ud83d\\ude00",
        "\\ud83dx",
        "\\\\\\udcff",
    ],
)
def test_half_of_a_surrogate_pair_is_refused_where_it_is_read_and_nowhere_else(spelled: str) -> None:
    body = f'{{"k": "{spelled}", "list": ["{spelled}"], "lfn": "/dpm"}}'.encode()
    read = Parameters.from_body(body)
    assert read.text("lfn") == "/dpm"
    for reading in (read.text, read.required_text, read.integer, read.flag):
        with pytest.raises(ParameterError, match="surrogate"):
            reading("k")
    with pytest.raises(ParameterError, match="surrogate"):
        read.texts("list")
    with pytest.raises(ParameterError, match="surrogate"):
        read.tree()


@given(
    st.text(st.characters(min_codepoint=0xD700, max_codepoint=0xE0FF) | st.sampled_from('\\"u'), max_size=8)
)
def test_escapes_never_make_bytes_that_utf8_could_not(text: str) -> None:
    spelled = json.dumps(text).encode()
    try:
        read = raw(spelled).text("k")
    except ParameterError:
        assert any(0xD800 <= ord(character) < 0xE000 for character in text)
    else:
        assert read.encode() == text.encode("utf-16", "surrogatepass").decode("utf-16").encode()


# Conversions


RECORDED_UNSIGNED: list[tuple[object, int]] = [
    ("509", 509),
    (493, 493),
    ("0755", 755),
    ("xyz", 7),
    ("-1", 4294967295),
    ("4294967295", 4294967295),
    ("4294967296", 7),
    ("-4294967295", 1),
    ("-4294967296", 7),
    (" 16 \n", 16),
    ("+16", 16),
    ("1 6", 7),
    ("0x10", 7),
    ("16.0", 7),
    ("1e3", 7),
    ("", 7),
    ("-", 7),
    ("+-1", 7),
    ("٣", 7),
    ("1_000", 7),
    ([], 7),
    ({}, 7),
    (None, 7),
    (True, 7),
]


@pytest.mark.parametrize(("value", "number"), RECORDED_UNSIGNED)
def test_unsigned_number_wraps_and_falls_back_to_the_default(value: object, number: int) -> None:
    assert parameters(k=value).unsigned("k", 7) == number


@pytest.mark.parametrize(
    ("value", "bits", "number"),
    [
        ("-5", 32, -5),
        ("-3", 64, -3),
        (99, 64, 99),
        ("9999999999999", 64, 9999999999999),
        ("9999999999999", 32, 7),
        ("2147483647", 32, 2147483647),
        ("2147483648", 32, 7),
        ("-2147483648", 32, -2147483648),
        ("-2147483649", 32, 7),
        ("9223372036854775808", 64, 7),
        ("-9223372036854775808", 64, -9223372036854775808),
        ("0" * 5000 + "12", 64, 12),
        ("9" * 5000, 64, 7),
        ("abc", 64, 7),
    ],
)
def test_signed_number_out_of_range_falls_back_to_the_default(value: object, bits: int, number: int) -> None:
    assert parameters(k=value).integer("k", 7, bits=bits) == number


@given(st.integers(), st.sampled_from([16, 32, 64]))
def test_every_number_of_the_type_is_read_and_no_other(number: int, bits: int) -> None:
    fits = -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)
    for read in (parameters(k=number), parameters(k=str(number))):
        assert read.integer("k", 7, bits=bits) == (number if fits else 7)


@pytest.mark.parametrize(
    ("value", "yes"),
    [
        ("true", True),
        (True, True),
        (1, True),
        ("1", True),
        (" 1", True),
        (" true\n", True),
        ("false", False),
        (False, False),
        ("0", False),
        ("yes", None),
        ("TRUE", None),
        ("2", None),
        ("", None),
        ([], None),
        (None, None),
    ],
)
def test_boolean_knows_four_spellings(value: object, yes: bool | None) -> None:
    for default in (True, False):
        assert parameters(k=value).boolean("k", default) is (default if yes is None else yes)


@pytest.mark.parametrize(
    ("value", "yes"),
    [
        ("true", True),
        (True, True),
        (1, True),
        ("yes", True),
        ("on", False),
        ("True", False),
        (" 1", False),
        ([], False),
    ],
)
def test_flag_is_no_for_every_unknown_spelling(value: object, yes: bool) -> None:
    assert parameters(k=value).flag("k", True) is yes


def test_flag_takes_further_spellings() -> None:
    assert parameters(k="on").flag("k", also=("on",))


@pytest.mark.parametrize(
    ("value", "character"),
    [
        ("P", "P"),
        ("45", "-"),
        ("", "-"),
        (4, "4"),
        (" D ", "D"),
        ("é", "-"),
        ("\x00", "-"),
        (["P"], "-"),
        (" ", "-"),
    ],
)
def test_character_is_exactly_one_or_the_default(value: object, character: str) -> None:
    assert parameters(k=value).character("k", "-") == character


def test_missing_parameters_have_their_defaults() -> None:
    none = Parameters.from_body(b"")
    assert (none.text("k"), none.text("k", "d"), none.texts("k"), none.tree()) == ("", "d", [], {})
    assert (none.integer("k"), none.integer("k", -1), none.unsigned("k", 3)) == (0, -1, 3)
    assert (none.boolean("k", True), none.flag("k", True), none.character("k", "P")) == (True, True, "P")


def test_missing_required_parameter_is_refused_in_the_originals_words() -> None:
    none = Parameters.from_body(b"")
    for reading in (none.required_text, none.required_integer, none.required_unsigned):
        with pytest.raises(ParameterError) as refusal:
            reading("username")
        assert refusal.value.status == 422
        assert refusal.value.text == "Error while parsing json body: No such node (username)"


def test_required_number_that_does_not_convert_is_refused() -> None:
    read = parameters(uid="x", gid="70000", size="-3")
    assert read.required_integer("size") == -3
    assert read.required_unsigned("size") == 2**32 - 3
    with pytest.raises(
        ParameterError, match=r"^Error while parsing json body: .*signed 64-bit number.*\(uid\)$"
    ):
        read.required_integer("uid")
    with pytest.raises(ParameterError, match=r"unsigned 16-bit number.*\(gid\)"):
        read.required_unsigned("gid", bits=16)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (["dteam", "atlas/Role=production"], ["dteam", "atlas/Role=production"]),
        ([], []),
        ("", []),
        ("dteam", []),
        (None, []),
        ({"a": "dteam", "b": 1}, ["dteam", "1"]),
        (["a", 1, None, True, ["x"], {"y": "z"}], ["a", "1", "null", "true", "", ""]),
    ],
)
def test_texts_are_the_scalars_of_an_array(value: object, texts: list[str]) -> None:
    assert parameters(k=value).texts("k") == texts


def test_tree_holds_the_body_with_every_scalar_as_text() -> None:
    read = Parameters.from_body(
        b'{"lfn": "/caf\\u00C3\\u00A9", "n": 1.50, "l": [true, {"z": null}], "lfn": "/"}'
    )
    assert read.tree() == {"lfn": "/café", "n": "1.50", "l": ["true", {"z": "null"}]}


# Nothing does harm


def read_everything(body: bytes) -> None:
    """All that a command may do with a body; only ParameterError may come of it."""
    read = Parameters.from_body(body)
    readings: list[Callable[[str], object]] = [
        read.text,
        read.required_text,
        read.integer,
        read.required_integer,
        read.unsigned,
        read.required_unsigned,
        read.boolean,
        read.flag,
        lambda key: read.character(key, "-"),
        read.texts,
        lambda _: render(read.tree()),
    ]
    for reading in readings:
        with suppress(ParameterError):
            reading("k")


@given(st.binary(max_size=60) | stored_bytes.map(lambda value: b'{"k": ' + value + b"}"))
def test_any_bytes_are_a_body(body: bytes) -> None:
    read_everything(body)


@given(json_values)
def test_any_json_is_a_value(value: object) -> None:
    read_everything(json.dumps({"k": value}).encode())
    read_everything(json.dumps(value, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"k":' + b"9" * MIB + b"}", id="digits"),
        pytest.param(b'{"k":"' + b"0" * MIB + b'x"}', id="zeros-then-a-letter"),
        pytest.param(b'{"k":"' + b" " * MIB + b'x"}', id="blanks-then-a-letter"),
        pytest.param(b'{"k":1e' + b"9" * MIB + b"}", id="exponent"),
        pytest.param(b"[" * MIB, id="arrays"),
        pytest.param(b'{"k":' * (MIB // 5), id="objects"),
        pytest.param(b'{"k":[' + b"[]," * (MIB // 3) + b"1]}", id="empty-arrays"),
        pytest.param(b"{" + b'"k":1,' * (MIB // 6) + b'"k":1}', id="one-key"),
        pytest.param(b'{"k":"' + b"\\\\" * (MIB // 2) + b'\\ud800"}', id="backslashes"),
        pytest.param(b'{"k":"' + b"\\u00c3\\u00a9" * (MIB // 12) + b'"}', id="escaped-bytes"),
        pytest.param(b'{"k":"' + b"\xff" * MIB + b'"}', id="stray-bytes"),
    ],
)
def test_largest_body_of_the_worst_kind_costs_linear_time(body: bytes) -> None:
    # A quadratic step takes minutes here, the whole takes about 0.3 s at worst.
    started = time.process_time()
    read_everything(body)
    assert time.process_time() - started < 5


# Answers


@given(trees)
def test_rendered_tree_is_json_with_the_same_texts(tree: Tree) -> None:
    document = render(tree).decode("utf-8", "surrogateescape")
    assert json.loads(document) == below_root(tree, root=True)


def below_root(tree: Tree, *, root: bool = False) -> Tree:
    """The tree as a reader finds it: what is empty has become empty text."""
    if isinstance(tree, str):
        return tree
    if not tree:
        return {} if root and isinstance(tree, Mapping) else ""
    if isinstance(tree, Mapping):
        return {key: below_root(value) for key, value in tree.items()}
    return [below_root(value) for value in tree]


@given(st.dictionaries(unicode_texts, trees, min_size=1, max_size=4))
def test_rendered_lines_are_indented_by_their_depth(tree: dict[str, Tree]) -> None:
    lines = render(tree).decode("utf-8", "surrogateescape").split("\n")
    depth = 0
    for line in lines[:-1]:
        depth -= line.strip()[0] in "]}"
        assert line.startswith("    " * depth)
        assert line[4 * depth] != " "
        depth += line[-1] in "[{"
    assert (depth, lines[-1]) == (0, "")


def test_document_has_the_recorded_form() -> None:
    groups = {"dteam": {"gid": "101", "banned": "0"}, "atlas/Role=production": {"gid": "107", "banned": "0"}}
    answer: Tree = {"uid": "101", "groups": groups, "entries": [], "more": {}, "names": ["a", "b", []]}
    assert (
        render(answer)
        == b"""\
{
    "uid": "101",
    "groups": {
        "dteam": {
            "gid": "101",
            "banned": "0"
        },
        "atlas/Role=production": {
            "gid": "107",
            "banned": "0"
        }
    },
    "entries": "",
    "more": "",
    "names": [
        "a",
        "b",
        ""
    ]
}
"""
    )


def test_empty_root_has_the_recorded_form() -> None:
    assert render({}) == b"{\n}\n"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ('hello "wörld" / \\ end', '"hello \\"wörld\\" / \\\\ end"'),
        ('{"filesystem": "\\/storage"}', '"{\\"filesystem\\": \\"\\\\/storage\\"}"'),
        ("\b\f\n\r\t", '"\\b\\f\\n\\r\\t"'),
        ("\x00\x0b\x1f\x7f\x9f", '"\\u0000\\u000B\\u001F\x7f\x9f"'),
        ("\\u000b\x0b\\\x0b", '"\\\\u000b\\u000B\\\\\\u000B"'),
        ("中😀\u2028", '"中😀\u2028"'),
        ("\ud800\udfff", '"\\uD800\\uDFFF"'),
    ],
)
def test_text_is_escaped_as_boost_escapes_it(text: str, rendered: str) -> None:
    for tree, document in (
        (text, rendered),
        ({text: [text]}, f"{{\n    {rendered}: [\n        {rendered}\n    ]\n}}"),
    ):
        assert render(tree) == document.encode() + b"\n"


def test_bytes_that_are_not_utf8_are_rendered_as_they_are() -> None:
    assert render({"name": "caf\udce9"}) == b'{\n    "name": "caf\xe9"\n}\n'


def test_answers_carry_status_body_and_type() -> None:
    assert Answer.json({"comment": ""}) == Answer(200, b'{\n    "comment": ""\n}\n', "application/json")
    assert Answer.text("File not found '/caf\udce9'", 404) == Answer(
        404, b"File not found '/caf\xe9'", "text/plain"
    )
    assert Answer(200, b"", "text/plain") == Answer.EMPTY


def test_text_answer_never_fails_to_encode() -> None:
    assert Answer.text("é\ud800\udcff").body == "é\\uD800".encode() + b"\xff"
