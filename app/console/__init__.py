"""The console: one web server for the whole installation, and the index that it reads.

Kafka stays the truth: the index may be deleted at any time and is built again.
"""
