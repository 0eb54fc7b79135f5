"""Silence: who is asked, who is lost, and when it was us who slept."""

from shell_runner.hosts.heartbeat import Pulse, Sign, backoff


def watch(pulse: Pulse, begin: float, end: float, heard: float) -> list[tuple[float, Sign]]:
    """All looks with another result than "fine"."""
    found, now = [], begin
    while now <= end:
        sign = pulse.look(now, heard)
        if sign is not Sign.FINE:
            found.append((round(now, 3), sign))
        now += pulse.interval
    return found


def test_a_silent_host_is_asked_each_quarter_and_lost_at_the_limit() -> None:
    found = watch(Pulse(10.0, 100.0), 100.0, 110.0, heard=100.0)
    assert found == [
        (102.5, Sign.ASK), (105.0, Sign.ASK), (107.5, Sign.ASK), (110.0, Sign.LOST),
    ]  # fmt: skip


def test_whatever_it_says_starts_the_count_anew() -> None:
    pulse = Pulse(10.0, 0.0)
    watch(pulse, 0.0, 9.5, heard=0.0)
    assert watch(pulse, 10.0, 12.0, heard=9.9) == []
    assert watch(pulse, 12.5, 19.5, heard=9.9)[-1][1] is Sign.ASK
    assert pulse.look(20.0, heard=9.9) is Sign.LOST


def test_our_own_sleep_is_not_the_hosts_silence() -> None:
    pulse = Pulse(10.0, 0.0)
    assert pulse.look(1.0, heard=1.0) is Sign.FINE
    assert pulse.look(3600.0, heard=1.0) is not Sign.LOST
    assert watch(pulse, 3600.5, 3609.5, heard=1.0)[-1][1] is Sign.ASK
    assert pulse.look(3610.0, heard=1.0) is Sign.LOST


def test_a_host_that_has_not_begun_to_speak_has_longer() -> None:
    pulse = Pulse(1.0, 0.0)
    for tenth in range(1, 300):
        assert pulse.look(tenth / 10, heard=0.0, limit=30.0) is not Sign.LOST
    assert pulse.look(30.0, heard=0.0, limit=30.0) is Sign.LOST


def test_attempts_become_rarer_up_to_a_bound() -> None:
    assert [backoff(number) for number in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(10**9) == 30
