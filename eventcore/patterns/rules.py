"""From the rules of a leaf, as people write them, to what a value is tested with. Source: Lambda semantics §6.3.

Errors are in the words of the service, as recorded (`event_patterns.jsonl`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventcore.errors import PatternError
from eventcore.patterns import values
from eventcore.patterns.values import Leaf, Rule

#: What a number in a pattern may be (Lambda semantics §6.3).
NUMBER_MAX = 5_000_000_000


def refuse(reason: str) -> PatternError:
    """Return the error of a pattern that can't be used."""
    return PatternError(f"Event pattern is not valid. Reason: {reason}")


def read_leaf(rules: Sequence[Any]) -> Leaf:
    """Return what an array of rules allows.

    Raises:
        PatternError: it is none.
    """
    if not rules:
        raise refuse("Empty arrays are not allowed")
    texts: set[str] = set()
    numbers: set[float] = set()
    literals: list[bool | None] = []
    others: list[Rule] = []
    allows_any = allows_absence = False
    for rule in rules:
        if isinstance(rule, str):
            texts.add(rule)
        elif _is_number(rule):
            numbers.add(rule)
        elif rule is None or isinstance(rule, bool):
            literals.append(rule)
        elif isinstance(rule, Mapping):
            name, argument = _only_entry(rule)
            if name == "exists":
                if not isinstance(argument, bool):
                    raise refuse("exists match pattern must be either true or false.")
                allows_any |= argument
                allows_absence |= not argument
            else:
                others.append(_read_rule(name, argument))
        else:
            raise refuse("Match value must be String, number, true, false, or null")
    return Leaf(frozenset(texts), frozenset(numbers), tuple(literals), tuple(others), allows_any, allows_absence)


