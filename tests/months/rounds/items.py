"""What a few seconds show: builders' own tests, on a Kafka whose long constants are short.

A row is a round: what it is about, and the tests that pytest runs for it.
"""

TESTS = {
    "transactions-left-open": ["tests/engine/test_hanging.py"],
    "members-without-work": ["tests/engine/test_membership.py"],
    "topics-that-lose-nothing": ["tests/engine/test_own_topics.py"],
    "what-is-missing-is-said": ["tests/engine/test_going_on.py"],
    "token-endpoint-in-trouble": ["tests/send/test_token.py"],
    "what-waits-ends": ["tests/send/test_send.py", "tests/send/test_shared_channel.py"],
    "months-of-ticks": ["tests/test_histories.py", "tests/rules/test_noticing.py"],
    "left-by-0-1-0": ["tests/upgrades"],
    "other-peoples-environments": ["tests/cli/test_environment.py", "tests/send/test_way_out.py"],
    "web-server-filled-up": ["tests/web/test_listener.py", "tests/web/test_access.py"],
    "broker-away": ["tests/cli/test_away.py"],
    "rights-that-lack": ["tests/cli/test_rights.py"],
    "paths-and-terminals": ["tests/cli/test_data_directory.py", "tests/local/test_services.py"],
    "redis-of-all-kinds": ["tests/send/test_redis.py", "tests/send/test_ledger.py"],
    "records-no-broker-takes": ["tests/engine/test_refused.py", "tests/engine/test_producer.py"],
    "one-input-too-much": ["tests/rules/test_limits.py", "tests/engine/test_cycle.py"],
    "asked-to-send-while-kafka-is-away": ["tests/wechat/test_sending.py"],
    "deployed-as-written": ["tests/deploy", "tests/test_image.py"],
    "callbacks-of-all-kinds": ["tests/wechat/test_callback.py"],
}
