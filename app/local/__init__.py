"""A whole installation on one machine: Kafka, Valkey, a worker and a simulated dialer."""

LEAST_CALLS = 10_000
"""With fewer the dialer may give no reason for some scenario: one customer needs 300 to be low on
money and to pay, another a hundred in a row that nobody answers, and there are twelve."""
