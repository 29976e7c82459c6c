"""Every exception that crosses a file of this project.

NotifyError
├── SettingsError        a setting is wrong; the text names the variable, what it got, what it takes
├── InvalidUserId        not a user id (DESIGN section 2)
├── BrokerUnavailable    Redpanda could not be reached, or did not answer in time
├── Undecodable          a record that Redpanda has cannot be decoded: it is not read the next time either
├── EpochChanged         what was read belongs to an epoch that has ended: read again from `next`
├── RelayStopped         the relay cannot go on; the text says why and what to do
└── RedisError
    ├── RedisUnavailable the link could not be made, was lost, or did not answer in time
    └── RedisRefused     Redis answered with an error; the text is its own, and perhaps what to do

Exceptions of libraries (redis, hiredis, aiokafka, websockets) are translated where the library
is called and go no further.
"""


class NotifyError(Exception):
    """The root: whatever this project raises on purpose."""


class SettingsError(NotifyError):
    """A setting is wrong. Its text is one line that names the variable, what it got and takes."""


class InvalidUserId(NotifyError):
    """A value that cannot be a user id. Its text says why, without repeating the value."""


class BrokerUnavailable(NotifyError):
    """Redpanda could not be reached, or did not answer in time. It may the next time."""


class Undecodable(NotifyError):
    """A record that Redpanda has cannot be decoded: it is not read the next time either."""


class EpochChanged(NotifyError):
    """What was read belongs to an epoch that has ended: read again from `next`."""


class RelayStopped(NotifyError):
    """The relay cannot go on. Its text is one line that says why and what to do."""


class RedisError(NotifyError):
    """Something between us and Redis."""


class RedisUnavailable(RedisError):
    """The link could not be made, was lost, or did not answer in time. Whether a command that
    was under way took effect is not known."""


class RedisRefused(RedisError):
    """Redis answered with an error, for example NOAUTH, NOPERM, OOM or MOVED."""
