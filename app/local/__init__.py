"""A whole installation on one machine: Kafka, Valkey, a worker and a simulated dialer."""

LEAST_CALLS = 10_000
"""With fewer calls some scenarios might not occur: of twelve customers one needs 300 calls until
the balance is low and a recharge comes, and another a hundred unanswered calls in a row."""
