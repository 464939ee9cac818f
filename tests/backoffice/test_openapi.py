"""The document agrees with what is served: the routes, the models and the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.registry import Registry, default
from tests.backoffice.service import Api, backoffice

PROBLEM = "application/problem+json"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


async def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get("/openapi.json")).json
    return found


async def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(api: Api) -> None:
    answer = await api.get("/openapi.json")
    assert answer.json["openapi"] == "3.1.0"
    names = set(re.findall(rb'"#/components/schemas/([^"]+)"', answer.body))
    assert {name.decode() for name in names} <= answer.json["components"]["schemas"].keys()
    ids = [operation["operationId"] for _, _, operation in operations(answer.json)]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] for _, _, operation in operations(answer.json))


async def test_every_documented_operation_is_served_and_answers_as_documented(api: Api, node: Bridge) -> None:
    for method, path, operation in operations(await document(api)):
        concrete = re.sub(r"{\w+}", "1", path)
        answer = await api.call(method, concrete, {} if "requestBody" in operation else None)
        assert answer.json.get("detail") != "there is no such path", path
        assert answer.status != 405
        documented = operation["responses"][str(answer.status)]["content"]
        assert list(documented) == [answer.headers["Content-Type"]]


async def test_every_operation_documents_the_problems_that_any_may_have(api: Api) -> None:
    for _, path, operation in operations(await document(api)):
        responses = operation["responses"]
        assert {"401", "403", "415", "422", "503"} <= responses.keys(), path
        assert all(PROBLEM in responses[status]["content"] for status in responses if int(status) >= 400)
        if "requestBody" in operation:
            assert {"400", "408", "413"} <= responses.keys()


async def test_every_type_that_can_be_issued_is_described_with_its_subject(api: Api) -> None:
    found = await document(api)
    body = found["paths"]["/commands"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    mapping = body["discriminator"]["mapping"]
    assert mapping.keys() == {known.name for known in default.types()}
    for known in default.types():
        schema = found["components"]["schemas"][mapping[known.name].rpartition("/")[2]]
        assert schema["additionalProperties"] is False
        assert schema["properties"]["type"] == {"const": known.name}
        assert schema["properties"]["subject"]["pattern"].startswith(f"^{known.subject}:")
        assert schema["required"] == ["type", "subject", "payload"]


async def test_a_plugins_command_is_described_like_any_other(bridge_settings: BridgeSettings) -> None:
    registry = Registry()

    @registry.command("item.grant", subject="user")
    class ItemGrant(BaseModel):
        """An item for a user."""

        item: str
        count: int = Field(1, ge=1, le=99)

    async with backoffice(bridge_settings, registry=registry) as api:
        schemas = (await document(api))["components"]["schemas"]
        for said in ("An item for a user.", "role operator"):
            assert said in schemas["Command.item.grant"]["description"]
        assert schemas["ItemGrant"]["properties"].keys() == {"item", "count"}
        assert schemas["ItemGrant"]["properties"]["count"]["maximum"] == 99
        assert schemas["ItemGrant"]["additionalProperties"] is False
        answer = await api.issue("item.grant", "user:u7", {"item": "sword", "count": 100, "colour": "red"})
        assert [fault["path"] for fault in answer.json["errors"]] == ["/payload/count", "/payload/colour"]


async def test_no_text_of_a_query_may_hold_what_is_refused(api: Api) -> None:
    texts = [
        schema
        for _, _, operation in operations(await document(api))
        for parameter in operation["parameters"]
        if parameter["in"] == "query" and "format" not in parameter["schema"]
        for schema in parameter["schema"].get("anyOf", [parameter["schema"]])
        if schema.get("type") == "string"
    ]
    assert len(texts) > 10
    for schema in texts:
        refused = "pattern" in schema and not re.search(schema["pattern"], "a\0b")
        assert refused or schema.keys() & {"format", "enum", "const"}, schema


@pytest.mark.parametrize("path", ["/commands/{id}", "/nodes", "/rooms", "/sanctions", "/dead", "/shards"])
async def test_answers_have_the_documented_fields_and_no_others(api: Api, node: Bridge, path: str) -> None:
    await api.issue("room.open", "room:lobby", {}, wait=10)
    mute = (await api.issue("user.mute", "user:u7", {"seconds": 60}, wait=10)).json["id"]
    found = await document(api)
    schema = found["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    answer = (await api.get(path.format(id=mute))).json
    _agree(answer, schema, found["components"]["schemas"])


def _agree(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Objects have all the fields of their schema and no others; the types of scalars fit."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        nullable = any(option.get("type") == "null" for option in schema["anyOf"])
        if value is None:
            assert nullable
            return
        schema = next(option for option in schema["anyOf"] if option.get("type") != "null")
        _agree(value, schema, schemas)
    elif "properties" in schema:
        assert value.keys() == schema["properties"].keys() == set(schema["required"])
        for name, part in value.items():
            _agree(part, schema["properties"][name], schemas)
    elif schema.get("type") == "array":
        for item in value:
            _agree(item, schema["items"], schemas)
    else:
        kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict}
        declared = schema.get("type", [])
        allowed = tuple(
            kinds[name] for name in ([declared] if isinstance(declared, str) else declared) if name in kinds
        )
        assert not allowed or value is None or isinstance(value, allowed)
