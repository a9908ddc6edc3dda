"""The soak: load and faults drawn from a seed, then the invariants and a report.

make soak MINUTES=30 SEED=7
"""

import argparse
import asyncio
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import SystemRandom
from typing import Final

import orjson
import uvloop

from httpqueue.clock import monotonic_s, now_ms, sleep
from tests.soak import picture
from tests.soak.events import Log
from tests.soak.faults import Faults
from tests.soak.invariants import by_timer, duplicates_in, lost, violations
from tests.soak.load import Load
from tests.soak.machine import describe
from tests.soak.plan import SERVERS, Plan, draw
from tests.soak.receivers import new_hooks, until_quiet
from tests.soak.recovery import LATE_MS, blame, deliveries, worst
from tests.soak.report import Verdict, page, summary
from tests.soak.stage import Stage
from tests.support.processes import REPOSITORY

REPORT: Final = REPOSITORY / "docs" / "reliability-report.md"
REPORT_MINUTES: Final = 30.0
"""Shorter runs are written to build/soak."""
BUILD: Final = REPOSITORY / "build" / "soak"
RATE: Final = 60
PATIENCE_S: Final = 60.0
"""Nobody calls for that long: what has not come by then is lost."""
GIVE_UP_S: Final = 300.0
"""Clients that have no answer so long after the load was to end never get one."""
QUIET_S: Final = 3.0
STALL_S: Final = 1.0
SAY_S: Final = 10.0


def say(text: str = "") -> None:
    """Progress on the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(plan: Plan, directory: Path) -> Log:
    """Play the plan -> what happened. Logs and data are in the directory."""
    log = Log()
    task = asyncio.current_task()
    assert task is not None
    # Nothing that was started may outlive a soak that is told to stop.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        stage = Stage(directory, log)
        hooks = new_hooks(stage, log)
        for hook in hooks.values():
            await stack.enter_async_context(hook)
        await stack.enter_async_context(stage)
        load = await stack.enter_async_context(Load(stage, hooks, log))
        watching = [asyncio.create_task(_watch_stalls(log)), asyncio.create_task(_tell(plan, log, load))]
        log.start_ms = now_ms()
        try:
            async with asyncio.timeout(plan.end_ms / 1000 + GIVE_UP_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(Faults(stage, hooks, log).play(plan.faults))
                tasks.create_task(load.play(plan.orders))
        except TimeoutError:
            log.findings.append(
                f"{load.in_flight} orders had no answer {GIVE_UP_S:.0f} s after the last fault"
            )
        await _until_all_came(log)
        log.end_ms = now_ms()
        for task in watching:
            task.cancel()
        await stage.end()
    log.struck.sort(key=lambda each: each.start_ms)
    return log


async def _until_all_came(log: Log) -> None:
    """All that must come has come, or nothing more does; and then nobody calls for a while."""
    seen, since_s = -1, monotonic_s()
    end_s = since_s + GIVE_UP_S
    while lost(log.timers, by_timer(log.calls)) and monotonic_s() < end_s:
        if len(log.calls) != seen:
            seen, since_s = len(log.calls), monotonic_s()
        elif monotonic_s() - since_s > PATIENCE_S:
            return
        await sleep(1.0)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await until_quiet(log, QUIET_S)


async def _watch_stalls(log: Log) -> None:
    while True:
        before_ms = now_ms()
        await sleep(STALL_S / 10)
        if now_ms() - before_ms > STALL_S * 1000:
            log.stalls.append((before_ms, now_ms()))


async def _tell(plan: Plan, log: Log, load: Load) -> None:
    while True:
        await sleep(SAY_S)
        say(
            f"{(now_ms() - log.start_ms) / 1000:5.0f} s of {plan.minutes * 60:.0f}: "
            f"{len(log.timers):,} timers, "
            f"{len(log.calls):,} webhooks, {len(log.struck)} faults, {load.in_flight} orders in progress, "
            f"{load.retries} requests repeated, {len(log.findings)} findings"
        )


def judge(plan: Plan, log: Log, machine: Sequence[tuple[str, str]]) -> Verdict:
    """What the log of a run shows."""
    duplicates = duplicates_in(log)
    delivered = deliveries(log)
    late = blame([each for each in delivered if each.late_ms > LATE_MS], log.struck)
    return Verdict(
        plan, log, violations(log, duplicates), duplicates, delivered, late, worst(late, log.struck), machine
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 when an invariant is broken."""
    parser = argparse.ArgumentParser(prog="soak.py", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of load (default 2)")
    parser.add_argument("--rate", type=int, default=RATE, help=f"timers posted a second (default {RATE})")
    parser.add_argument("--seed", type=int, help="of load and faults (default: a new one)")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"the report (default: docs/ from {REPORT_MINUTES:g} minutes on, else build/soak/)",
    )
    options = parser.parse_args(arguments)
    seed = SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    plan = draw(seed, minutes=options.minutes, rate=options.rate)
    directory = BUILD / f"seed-{seed}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    say(f"seed {seed}: {len(plan.orders):,} timers, {len(plan.faults)} faults in {plan.minutes:g} minutes")
    log = uvloop.run(run(plan, directory))
    verdict = judge(plan, log, describe())
    output = options.output or (REPORT if plan.minutes >= REPORT_MINUTES else BUILD / "reliability-report.md")
    drawn = output.with_suffix("") / "lateness.svg"
    picture.draw(log, verdict.deliveries, drawn)
    output.write_text(page(verdict, f"{output.stem}/{drawn.name}"), encoding="utf-8")
    say(f"\n{summary(verdict)}\n\nwritten: {output}")
    (directory / "log.json").write_bytes(orjson.dumps(log))
    if verdict.violations:
        say(
            f"BROKEN. What happened, logs and data are in {directory}. To repeat: "
            f"make soak SEED={seed} MINUTES={plan.minutes:g} RATE={plan.rate}"
        )
        return 1
    for server in SERVERS:
        shutil.rmtree(directory / server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
