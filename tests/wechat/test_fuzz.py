"""The short form of `make fuzz`."""

from tests.wechat.fuzz import fuzz


def test_twenty_thousand_bodies_are_heard_or_refused_and_every_way_to_end_is_met() -> None:
    seen = fuzz(20_000, seed=7)
    assert sum(seen.values()) == 20_000
    assert seen["heard: an event"] > 1000
    for reason in (
        "the timestamp is more than 300 s off",
        "the XML has a document type or an entity",
        "the body is no XML",
        "the body is no JSON in UTF-8",
        "the msg_signature is wrong",
        "Encrypt is no Base64",
        "Encrypt has no whole blocks",
        "Encrypt has a wrong padding",
        "Encrypt is for another appid",
        "CreateTime is no time",
    ):
        assert seen[reason] > 0, reason
