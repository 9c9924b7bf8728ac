"""What patterns and filters say of themselves, and of what they are held against."""

import itertools
import json
import tracemalloc
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from eventcore.patterns import FilterCriteria, Pattern, PatternError, PatternSet
from eventcore.patterns.data import LOOK_AFTER, DataTest


class _Body(NamedTuple):
    """A record of which only the body is looked at."""

    body: Any


def allowed(test: DataTest, data: Sequence[Any]) -> list[bool]:
    """Tell of each of many whether it is allowed, as the engine does: by a glance at all of them first."""
    if test.surely_allows_all([_Body(each) for each in data]):
        return [True] * len(data)
    return test.allow_each(data)


def refusal(pattern: Any) -> str:
    with pytest.raises(PatternError) as caught:
        Pattern(pattern)
    return caught.value.message.removeprefix("Event pattern is not valid. Reason: ")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ([], "Filter is not an object"),
        ("null", "Filter is not an object"),
        ({}, "Empty objects are not allowed"),
        ({"a": {}}, "Empty objects are not allowed"),
        ({"a": "b"}, '"a" must be an object or an array'),
        ({"a": [["b"]]}, "Match value must be String, number, true, false, or null"),
        ({"a": [{}]}, "Empty match expression"),
        ({"a": [{"prefix": "b", "suffix": "c"}]}, "Only one key allowed in match expression"),
        ({"a": [{"exists": "yes"}]}, "exists match pattern must be either true or false."),
        ({"a": [{"prefix": {"suffix": "b"}}]}, "Unsupported anything-but pattern: suffix"),
        ({"a": [{"prefix": {"equals-ignore-case": 1}}]}, "equals-ignore-case match pattern must be a string"),
        ({"a": [{"wildcard": "a\\b"}]}, "Invalid escape character at pos 1"),
        ({"a": [{"cidr": 1}]}, "prefix match pattern must be a string"),
        ({"a": [{"cidr": "10.0.0.0/x"}]}, "Malformed CIDR, mask bits must be an integer"),
        ({"a": [{"cidr": "2001:db8::/128"}]}, "IPv6 mask bits must be < 128"),
        ({"a": [{"numeric": []}]}, "Invalid member in numeric match: ]"),
        ({"a": [{"numeric": [1]}]}, "Invalid member in numeric match: 1"),
        ({"a": [{"numeric": ["!", 1]}]}, "Unrecognized numeric range operator: !"),
        ({"a": [{"numeric": ["=", "1"]}]}, "Value of = must be numeric"),
        ({"a": [{"numeric": ["=", True]}]}, "Value of = must be numeric"),
        ({"a": [{"numeric": [">"]}]}, "Value of > must be numeric"),
        ({"a": [{"numeric": ["=", 1, "<", 2]}]}, "Too many terms in numeric range expression"),
        ({"a": [{"numeric": ["<", 1, ">", 0]}]}, "Too many elements in numeric expression"),
        ({"a": [{"numeric": [">", 0, "<", 1, "<", 2]}]}, "Too many terms in numeric range expression"),
        ({"a": [{"numeric": [">", 1, "<", 1]}]}, "Bottom must be less than top"),
        ({"a": [{"numeric": [">", 5e9 + 1]}]}, "Value must be between -5000000000 and 5000000000, inclusive"),
        ({"a": [{"anything-but": []}]}, "Empty arrays are not allowed"),
        ({"a": [{"anything-but": True}]}, "Value of anything-but must be an array or single string/number value."),
        (
            {"a": [{"anything-but": ["b", 1]}]},
            "Inside anything but list, either all values are number or string, mixed type is not supported",
        ),
        ({"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "Unsupported anything-but pattern: numeric"),
        ({"a": [{"anything-but": {"wildcard": []}}]}, "Empty arrays are not allowed"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason(pattern: Any, reason: str) -> None:
    assert refusal(pattern) == reason


def test_a_pattern_that_multiplies_without_bound_is_refused() -> None:
    """Each `$or` multiplies the combinations: they are bounded, not tried."""
    alternatives = [{f"x{number}": ["a"]} for number in range(11)]
    nested = {"a": {"$or": alternatives}, "b": {"$or": alternatives}, "c": {"$or": alternatives}}
    assert "more than 1000 combinations" in refusal(nested)
    deep: dict[str, Any] = {"a": ["x"]}
    for _ in range(300):
        deep = {"a": deep}
    assert "nested more than 200 levels" in refusal(deep)
    assert "nested more than 200 levels" in refusal({".".join("a" * 2_000): ["x"]})


def test_names_with_dots_do_not_multiply_with_the_elements_of_an_array() -> None:
    """A million values of 12 kB, were each merged with each element."""
    text = json.dumps({"a": [{}] * 1_000, **{f"a.x{number}": 1 for number in range(1_000)}, "a.b": 1})
    pattern = Pattern({"a": {"b": [1]}})
    tracemalloc.start()
    try:
        assert pattern.matches(text)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100 * len(text)


@pytest.mark.parametrize("event", ["[]", "1", "not json", b"\xff", "[" * 5_000, '{"b":' * 5_000])
def test_what_is_no_event_is_refused(event: Any) -> None:
    with pytest.raises(PatternError, match="Parameter Event is not valid"):
        Pattern({"a": ["b"]}).matches(event)


@pytest.mark.parametrize(
    ("pattern", "event", "is_match"),
    [
        # One element of an array must have all that is asked of it.
        ({"d": {"a": [1], "b": [2]}}, {"d": [{"a": 1}, {"b": 2}]}, False),
        ({"d": {"a": [1], "b": [2]}}, {"d": [[{"a": 1, "b": 3}], [{"a": 1, "b": [0, 2]}]]}, True),
        # A name with dots is a path, in the pattern and in the event.
        ({"a.b": [1]}, {"a": {"b": 1}}, True),
        ({"a": {"b": {"c": [1]}}}, {"a": {"b.c": 1}}, True),
        ({"a": {"b": [1], "c": [2]}}, {"a.b": 1, "a": {"c": 2}}, True),
        ({"a": {"b": [1], "c": [2]}}, {"a.b": 1, "a": [{"c": 2}]}, True),
        ({"a": {"b": [1], "c": [2]}}, {"a.b": 1, "a.x.y": 3, "x.y": 4, "a": [{"c": 2, "x.y": 5}]}, True),
        ({"a": [{"exists": False}]}, {"a": [], "a.x": 1}, True),
        ({"a": [{"exists": True}]}, {"a.x": 1}, False),
        # true is not 1, and 1 is 1.0.
        ({"a": [1]}, {"a": True}, False),
        ({"a": [True]}, {"a": 1}, False),
        ({"a": [1]}, {"a": 1.0}, True),
        # Neither an object nor an empty array is a value.
        ({"a": [{"exists": True}]}, {"a": {"b": 1}}, False),
        ({"a": [{"exists": False}]}, {"a": []}, True),
        ({"a": [{"exists": False}]}, {"a": [[], {"b": 1}]}, True),
        ({"a": [{"exists": True}]}, {"a": None}, True),
        # Case: one letter may be two in the other case.
        ({"a": [{"suffix": {"equals-ignore-case": "straße"}}]}, {"a": "die STRASSE"}, True),
        ({"a": [{"wildcard": "a*b*c"}]}, {"a": "a-b-b-c"}, True),
        ({"a": [{"wildcard": "ab*ba"}]}, {"a": "aba"}, False),
        ({"a": [{"cidr": "10.0.0.0/8"}]}, {"a": "010.0.0.1"}, False),
        # An `$or` whose alternatives are rules is a name.
        ({"$or": [{"prefix": "a"}, {"prefix": "b"}]}, {"$or": "abc"}, True),
    ],
)
def test_events_are_matched_by_the_rules(pattern: Any, event: Any, is_match: bool) -> None:
    assert Pattern(pattern).matches(event) is is_match
    assert Pattern(pattern).matches(json.dumps(event)) is is_match


@pytest.mark.parametrize("levels", [16, 17, 100])
def test_a_long_path_is_followed_beside_a_short_one(levels: int) -> None:
    """By one pattern of a set; whether it is written with dots or as objects, in the event too."""
    path = ".".join("a" * levels)
    event: Any = 1
    for _ in range(levels):
        event = {"a": event}
    patterns = PatternSet({"long": {path: [1]}, "other": {path: [2]}, "short": {"b": [1]}})
    assert patterns.matching(json.dumps({**event, "b": 1})) == ["long", "short"]
    assert patterns.matching(json.dumps({path: 2})) == ["other"]
    assert patterns.matching(json.dumps({"b": 1})) == ["short"]
    filters = FilterCriteria([{"body": {path: [1]}}], source="sqs")
    assert filters.matches({"body": json.dumps(event)})
    single = filters.single_test()
    assert single is not None
    assert allowed(single[1], [json.dumps(event), '{"a": 1}']) == [True, False]
    either = FilterCriteria([{"body": {"$or": [{path: [1]}, {"b": ["x"]}]}}], source="sqs").single_test()
    assert either is not None
    assert allowed(either[1], ['{"b": "y"}', '{"b": "x"}']) == [False, True]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\x00", "", "value", "class", "ä"])
def test_a_name_may_have_any_characters(name: str) -> None:
    for pattern, known in (({name: [1]}, {name: 1}), ({"b": {name: [1]}}, {"b": {name: 1}})):
        other = {"b": {"c": 1}}
        together = PatternSet({"named": pattern, "beside": {"b": {"c": [1]}}})
        for event, found in ((known, ["named"]), (other, ["beside"])):
            text = json.dumps(event)
            assert together.matching(text) == together.matching(event) == found
            assert Pattern(pattern).matches(text) is Pattern(pattern).matches(event) is (event is known)
        filters = FilterCriteria([{"value": pattern}, {"value": {"d": [1]}}], source="kafka").single_test()
        assert filters is not None
        assert allowed(filters[1], [json.dumps(each) for each in (known, other, {"d": 1})]) == [True, False, True]


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["null", "[]", '{"body": "x"}', {"body": [{"nothing": 1}]}, {"body": {}}])
def test_an_invalid_filter_is_refused_in_lambdas_words(pattern: Any) -> None:
    """And says why."""
    with pytest.raises(PatternError) as caught:
        FilterCriteria([pattern], source="sqs")
    assert caught.value.message == "Invalid filter pattern definition."
    assert "Reason: " in caught.value.__notes__[0]


def test_the_length_and_the_number_of_filters_are_bounded() -> None:
    with pytest.raises(PatternError) as caught:
        FilterCriteria([{"body": {"a": ["x" * 4_096]}}], source="sqs")
    assert "4096 characters" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="at most 10"):
        FilterCriteria([{"body": {"a": ["x"]}}] * 11, source="sqs")
    with pytest.raises(ValueError, match="docdb"):
        FilterCriteria([{"body": {"a": ["x"]}}], source="docdb")


@pytest.mark.parametrize(
    ("pattern", "body", "is_match"),
    [
        # The table of data and pattern, plain or JSON (Lambda semantics §3.1).
        ({"body": ["text"]}, "text", True),
        ({"messageId": ["1"]}, "text", True),
        ({"body": {"a": [1]}}, "text", False),
        ({"body": [{"exists": True}]}, '{"a": 1}', False),
        ({"messageId": ["1"]}, '{"a": 1}', True),
        ({"messageId": ["2"]}, '{"a": 1}', False),
        ({"body": {"a": [1]}}, '{"a": 1}', True),
        ({"body": {"a": [1]}}, '[{"a": 1}]', False),
        ({"body": ["1"]}, "1", True),
        ({"body": ["{"]}, "{", True),
    ],
)
def test_data_and_pattern_are_both_plain_or_both_json(pattern: Any, body: str, is_match: bool) -> None:
    assert FilterCriteria([pattern], source="sqs").matches({"messageId": "1", "body": body}) is is_match


def test_kafka_filters_look_at_key_and_value() -> None:
    """Both in base64 in a record; both must hold."""
    criteria = FilterCriteria([{"key": ["k1"], "value": {"a": [1]}, "topic": ["t"]}], source="kafka")
    record = {"topic": "t", "key": "azE=", "value": "eyJhIjogMX0="}
    assert criteria.matches(record)
    assert not criteria.matches({**record, "key": "azI="})
    assert not criteria.matches({**record, "value": None})
    assert not criteria.matches({**record, "topic": "u"})


def test_filters_of_one_key_are_told_so_and_decode_it_once() -> None:
    """The engine asks of data alone where it can."""
    single = FilterCriteria([{"value": {"a": [1]}}, {"value": {"b": [2]}}], source="kafka").single_test()
    assert single is not None
    key, test = single
    assert key == "value"
    data = (b'{"a": 1}', b'{"b": 2}', b'{"b": 1}', b"plain", None)
    expected = [True, True, False, False, False]
    assert [test.allows(each) for each in data] == expected
    for count in range(len(data) + 1):
        assert allowed(test, data[:count]) == expected[:count]
    for filters in ([{"topic": ["t"]}], [{"value": ["plain"]}], [{"key": {"a": [1]}}, {"value": {"a": [1]}}]):
        assert FilterCriteria(filters, source="kafka").single_test() is None


@pytest.mark.parametrize("unreadable", [b'"\xff"', b"1e999", b'{"c": "\xff"}'])
def test_what_another_filter_names_and_nobody_can_read_keeps_no_record_out(unreadable: bytes) -> None:
    """One filter is enough: a second one lets more records pass, never fewer."""
    filters = [{"value": {"a": [1]}}, {"value": {"b": [{"exists": False}]}}, {"value": {"b": {"c": [2]}}}]
    match, other = b'{"a": 1, "b": %b}' % unreadable, b'{"a": 2, "b": %b}' % unreadable
    for count in range(1, len(filters) + 1):
        single = FilterCriteria(filters[:count], source="kafka").single_test()
        assert single is not None
        assert [single[1].allows(match), single[1].allows(other)] == [True, False]
        assert allowed(single[1], [match, other, b'{"a": 1}']) == [True, False, True]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_records_that_match_in_all_but_one_respect_do_not(names: str) -> None:
    """Neither many that are alike in this, nor one among others that match."""
    first, second = names
    asked = {first: [{"anything-but": ["x"]}], second: [{"anything-but": ["x"]}]}
    for filters in ([asked], [{"$or": [asked, {"c": [1]}]}]):
        single = FilterCriteria([{"value": each} for each in filters], source="kafka").single_test()
        assert single is not None
        for record, is_match in (({"a": 1, "b": 1}, True), ({"a": 1, "b": "x"}, False), ({"a": "x", "b": 1}, False)):
            text = json.dumps(record).encode()
            assert allowed(single[1], [text] * 3) == [is_match] * 3
            assert allowed(single[1], [b'{"a": 1, "b": 1}'] * 2) == [True, True]
            assert allowed(single[1], [b'{"a": 1, "b": 1}', text]) == [True, is_match]


class _Counted:
    """A record that counts how often its body is looked at."""

    def __init__(self, body: bytes) -> None:
        self._body, self.looks = body, 0

    @property
    def body(self) -> bytes:
        self.looks += 1
        return self._body


@pytest.mark.parametrize("turns", [[True, False], [False, True, True], [False]])
def test_records_are_seldom_gone_through_in_vain(turns: list[bool]) -> None:
    """Partitions take turns: where those of one match in all and another's do not, a look at all seldom tells."""
    single = FilterCriteria([{"value": {"a": [{"anything-but": ["x"]}]}}], source="kafka").single_test()
    assert single is not None
    matching, other = b'{"a": "y"}', b'{"a": "x"}'
    twice = 0
    for all_match in turns * 200:
        records = [_Counted(matching), _Counted(matching if all_match else other)]
        if single[1].surely_allows_all(records):
            assert all_match
        else:
            twice += records[0].looks > 0
            assert single[1].allow_each([record.body for record in records]) == [True, all_match]
    assert twice <= 200 * len(turns) // 20


#: What may stand in a text under one name, or in its place.
TEXTS = (
    b"{}",
    *(b'{"a": %b}' % value for value in (b"null", b"true", b"1", b"1.0", b"1e999", b'"x"', b'"y"', b'"z"')),
    *(b'{"a": %b}' % value for value in (b"[]", b"{}", b'["x"]', b'["y"]', b'["x", "y"]', b'{"b": "y"}')),
    *(b'{"a": %b}' % value for value in (b'"\\u0078"', b'"\xff"')),
    b'{"a": "x", "a": "y"}',
    b'{"a": "y", "a": "x"}',
    b'{"a": {"b": "x"}}',
    b'{"a.b": "y"}',
    b'{"a": {"b": 1}, "a.b": "x"}',
    b'{"a": "y"',
    b'["a"]',
    b"plain",
    None,
)


@pytest.mark.parametrize(
    ("pattern", "surely"),
    [
        ({"a": [{"anything-but": ["x"]}]}, [b'{"a": "y"}', b'{"a": 1}', b'{"a": null}', b'{"a": true}']),
        ({"a": [{"anything-but": ["x", "z"]}]}, [b'{"a": "y"}', b'{"a": 1}', b'{"a": null}']),
        ({"a": [{"exists": True}]}, [b'{"a": "x"}', b'{"a": "y"}', b'{"a": 1}', b'{"a": null}']),
        ({"a": [{"anything-but": ["x"]}, {"exists": False}]}, [b'{"a": "y"}', b'{"a": null}', b"{}"]),
        ({"a": {"b": [{"anything-but": ["x"]}]}}, [b'{"a": {"b": "y"}}']),
    ],
)
def test_a_glance_is_sure_of_what_a_closer_look_tells(pattern: dict[str, Any], surely: list[bytes]) -> None:
    for text in TEXTS:
        for data in ([text], [*surely, text], [text, *surely]):
            single = FilterCriteria([{"value": pattern}], source="kafka").single_test()
            assert single is not None
            if single[1].surely_allows_all([_Body(each) for each in data]):
                assert single[1].allows(text), text
    single = FilterCriteria([{"value": pattern}], source="kafka").single_test()
    assert single is not None
    assert single[1].surely_allows_all([_Body(text) for text in surely])


@pytest.mark.parametrize("size", [1, 31, 100, 1_000])
def test_what_matches_does_not_depend_on_what_came_before(size: int) -> None:
    """Filters are asked in an order that changes with the records; their answers do not."""
    filters = [{"value": {"a": [{"anything-but": ["none"]}]}}, {"value": {"b": [1]}}, {"value": {"c": [1]}}]
    single = FilterCriteria(filters, source="kafka").single_test()
    assert single is not None
    kinds = [b'{"a": "x"}', b'{"b": 1}', b'{"c": 1}', b'{"b": 2}', b'{"b": [1]}', b'{"a": "\xff", "c": 1}', b"plain"]
    expected = [True, True, True, False, True, True, False]
    asked = set()
    for kind, is_match in zip(kinds, expected, strict=True):
        # Many in a row, then one of each other among them.
        for _ in range(0, 2 * LOOK_AFTER, size):
            assert allowed(single[1], [kind] * size) == [is_match] * size
        for other, is_other in zip(kinds, expected, strict=True):
            asked.add(single[1].first)
            data, wanted = [kind] * size, [is_match] * size
            data[size // 2], wanted[size // 2] = other, is_other
            assert allowed(single[1], data) == wanted, (kind, other)
    assert asked == {None, 0, 1, 2}


@pytest.mark.parametrize("size", [1, 7, LOOK_AFTER])
def test_the_filter_that_lets_most_records_pass_is_asked_first(size: int) -> None:
    filters = [{"value": {"a": [1]}}, {"value": {"$or": [{"b": [1]}, {"b": [2]}]}}, {"value": {"c": [1]}}]
    single = FilterCriteria(filters, source="kafka").single_test()
    assert single is not None
    test = single[1]

    def hold(*kinds: bytes) -> int | None:
        """Hold as many records as it takes to be looked at, of some kinds in turns; which filter is first then?"""
        data = list(itertools.islice(itertools.cycle(kinds), LOOK_AFTER + size))
        for begin in range(0, len(data), size):
            allowed(test, data[begin : begin + size])
        return test.first

    assert test.first is None
    assert hold(b'{"b": 2}') == 1
    assert hold(b'{"b": 1}', b'{"b": 2}', b'{"a": 1}') == 1
    assert hold(b"{}") is None
    assert hold(b'{"c": 1}') == 2
    assert hold(b'{"a": 1}') is None
    assert hold(b'{"a": 1}') == 0
    if size > 1:
        assert hold(b"{}") is None
        assert hold(b'{"a": 1}', b'{"b": 1}', b'{"c": 1}') is None


def test_what_is_no_object_is_not_held_against_each_filter() -> None:
    """Nor does a text that no encoding has raise an error of its own."""
    single = FilterCriteria([{"value": {"a": [1]}}, {"value": {"b": [1]}}], source="kafka").single_test()
    assert single is not None
    for data in ("", "plain", b"[1]", b'{"a": 1', b'{"a": 1} {', b"1", b"null", "\ud800", '{"c": "\ud800"}'):
        assert single[1].allows(data) is False
        assert allowed(single[1], [data, b'{"a": 1}']) == [False, True]


#: What a path may be asked, alone and in company, and what may stand there.
ASKED: list[Any] = [
    *(["x"], [1], [None], [True], ["x", 1], [{"prefix": "x"}], [{"anything-but": ["x"]}], [{"numeric": [">", 0]}]),
    *([{"exists": False}], [{"exists": True}], ["x", {"prefix": "y"}], {"b": ["x"]}, {"b": [{"anything-but": ["x"]}]}),
    *({"b": [{"exists": False}]}, {"b": [1, {"exists": False}]}),
    *(["x", {"anything-but": ["x"]}], [{"anything-but": ["x"]}, {"anything-but": ["xy", "x"]}]),
    *([{"exists": True}, {"anything-but": ["x"]}], [{"exists": False}, {"anything-but": ["x", "y"]}]),
]
STANDING: list[Any] = [
    *("x", "xy", "y", "", 1, 1.0, 2, True, False, None, [], ["x"], ["y", {}], ["y", 1], [[]], [["x"]], [{}], {}),
    *({"b": "x"}, {"b": 1}, {"b": True}, {"b": None}, {"b": []}, {"b": ["x"]}, {"b": {}}, {"c": 1}),
    *([{"b": "x"}], [{"b": "y"}, {"b": "x"}], [{"c": 1}, {"b": 1}]),
]


def test_texts_match_as_their_objects_do_alone_and_together() -> None:
    """Objects are held against one tree at a time; texts against all at once, and many texts path by path."""
    events: list[dict[str, Any]] = [{}, {"z": 1}, *({"a": value} for value in STANDING)]
    texts = [json.dumps(event).encode() for event in events]
    expected = [[Pattern({"a": asked}).matches(event) for asked in ASKED] for event in events]
    everything = PatternSet({str(number): {"a": asked} for number, asked in enumerate([*ASKED, *ASKED])})
    for event, text, row in zip(events, texts, expected, strict=True):
        names = [str(number) for number, is_match in enumerate([*row, *row]) if is_match]
        assert everything.matching(text) == names, event
    for first, second in itertools.product(range(len(ASKED)), repeat=2):
        filters = [{"value": {"a": ASKED[first]}}, {"value": {"a": ASKED[second]}}]
        for chosen in (filters[:1], filters):
            single = FilterCriteria(chosen, source="kafka").single_test()
            assert single is not None
            wanted = [row[first] or (row[second] and len(chosen) > 1) for row in expected]
            assert [single[1].allows(text) for text in texts] == wanted, chosen
            for begin in range(0, len(texts), 4):
                assert allowed(single[1], texts[begin : begin + 4]) == wanted[begin : begin + 4], chosen


def test_a_set_names_the_patterns_that_match_in_their_order() -> None:
    patterns = PatternSet(
        {"paid": {"status": ["paid"]}, "any": '{"status": [{"exists": true}]}', "or": {"$or": [{"a": [1]}, {"b": [1]}]}}
    )
    assert patterns.matching({"status": "paid", "a": 1, "b": 1}) == ["paid", "any", "or"]
    assert patterns.matching(b'{"status": "open"}') == ["any"]
    assert PatternSet({}).matching("{}") == []
    with pytest.raises(PatternError, match="Parameter Event is not valid"):
        patterns.matching("[1]")


def test_a_set_says_which_of_its_patterns_is_none() -> None:
    with pytest.raises(PatternError) as caught:
        PatternSet({"good": {"a": [1]}, "bad": {"a": 1}})
    assert caught.value.__notes__ == ["in the pattern 'bad'"]


def test_a_set_is_bounded() -> None:
    """By combinations, of which an `$or` has many."""
    alternatives = [{"a": [number]} for number in range(1000)]
    patterns = {str(number): {"$or": alternatives} for number in range(11)}
    with pytest.raises(ValueError, match="at most 10000 combinations"):
        PatternSet(patterns)
