"""The engine: batches in, one Kafka transaction out, exactly once.

engine        one worker's: assignments come and go, cycles run, failures are recovered from
consumer      Faust's transport: whole batches of each partition to the cycle, rebalances
fetching      whole record batches as lists, instead of an object for each record
takeover      what happens between an assignment and the first fold: settle, restore, seek
buffer        what waits to be folded
cycle         fold → produce → offsets → commit → only then the state changes
state         what is remembered of one partition, and what a cycle changed of it
outbox        sources whose work can't be folded (HTTP)
producer      the transaction, fenced by the consumer group's generation
protocol      the two Kafka requests that aiokafka 0.14 doesn't speak
types         what these hand to each other
fault_points  where the fault tests may kill or freeze a worker
"""
