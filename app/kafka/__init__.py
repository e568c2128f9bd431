"""Kafka from the outside: topics and groups looked at and made, single records published."""
