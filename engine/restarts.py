"""The restart manager: whether an exited container is started again, and after which delay. Pure.

Rules and figures are moby's `restartmanager`: 100 ms, doubled at each restart, at most 60 s, back to 100 ms after a run
of 10 s or more. Delays and durations are in seconds.
"""

from __future__ import annotations

from pystack.model.container import RestartPolicy

SIGKILL = 9
FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STABLE_AFTER = 10.0


class RestartManager:
    """Back-off of one container. The count of restarts is the record's; the policy is asked each time: it may change."""

    __slots__ = ("_delay",)

    def __init__(self) -> None:
        self._delay = 0.0

    def reset(self) -> None:
        """A user started or stopped the container: begin anew."""
        self._delay = 0.0

    def decide(
        self,
        policy: RestartPolicy,
        *,
        exit_code: int,
        manually_stopped: bool,
        restarts: int,
        ran_for: float,
        cancelled: bool = False,
    ) -> float | None:
        """Delay until the next start, or None to leave it exited.

        `cancelled`: a stop, or a kill that meant one. `manually_stopped`: any signal was sent by hand, which is enough
        for `unless-stopped`.
        """
        if ran_for >= STABLE_AFTER:
            self._delay = 0.0
        if cancelled or not wanted(
            policy, exit_code=exit_code, restarts=restarts, manually_stopped=manually_stopped
        ):
            return None
        self._delay = min(self._delay * 2, LONGEST_DELAY) if self._delay else FIRST_DELAY
        return self._delay


def wanted(policy: RestartPolicy, *, exit_code: int, restarts: int, manually_stopped: bool) -> bool:
    """Whether the policy restarts after this exit."""
    if policy.name == "on-failure":
        limit = policy.maximum_retry_count
        return exit_code != 0 and (not limit or restarts < limit)
    return policy.name == "always" or (policy.name == "unless-stopped" and not manually_stopped)


def cancels(stop_signal: int | None, number: int) -> bool:
    """Whether a signal sent by `kill` ends the restarts: SIGKILL, the container's own stop signal, or, if it has none, any."""
    return number == SIGKILL or stop_signal in {None, number}


def wanted_at_boot(
    policy: RestartPolicy, *, manually_stopped: bool, exit_code: int, was_running: bool
) -> bool:
    """Whether a container that is not running is started when the engine starts.

    `always` comes up even when it was stopped by hand, `unless-stopped` only when it was not; `on-failure` and the
    rest only when the host took the container down with itself.
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not manually_stopped
    return policy.name == "on-failure" and was_running and exit_code != 0 and not manually_stopped
