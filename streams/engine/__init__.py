"""The engine: batches in, one Kafka transaction out, exactly once.

engine        one worker's: assignments come and go, cycles run, failures are recovered from
phases        which phases it has, which may follow which, and what belongs to each
config        what it is told at its start
consumer      Faust's transport: whole batches of each partition to the cycle, rebalances
takeover      what happens between an assignment and the first fold: settle, restore, place, seek
positions     what the state was built from, and what is missing
hanging       transactions that are open for ever are ended
housekeeping  topics that were made anew are noticed, what is done with is deleted
buffer        what waits to be folded
order         which of it is next
chunks        how a Faust agent is given a chunk, and says that it is folded
cycle         fold → produce → offsets → commit → only then the state changes
refused       what Kafka takes never is replaced
state         what is remembered of one partition, and what a cycle changed of it
table_views   Faust's tables as views of the states, that nobody writes
outbox        sources whose work can't be folded (HTTP)
memory        the same folds without Kafka: replay, console, tests
types         what these hand to each other
fault_points  where the fault tests may kill or freeze a worker
"""
