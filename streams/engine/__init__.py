"""The engine: batches in, one Kafka transaction out, exactly once.

consumer   Faust's transport: whole batches of each partition to the cycle, rebalances
takeover   what happens between an assignment and the first fold: settle, restore, seek
buffer     what waits to be folded
cycle      fold → produce → offsets → commit → only then the state changes
state      what is remembered of one partition, and what a cycle changed of it
outbox     sources whose work can't be folded (HTTP)
producer   the transaction, fenced by the consumer group's generation
protocol   the two Kafka requests that aiokafka 0.14 doesn't speak
"""
