"""`python -m gateway`: one gateway replica. Settings come from the environment.

`python -m gateway token` and `revoke`: tokens by hand (gateway/commands.py). `python -m gateway admin`: what
operators do (gateway/admin_command.py).
"""

import contextlib
import resource
import sys
from collections.abc import Sequence
from typing import Final

from gateway import admin_command, commands
from gateway.replica import Replica, ReplicaSettings
from gateway.settings import (
    AdmissionSettings,
    AuthenticationSettings,
    ConnectionSettings,
    DrainSettings,
    ListenerSettings,
    OperatorSettings,
)
from shared.errors import NotifyError, SettingsError
from shared.logging import configure_logging, get_logger
from shared.runner import run
from shared.settings import RedisSettings, ServiceSettings, load

OPEN_MAX: Final = 10_240


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop, or do what was asked. Gives the exit code: 0 drained, 1 failed, 2 a
    setting is wrong."""
    options = commands.parser().parse_args(arguments)
    try:
        if options.command == "admin":
            return admin_command.run(options, load(OperatorSettings))
        settings = ReplicaSettings(
            service=load(ServiceSettings),
            redis=load(RedisSettings),
            listener=load(ListenerSettings),
            operators=load(OperatorSettings),
            authentication=load(AuthenticationSettings),
            admission=load(AdmissionSettings),
            connection=load(ConnectionSettings),
            drain=load(DrainSettings),
        )
    except SettingsError as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 2
    if options.command is not None:
        return commands.run(options, settings.authentication, settings.redis)
    service = settings.service
    configure_logging(
        level=service.log_level,
        format_=service.log_format,
        service=service.service_name,
        user_ids=service.log_user_ids,
    )
    raise_open_file_limit()
    if (files := settings.admission.few_files) is not None:
        most = settings.admission.connection_limit
        get_logger("gateway").warning("few open files, so few clients (ulimit -n)", open_files=files, clients=most)
    try:
        run(serve(settings))
    except (NotifyError, OSError) as error:
        get_logger("gateway").error("the gateway ends", error=str(error))
        return 1
    return 0


async def serve(settings: ReplicaSettings) -> None:
    """Make the replica within its loop and run it."""
    await Replica(settings).run()


def raise_open_file_limit() -> None:
    """Let this process open as many files as it may: each client is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says that there is no limit, and takes no more than its OPEN_MAX (setrlimit(2) there).
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, OPEN_MAX)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
