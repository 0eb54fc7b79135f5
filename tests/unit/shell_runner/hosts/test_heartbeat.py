"""Tests of the silence of hosts: when they are pinged or lost, and pauses of the controller."""

from shell_runner.hosts.heartbeat import HostHealth, SilenceMonitor, backoff


def watch(
    monitor: SilenceMonitor, begin: float, end: float, last_heard: float
) -> list[tuple[float, HostHealth]]:
    """Return the time and result of each check from ``begin`` to ``end`` that is not ALIVE."""
    checks, now = [], begin
    while now <= end:
        health = monitor.check(now, last_heard)
        if health is not HostHealth.ALIVE:
            checks.append((round(now, 3), health))
        now += monitor.interval
    return checks


def test_a_silent_host_is_asked_each_quarter_and_lost_at_the_limit() -> None:
    checks = watch(SilenceMonitor(10.0, 100.0), 100.0, 110.0, last_heard=100.0)
    assert checks == [
        (102.5, HostHealth.PING_DUE), (105.0, HostHealth.PING_DUE),
        (107.5, HostHealth.PING_DUE), (110.0, HostHealth.LOST),
    ]  # fmt: skip


def test_whatever_it_says_starts_the_count_anew() -> None:
    monitor = SilenceMonitor(10.0, 0.0)
    watch(monitor, 0.0, 9.5, last_heard=0.0)
    assert watch(monitor, 10.0, 12.0, last_heard=9.9) == []
    assert watch(monitor, 12.5, 19.5, last_heard=9.9)[-1][1] is HostHealth.PING_DUE
    assert monitor.check(20.0, last_heard=9.9) is HostHealth.LOST


def test_our_own_sleep_is_not_the_hosts_silence() -> None:
    monitor = SilenceMonitor(10.0, 0.0)
    assert monitor.check(1.0, last_heard=1.0) is HostHealth.ALIVE
    assert monitor.check(3600.0, last_heard=1.0) is not HostHealth.LOST
    assert watch(monitor, 3600.5, 3609.5, last_heard=1.0)[-1][1] is HostHealth.PING_DUE
    assert monitor.check(3610.0, last_heard=1.0) is HostHealth.LOST


def test_a_host_that_has_not_begun_to_speak_has_longer() -> None:
    monitor = SilenceMonitor(1.0, 0.0)
    for tenth in range(1, 300):
        assert monitor.check(tenth / 10, last_heard=0.0, limit=30.0) is not HostHealth.LOST
    assert monitor.check(30.0, last_heard=0.0, limit=30.0) is HostHealth.LOST


def test_attempts_become_rarer_up_to_a_bound() -> None:
    assert [backoff(number) for number in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(10**9) == 30
