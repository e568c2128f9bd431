"""Kafka outside of the engine: administration of topics and groups, publishing single records."""
