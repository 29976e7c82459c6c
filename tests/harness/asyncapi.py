"""Which of a document's messages something is: of an AsyncAPI 3 document whose schemas are draft 7."""

import json
from typing import Any

from jsonschema import Draft7Validator


class Document:
    """The messages of an AsyncAPI document, by channel."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self._validators = {
            channel: {name: self.validator(message["payload"]) for name, message in described["messages"].items()}
            for channel, described in document["channels"].items()
        }

    def validator(self, schema: Any) -> Draft7Validator:
        """Of one of the document's schemas, whose references lead into the document."""
        return Draft7Validator({"allOf": [schema], "components": self.document["components"]})

    def messages(self, channel: str) -> set[str]:
        return set(self._validators[channel])

    def takes(self, channel: str, message: str, value: Any) -> bool:
        return bool(self._validators[channel][message].is_valid(value))

    def which(self, channel: str, payload: bytes, headers: dict[str, str] | None = None) -> str:
        """The one message that this is, with every field described. Raises AssertionError."""
        value = json.loads(payload)
        found = [name for name in self._validators[channel] if self.takes(channel, name, value)]
        assert len(found) == 1, f"{payload[:300]!r} on {channel} is {found}"
        (name,) = found
        message = self.document["channels"][channel]["messages"][name]
        described = self.resolved(message["payload"])["properties"]
        assert set(value) <= set(described), f"{name} has fields that are not described: {payload[:300]!r}"
        assert message["name"] in (value.get("type"), value.get("control")), name
        if headers is not None:
            self.validator(message["headers"]).validate(headers)
        return name

    def resolved(self, schema: Any) -> Any:
        while "$ref" in schema:
            node = self.document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                node = node[part]
            schema = node
        return schema
