"""The rules' numbers as the settings say them."""

from agents.rules import Rules
from app.settings import Settings


def rules_of(settings: Settings) -> Rules:
    """Return the numbers that the rules are played by."""
    return Rules(
        zone=settings.zone,
        run_length=settings.run_length,
        run_window_hours=settings.run_window_hours,
        reminder_time=settings.reminder_time,
        expiry_notice_days=settings.expiry_notice_days,
        batch_retention_days=settings.batch_retention_days,
    )
