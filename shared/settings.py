"""How settings are read, and those that both services have (DESIGN section 9).

Each concern has a small frozen class beside its code; a field `ws_port` is the variable `WS_PORT`,
in the environment or in `.env`. `__main__` builds them once with `load` and passes them down.
"""

import json
from functools import cached_property
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as PydanticSettingsError

from shared.errors import SettingsError
from shared.keys import Keys
from shared.log_lines import UserIds
from shared.topology import Deployment, parse_deployment


class Settings(BaseSettings):
    """Base of all settings: from the environment, then `.env`; empty is unset."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # The message that reaches a person is ours (`load`); pydantic's would repeat secrets.
        hide_input_in_errors=True,
    )


SettingsClass = TypeVar("SettingsClass", bound=Settings)


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        return json.loads(text)
    return [item.strip() for item in text.split(",") if item.strip()]


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list in a variable: JSON (`["a","b"]`) or comma-separated (`a,b`)."""


def load(settings: type[SettingsClass]) -> SettingsClass:
    """Read one settings class.

    Raises SettingsError: one line with the variable, what it got (not for secrets) and takes.
    """
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_input=True)[0]
        takes = first["msg"].removeprefix("Value error, ")  # pydantic's words before ours
        if not first["loc"]:  # several settings do not go together: the text names them
            raise SettingsError(takes) from None
        name = str(first["loc"][0])
        raise SettingsError(f"{name.upper()}{_shown(settings, name, first['input'])}: {takes}") from None
    except (PydanticSettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings cannot be read: {error}") from None


def _shown(settings: type[Settings], name: str, value: Any) -> str:
    field = settings.model_fields.get(name)
    if field is None or not isinstance(value, str | int | float):
        return ""
    # Addresses may carry a password; a secret is never shown.
    if SecretStr.__name__ in str(field.annotation) or "://" in str(value):
        return ""
    return f"={str(value)[:80]!r}"


class ServiceSettings(Settings):
    """Who this process says it is."""

    service_name: str = Field("notification", description="the name in /health and logs")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: str = Field("console", description="console (for people) or json (for machines)")

    log_user_ids: UserIds = Field(
        "hash", description="how logs name users: hash (the first 12 digits of the SHA-256), plain, or none"
    )

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("takes DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("log_format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in ("console", "json"):
            raise ValueError("takes console or json")
        return value


class RedisSettings(Settings):
    """Where the log and the channels are."""

    redis_url: SecretStr = Field(
        SecretStr("redis://redis:6379/0"),
        description="redis://[user:password@]host:port/db, rediss:// (TLS), unix://path, "
        "or redis+sentinel://host:port,host:port/master-name",
    )
    redis_cluster: bool = Field(
        False, description="REDIS_URL names nodes of a Redis Cluster, one or several (host:port,host:port)"
    )
    redis_prefix: str = Field("notify", min_length=1, description="the first word of every key and channel")
    redis_user_buckets: int = Field(
        1, ge=1, le=16384, description="hash tags that users are spread over: 1, or 64 on a cluster; fixed once in use"
    )
    redis_timeout_seconds: float = Field(
        5.0, gt=0, le=60, description="how long one call to Redis, or connecting, may take"
    )

    @field_validator("redis_prefix")
    @classmethod
    def _plain_prefix(cls, value: str) -> str:
        if any(character in "{}" or character.isspace() for character in value):
            raise ValueError("takes a word without braces and white space")
        return value

    @model_validator(mode="after")
    def _can_be_found(self) -> Self:
        try:
            _ = self.deployment
        except SettingsError as error:
            raise ValueError(
                "REDIS_URL: takes redis://host:port/db, rediss://..., unix://path or "
                f"redis+sentinel://host:port,host:port/master-name ({error})"
            ) from None
        return self

    @cached_property
    def deployment(self) -> Deployment:
        """How Redis is run here, and where to begin. Holds the password. Read once: a TLS context is dear."""
        return parse_deployment(self.redis_url.get_secret_value(), self.redis_cluster)

    @property
    def keys(self) -> Keys:
        return Keys(self.redis_prefix, self.redis_user_buckets)