def _only_entry(rule: Mapping[str, Any]) -> tuple[str, Any]:
    if not rule:
        raise refuse("Empty match expression")
    if len(rule) > 1:
        raise refuse("Only one key allowed in match expression")
    return next(iter(rule.items()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_rule(name: str, argument: Any) -> Rule:
    read = _READERS.get(name)
    if read is None:
        raise refuse(f"Unrecognized match type {name}")
    return read(argument)


def _read_affix(name: str, plain: Callable[[str], Rule], in_any_case: Callable[[str], Rule]) -> Callable[[Any], Rule]:
    def read(argument: Any) -> Rule:
        if isinstance(argument, Mapping):
            inner, text = _only_entry(argument)
            if inner != "equals-ignore-case":
                raise refuse(f"Unsupported anything-but pattern: {inner}")
            if not isinstance(text, str):
                raise refuse("equals-ignore-case match pattern must be a string")
            return in_any_case(text)
        if not isinstance(argument, str):
            raise refuse(f"{name} match pattern must be a string")
        return plain(argument)

    return read


def _read_equals_ignoring_case(argument: Any) -> Rule:
    if not isinstance(argument, str):
        raise refuse("equals-ignore-case match pattern must be a string")
    return values.equals_ignoring_case(argument)


def _read_wildcard(argument: Any) -> Rule:
    if not isinstance(argument, str):
        raise refuse("wildcard match pattern must be a string")
    return values.fits_wildcard(_split_wildcard(argument))


def _split_wildcard(text: str) -> list[str]:
    """Return what stands between the stars; a backslash makes a star, or a backslash, an ordinary character."""
    parts, part = [], ""
    at = 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            following = text[at + 1 : at + 2]
            if following not in {"*", "\\"}:
                raise refuse(f"Invalid escape character at pos {at}")
            part += following
            at += 1
        elif character == "*":
            if text[at + 1 : at + 2] == "*":
                raise refuse(f"Consecutive wildcard characters at pos {at + 1}")
            parts.append(part)
            part = ""
        else:
            part += character
        at += 1
    return [*parts, part]


def _read_address(argument: Any) -> Rule:
    if not isinstance(argument, str):
        raise refuse("prefix match pattern must be a string")
    address, separator, bits = argument.partition("/")
    if not separator or "/" in bits:
        raise refuse("Malformed CIDR, one '/' required")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        raise refuse(f"Nonstandard IP address: {address}") from None
    if not bits.isascii() or not bits.isdigit():
        raise refuse("Malformed CIDR, mask bits must be an integer")
    bits_max = 32 if version == 4 else 128
    if int(bits) >= bits_max:
        raise refuse(f"IPv{version} mask bits must be < {bits_max}")
    return values.is_address_of(argument)


_COMPARISONS = frozenset({"=", "<", "<=", ">", ">="})


def _read_numeric(argument: Any) -> Rule:
    if not isinstance(argument, Sequence) or isinstance(argument, str):
        raise refuse("Value of numeric must be an array.")
    terms = list(argument)
    if not terms or not isinstance(terms[0], str):
        raise refuse("Invalid member in numeric match: " + (str(terms[0]) if terms else "]"))
    if terms[0] not in _COMPARISONS:
        raise refuse(f"Unrecognized numeric range operator: {terms[0]}")
    first = _read_term(terms, 0)
    if terms[0] == "=":
        if len(terms) > 2:
            raise refuse("Too many terms in numeric range expression")
        return values.is_number_within(first, first, with_low=True, with_high=True)
    if len(terms) == 2:
        if terms[0].startswith(">"):
            return values.is_number_within(first, None, with_low=terms[0] == ">=", with_high=False)
        return values.is_number_within(None, first, with_low=False, with_high=terms[0] == "<=")
    if not terms[0].startswith(">"):
        raise refuse("Too many elements in numeric expression")
    if terms[2] not in {"<", "<="}:
        raise refuse(f"Bad numeric range operator: {terms[2]}")
    last = _read_term(terms, 2)
    if len(terms) > 4:
        raise refuse("Too many terms in numeric range expression")
    if first >= last:
        raise refuse("Bottom must be less than top")
    return values.is_number_within(first, last, with_low=terms[0] == ">=", with_high=terms[2] == "<=")


def _read_term(terms: Sequence[Any], at: int) -> float:
    value: Any = terms[at + 1] if at + 1 < len(terms) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refuse(f"Value of {terms[at]} must be numeric")
    if abs(value) > NUMBER_MAX:
        raise refuse(f"Value must be between {-NUMBER_MAX} and {NUMBER_MAX}, inclusive")
    return value


def _read_anything_but(argument: Any) -> Rule:
    if isinstance(argument, Mapping):
        name, inner = _only_entry(argument)
        read = _EXCLUDED.get(name)
        if read is None:
            raise refuse(f"Unsupported anything-but pattern: {name}")
        return values.allows_none_of(read(inner))
    if isinstance(argument, str):
        return values.is_none_of([argument], [])
    if _is_number(argument):
        return values.is_none_of([], [argument])
    if not isinstance(argument, Sequence):
        raise refuse("Value of anything-but must be an array or single string/number value.")
    if not argument:
        raise refuse("Empty arrays are not allowed")
    if not all(isinstance(each, str) or _is_number(each) for each in argument):
        raise refuse("Inside anything but list, start|null|boolean is not supported.")
    texts = [each for each in argument if isinstance(each, str)]
    if texts and len(texts) < len(argument):
        raise refuse("Inside anything but list, either all values are number or string, mixed type is not supported")
    return values.is_none_of(texts, [] if texts else argument)


def _each_text(argument: Any, otherwise: str) -> list[str]:
    found = [argument] if isinstance(argument, str) else argument
    if isinstance(found, Mapping):
        raise refuse("Value of anything-but must be an array or single string/number value.")
    if not isinstance(found, Sequence) or not all(isinstance(each, str) for each in found):
        raise refuse(otherwise)
    if not found:
        raise refuse("Empty arrays are not allowed")
    return list(found)


def _exclude_affixes(make: Callable[[str], Rule]) -> Callable[[Any], list[Rule]]:
    def read(argument: Any) -> list[Rule]:
        texts = _each_text(argument, "prefix/suffix match pattern must be a string")
        if not all(texts):
            raise refuse("Null prefix/suffix not allowed")
        return [make(text) for text in texts]

    return read


def _exclude_texts(argument: Any) -> list[Rule]:
    otherwise = "Inside anything-but/equals-ignore-case list, number|start|null|boolean is not supported."
    return [values.equals_ignoring_case(text) for text in _each_text(argument, otherwise)]


def _exclude_wildcards(argument: Any) -> list[Rule]:
    texts = _each_text(argument, "wildcard match pattern must be a string")
    return [values.fits_wildcard(_split_wildcard(text)) for text in texts]


_EXCLUDED: Mapping[str, Callable[[Any], list[Rule]]] = {
    "prefix": _exclude_affixes(values.begins),
    "suffix": _exclude_affixes(values.ends),
    "equals-ignore-case": _exclude_texts,
    "wildcard": _exclude_wildcards,
}
_READERS: Mapping[str, Callable[[Any], Rule]] = {
    "prefix": _read_affix("prefix", values.begins, values.begins_ignoring_case),
    "suffix": _read_affix("suffix", values.ends, values.ends_ignoring_case),
    "equals-ignore-case": _read_equals_ignoring_case,
    "wildcard": _read_wildcard,
    "cidr": _read_address,
    "numeric": _read_numeric,
    "anything-but": _read_anything_but,
}
#: What makes an object a rule: an `$or` with such an object is a path of that name.
RULE_NAMES = frozenset({*_READERS, "exists"})
