"""The engine: chunks of records in, one Kafka transaction out, exactly once.

engine        what one worker does: assignments come and go, cycles run, failures are recovered from
phases        which phases it has, which may follow which, and what belongs to each
config        the names and limits that an engine is given at its start
consumer      Faust's transport: gives whole record batches to the cycle; rebalances
takeover      what happens between an assignment and the first fold: settle, restore, place, seek
positions     what the state was built from, and what is missing
log_ends      waits for the end of a log that brokers do not show yet
hanging       finds and ends transactions that would stay open for ever
housekeeping  notices topics that were made anew, deletes records that are worked off
buffer        the records of one partition that wait to be folded
order         which of them is folded next
chunks        gives a chunk to a Faust agent and learns when it is folded
cycle         fold → produce → offsets → commit → only then the state changes
refused       replaces records that Kafka will never accept
state         the values of one partition number, and what a cycle changed of them
table_views   Faust's tables as views of the states, that nobody writes
outbox        sources whose work can't be folded (HTTP)
memory        the same folds without Kafka: replay, console, tests
types         the types that these modules share
fault_points  where the fault tests may kill or freeze a worker
"""
