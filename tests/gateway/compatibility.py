"""What of a JSON schema's change breaks somebody: who has stored messages, or who reads new ones by the old schema."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
_AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}


def broken(old: Schema, new: Schema) -> list[str]:
    """A sentence for each break between two versions; empty where the new one only adds what may be left out."""
    return [
        *(f"{where}: removed" for where in _removed(old, old, new, new, "event", frozenset())),
        *(f"{reason} (messages of before)" for reason in _uncovered(new, new, old, old, "event", 0)),
        *(f"{reason} (readers of before)" for reason in _uncovered(old, old, new, new, "event", 0)),
    ]


def _at(root: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _branches(root: Schema, schema: Schema) -> list[Schema]:
    schema = _at(root, schema)
    inner = schema.get("anyOf") or schema.get("oneOf")
    return [branch for one in inner for branch in _branches(root, one)] if inner else [schema]


def _removed(
    old_root: Schema, old: Schema, new_root: Schema, new: Schema, where: str, seen: frozenset[str]
) -> Iterator[str]:
    """Fields that no branch has any more."""
    news = _branches(new_root, new)
    for branch in _branches(old_root, old):
        alike = [one for one in news if _tag(one) == _tag(branch)] or news
        for name, inner in branch.get("properties", {}).items():
            found = [one["properties"][name] for one in alike if name in one.get("properties", {})]
            if not found:
                yield f"{where}.{name}"
            else:
                yield from _removed(old_root, inner, new_root, found[0], f"{where}.{name}", seen)
        for key in ("items", "additionalProperties"):
            if isinstance(branch.get(key), dict):
                found = [one[key] for one in alike if isinstance(one.get(key), dict)]
                if found:
                    yield from _removed(old_root, branch[key], new_root, found[0], f"{where}[]", seen)


def _tag(schema: Schema) -> list[Any]:
    """What tells the branches of a union apart."""
    return sorted(inner["const"] for inner in schema.get("properties", {}).values() if "const" in inner)


def _uncovered(
    wide_root: Schema, wide: Schema, narrow_root: Schema, narrow: Schema, where: str, depth: int
) -> list[str]:
    """Why something that is valid by `narrow` is not by `wide`; a reason at least where that is so."""
    reasons: list[str] = []
    for branch in _branches(narrow_root, narrow):
        tries = [
            _branch_uncovered(wide_root, one, narrow_root, branch, where, depth) for one in _branches(wide_root, wide)
        ]
        reasons += min(tries, key=len)
    return list(dict.fromkeys(reasons))


def _branch_uncovered(
    wide_root: Schema, wide: Schema, narrow_root: Schema, narrow: Schema, where: str, depth: int
) -> list[str]:
    reasons: list[str] = []
    if not _types(narrow) <= _types(wide):
        return [f"{where}: {_named(narrow)} is not {_named(wide)}"]
    values, allowed = _values(narrow), _values(wide)
    if allowed is not None and (values is None or not values <= allowed):
        more = sorted(map(str, (values or set()) - allowed)) or ["any"]
        reasons.append(f"{where}: {', '.join(more)} is none of {', '.join(sorted(map(str, allowed)))}")
    for key in _AT_LEAST:
        if key in wide and values is None and narrow.get(key, float("-inf")) < wide[key]:
            reasons.append(f"{where}: {key} {wide[key]}, was {narrow.get(key, 'none')}")
    for key in _AT_MOST:
        if key in wide and values is None and narrow.get(key, float("inf")) > wide[key]:
            reasons.append(f"{where}: {key} {wide[key]}, was {narrow.get(key, 'none')}")
    if "pattern" in wide and values is None and narrow.get("pattern") != wide["pattern"]:
        reasons.append(f"{where}: pattern {wide['pattern']}, was {narrow.get('pattern', 'none')}")
    for name in wide.get("required", []):
        if name not in narrow.get("required", []):
            reasons.append(f"{where}.{name}: required, was not")
    for name, inner in narrow.get("properties", {}).items():
        if name in wide.get("properties", {}):
            reasons += _uncovered(wide_root, wide["properties"][name], narrow_root, inner, f"{where}.{name}", depth + 1)
    for key in ("items", "additionalProperties"):
        if isinstance(wide.get(key), dict):
            inner = narrow.get(key, {})
            reasons += _uncovered(wide_root, wide[key], narrow_root, inner, f"{where}[]", depth + 1)
    return reasons


def _values(schema: Schema) -> set[Any] | None:
    if "const" in schema:
        return {schema["const"]}
    return set(schema["enum"]) if "enum" in schema else None


def _types(schema: Schema) -> set[str]:
    told = schema.get("type", sorted(_TYPES))
    types = {told} if isinstance(told, str) else set(told)
    return types | ({"integer"} if "number" in types else set())


def _named(schema: Schema) -> str:
    told = schema.get("type", "anything")
    return told if isinstance(told, str) else " or ".join(told)
