"""The rules' parameters, as the operator set them: lengths, windows, times of day."""

from dataclasses import dataclass
from datetime import time, tzinfo

from streams.times import DAY, HOUR, local_datetime

_LATEST_CALL = 366 * DAY


@dataclass(frozen=True)
class Rules:
    """See the contract's settings of the same names."""

    zone: tzinfo
    run_length: int = 100
    run_window_hours: float = 24
    reminder_time: time = time(9)
    expiry_notice_days: int = 7
    batch_retention_days: float = 7

    @property
    def run_window(self) -> int:
        """In microseconds."""
        return int(self.run_window_hours * HOUR)

    @property
    def batch_retention(self) -> int:
        """In microseconds."""
        return int(self.batch_retention_days * DAY)

    @property
    def run_retention(self) -> int:
        """How long a run without a further call is remembered, by ticks, in microseconds. Ticks end
        no run; this is so far beyond the window that no call is late enough to go on with it."""
        return self.run_window + _LATEST_CALL

    def local_day(self, instant: int) -> int:
        """Return the local calendar day of an instant, as a number."""
        return local_datetime(instant, self.zone).toordinal()

    def is_reminding(self, instant: int) -> bool:
        """Is an instant at or after the reminder time of its local day?

        Where the clocks are put forward over the reminder time, it counts from the hour after.
        """
        return local_datetime(instant, self.zone).time() >= self.reminder_time
