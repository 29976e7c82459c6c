"""The command line of `python -m relay redrive`: options, signals, lines on the terminal, exit code."""

import argparse
import asyncio
import signal
import sys
from typing import Final

from relay.bookmarks import ALL_KINDS, BOOKMARKS_KEY, Chosen
from relay.redrive import LETTERS_AT_ONCE, SAY_EVERY_SECONDS, Redrive
from relay.routes import DEAD_LETTER_TOPIC, ROUTES
from relay.settings import KafkaSettings
from shared.errors import BrokerUnavailable

SOME_CANNOT: Final = 3
SAY_EVERY_SECONDS_ON_A_TERMINAL: Final = 0.2
REASONS: Final = tuple(dict.fromkeys(kind.reason for kind in ALL_KINDS))

SUMMARY: Final = "put dead letters back to their topics, as new events"
DESCRIPTION: Final = f"""\
Puts the records in {DEAD_LETTER_TOPIC} back to the topic and partition that they came from, as new
events at the end: key, value and headers as they were. Correct first what made the relay reject them
(MAX_EVENT_BYTES for too_large); what is rejected again becomes a new dead letter and waits for the next run.

Look first:  python -m relay redrive --dry-run
Then:        python -m relay redrive --topic risk-events --reason too_large

It ends when it has dealt with the letters that were there when it began. A run that was interrupted, by
Ctrl-C, SIGTERM or kill -9, goes on where it was when started again: every letter is put back at least
once, and at most {LETTERS_AT_ONCE} of them twice, when it was killed. How far it is, is kept for each topic and
reason by itself: a run with a filter leaves the others for later, and no run puts back what another has. It is
kept in {DEAD_LETTER_TOPIC} itself, in small records with the key {BOOKMARKS_KEY.decode()}, which a run reads
through first: as long as there are letters it is known which were put back. Run one at a time. The relay may run
meanwhile. Whoever runs it must be allowed to write to {DEAD_LETTER_TOPIC}; a dry run writes nothing.

A letter that was too large for {DEAD_LETTER_TOPIC} has no value and cannot be put back: it is named,
so that you can fetch the record from its topic while that still has it, and then passed. One that is larger
than its own topic takes now (max.message.bytes was lowered) is named with its place and passed, too: no later run
comes back to it. Raise the limit first; a letter that was passed can still be copied by hand from its place.

Settings are those of the relay: REDPANDA_BROKERS, REDPANDA_SECURITY and what goes with it, REDPANDA_TIMEOUT_SECONDS.
Exit codes: 0 done; 1 Redpanda cannot be used; 2 wrong option or setting; 3 done, but some letters cannot be
put back; 130 or 143 interrupted by SIGINT or SIGTERM.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `redrive` takes."""
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        choices=tuple(ROUTES),
        metavar="TOPIC",
        help=f"only letters from it, may be repeated: {', '.join(ROUTES)}",
    )
    parser.add_argument(
        "--reason",
        action="append",
        default=[],
        choices=REASONS,
        metavar="REASON",
        help=f"only letters rejected for it, may be repeated: {', '.join(REASONS)}",
    )
    parser.add_argument("--dry-run", action="store_true", help="only count what is there, by topic and reason")


def redrive(kafka: KafkaSettings, options: argparse.Namespace) -> int:
    """Run it to its end; gives the exit code."""
    chosen = Chosen(frozenset(options.topic), frozenset(options.reason))
    return asyncio.run(_redrive(kafka, chosen, is_dry_run=options.dry_run))


async def _redrive(kafka: KafkaSettings, chosen: Chosen, *, is_dry_run: bool) -> int:
    signals: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def told_to_end(number: signal.Signals) -> None:
        signals.append(number)
        loop.remove_signal_handler(number)  # a second one ends it at once

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_end, number)
    screen = _Screen()
    run = Redrive(
        kafka,
        chosen,
        say=screen.say,
        show_progress=screen.show_progress,
        is_told_to_end=lambda: bool(signals),
        say_every_seconds=SAY_EVERY_SECONDS_ON_A_TERMINAL if screen.is_terminal else SAY_EVERY_SECONDS,
    )
    try:
        tally = await run.run(is_dry_run=is_dry_run)
    except BrokerUnavailable as error:
        screen.clear()
        sys.stderr.write(f"redrive: {error}; run it again, it goes on where this one was\n")
        return 1
    for line in tally.table(is_dry_run=is_dry_run):
        screen.say(line)
    if signals:
        screen.say("interrupted: run it again, it goes on from here")
        return 128 + signals[0]
    return 0 if tally.is_clean else SOME_CANNOT


class _Screen:
    """Lines that stay, and on a terminal a last one that is written over."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()

    def say(self, line: str) -> None:
        self.clear()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def show_progress(self, line: str) -> None:
        if self.is_terminal:
            self.clear()
            sys.stdout.write(line)
            sys.stdout.flush()
        else:
            self.say(line)

    def clear(self) -> None:
        if self.is_terminal:
            sys.stdout.write("\r\x1b[K")
