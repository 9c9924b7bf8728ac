"""Each key of a TOML document is found on the line where it stands, whatever way it is written."""

import textwrap
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from eventcore.config.positions import find_lines


def lines(text):
    text = textwrap.dedent(text).lstrip("\n")
    tomllib.loads(text)
    return find_lines(text)


def paths_of(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*path, index)
            yield from paths_of(inner, (*path, index))


def test_tables_and_keys():
    found = lines("""
        # a comment = 1

        [functions.enrich]
        handler = "a.b"   # trailing [comment]
        timeout=3

        [ mappings . orders ]
        source = 'x'
    """)
    assert found["functions",] == 3
    assert found["functions", "enrich"] == 3
    assert found["functions", "enrich", "handler"] == 4
    assert found["functions", "enrich", "timeout"] == 5
    assert found["mappings", "orders"] == 7
    assert found["mappings", "orders", "source"] == 8


def test_dotted_keys_stand_on_their_line_and_quoted_ones_are_decoded():
    found = lines("""
        [queues]
        a.delay = 1
        a."redrive policy".x = 2
        "b\\u0041".delay = 3
        'c.d'.delay = 4
    """)
    assert found["queues", "a"] == 2
    assert found["queues", "a", "delay"] == 2
    assert found["queues", "a", "redrive policy", "x"] == 3
    assert found["queues", "bA", "delay"] == 4
    assert found["queues", "c.d", "delay"] == 5


def test_a_table_that_was_implied_before_is_found_at_its_header():
    found = lines("""
        [a.b]
        x = 1
        [a]
        y = 2
    """)
    assert found["a",] == 3
    assert found["a", "b"] == 1


def test_inline_tables_and_arrays():
    found = lines("""
        x = { a = 1, b = { c = "}" } }
        y = [
          1,   # ]
          "two ] }",

          { z = 3 },
        ]
        last = 1
    """)
    assert found["x", "b", "c"] == 1
    assert found["y", 0] == 3
    assert found["y", 1] == 4
    assert found["y", 2, "z"] == 6
    assert found["last",] == 8


def test_what_looks_like_a_key_inside_a_string_is_none():
    found = lines('''
        a = """
        [b]
        c = 1 \\""" \\\\
        """""
        d = \'\'\'
        e = 1
        \'\'\'
        f = "g = 1 # \\" h = 2"
        i = 'j = \\'
        k = ""
        l = \'\'
    ''')
    assert found == {("a",): 1, ("d",): 5, ("f",): 8, ("i",): 9, ("k",): 10, ("l",): 11}


def test_arrays_of_tables_are_counted():
    found = lines("""
        [[a]]
        x = 1
        [a.inner]
        y = 1
        [[a]]
        x = 2
        [[a.list]]
        z = 1
        [[a.list]]
        z = 2
    """)
    assert found["a",] == 1
    assert found["a", 0, "x"] == 2
    assert found["a", 0, "inner", "y"] == 4
    assert found["a", 1] == 5
    assert found["a", 1, "x"] == 6
    assert found["a", 1, "list", 1, "z"] == 10


def test_dates_numbers_and_windows_line_ends():
    text = "a = 1979-05-27 07:32:00\r\nb = 1_000\r\n[c]\r\nd = true\r\n"
    tomllib.loads(text)
    assert find_lines(text) == {("a",): 1, ("b",): 2, ("c",): 3, ("c", "d"): 4}


KEYS = st.text(alphabet="ab.\"' é\n", min_size=1, max_size=4)
VALUES = st.recursive(
    st.integers() | st.booleans() | st.text(alphabet="a[]{}#=,\"'\\\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def basic(text):
    return '"' + "".join(c if c.isalnum() or c in " .[]{}#=,'" else f"\\u{ord(c):04X}" for c in text) + '"'


def write(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return basic(value) if "'" in value or "\n" in value else f"'{value}'"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{basic(key)} = {write(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[ " + " , ".join(write(inner) for inner in value) + "]"
    return str(value)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4))
def test_every_path_of_any_document_has_the_line_it_was_written_on(document):
    """One line a key: so the line of each path is the line of its table and key."""
    text, expected = "", {}
    for table, keys in document.items():
        text += f"[{basic(table)}]\n"
        expected[table,] = text.count("\n")
        for key, value in keys.items():
            text += f"{basic(key)} = {write(value)} # ={{[\n"
            for path in paths_of({key: value}, (table,)):
                expected[path] = text.count("\n")
    assert tomllib.loads(text) == document
    assert find_lines(text) == expected
