"""The console: one web server for the whole installation, and the index that it reads.

The index is a copy of what is in Kafka: it may be deleted at any time, and is built again.
"""
