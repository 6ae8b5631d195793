"""The page at /docs: what OpenAPI says, as HTML that needs no other host and no script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).parent / "templates"
STYLE = _TEMPLATES / "docs.css"


def docs_page(openapi: dict[str, Any]) -> str:
    """The description of an API, as FastAPI makes it, as a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    questions = [
        _question(method.upper(), path, operation)
        for path, methods in _resolved(openapi["components"]["schemas"], openapi["paths"]).items()
        for method, operation in methods.items()
    ]
    return environment.get_template("docs.html").render(**openapi["info"], questions=questions)


def _question(method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    asked = _content(operation.get("requestBody", {}))
    answers = dict(operation["responses"])
    answered = _content(answers.pop("200"))
    about = asked.get("description") or operation["description"]
    parameters = [
        _field(each["name"], each["schema"] | {"description": each.get("description", "")})
        for each in operation.get("parameters", ())
    ]
    return {
        "id": operation["operationId"],
        "method": method,
        "path": path,
        "about": " ".join(about.split()),
        "asked": [*parameters, *_fields(asked)],
        "answered": list(_fields(answered)),
        "refusals": [(status, answer["description"]) for status, answer in answers.items()],
    }


def _content(body: dict[str, Any]) -> dict[str, Any]:
    return body.get("content", {}).get("application/json", {}).get("schema", {})


def _resolved(schemas: dict[str, Any], part: Any) -> Any:
    """`part` with every reference replaced by the schema that it names."""
    if isinstance(part, list):
        return [_resolved(schemas, each) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _resolved(schemas, schemas[part["$ref"].rpartition("/")[2]])
    return {key: _resolved(schemas, each) for key, each in part.items()}


def _fields(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield _field(name, field, required=name in required)


def _field(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    bounds = [
        f"{words} {_number(schema[key])}"
        for key, words in (("minimum", "from"), ("maximum", "to"), ("exclusiveMaximum", "below"))
        if key in schema
    ]
    return {
        "name": name,
        "kind": " ".join([_kind(schema), ", ".join(bounds)]).strip(),
        "default": "" if required or schema.get("default") is None else schema["default"],
        "about": schema.get("description", ""),
    }


def _number(bound: float) -> str:
    return f"{bound:.0f}" if float(bound).is_integer() else f"{bound}"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if any(key in schema for key in ("oneOf", "anyOf")):
        return " or ".join(dict.fromkeys(_kind(each) for each in schema.get("oneOf") or schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = schema.get("type", "")
    if kind == "object" and "properties" in schema:
        return "{" + ", ".join(schema["properties"]) + "}"
    if kind == "array" and "prefixItems" in schema:
        return "[" + ", ".join(map(_kind, schema["prefixItems"])) + "]"
    if kind == "array":
        return f"[{_kind(schema.get('items', {}))}]"
    return str(kind)
