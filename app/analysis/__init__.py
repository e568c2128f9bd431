"""Asking histories: what a replay reads, folds, counts and shows. Writes nothing into Kafka.

In a notebook: `from app.analysis import replay`.
"""
