"""A command that WeChat refused is sent again by its letter, through a real worker, once."""

import json

import pytest

from app.operations.explain import explain_account
from app.operations.installation import open_installation
from app.operations.letters import LetterFilter, find_letters
from app.sandbox.run import running_sandbox
from tests.installation import Installation
from tests.operations.letters import actions, bury, letter, order, records_of
from tests.samples import account, call

pytestmark = pytest.mark.broker


async def test_a_command_given_up_is_sent_by_its_redrive_once_and_never_after(
    installation: Installation,
) -> None:
    with running_sandbox() as (sandbox, environment):
        sandbox.wechat.blocked_words.add("任务完成")  # 40249: given up
        await installation.publish([account("acme")])
        installation.worker(**environment)
        await installation.publish([call("acme", 0, batch_size=1, result="E")])
        ends = await installation.wait_for(
            "deliveries", lambda found: any(one["status"] == "failed" for one in found)
        )
        (failed,) = [one for one in ends if one["status"] == "failed"]
        async with open_installation(installation.settings()) as connected:
            (row,) = await find_letters(connected, LetterFilter())
            explained = await explain_account(connected, "acme")
        assert row["reason"].startswith("40249:")
        assert row["topic"] == installation.topics.notifications
        (said,) = [one for one in explained or [] if one["scenario"] == "batch_completed"]
        assert any("was given up" in sentence for sentence in said["because"])

        sandbox.wechat.blocked_words.clear()
        assert actions(await order(installation, execute=True)) == {row["letter"]: "redrive"}
        await installation.wait_for(
            "deliveries",
            lambda found: any(
                (one["notification_id"], one["status"]) == (failed["notification_id"], "sent")
                for one in found
            ),
        )
        commands = [
            one
            for one in await records_of(installation, "notifications")
            if json.loads(one.value)["notification_id"] == failed["notification_id"]
        ]
        assert len(commands) == 2
        first, again = commands
        assert again.value == first.value
        assert list(again.headers) == [*first.headers, ("dialwatch.attempts", b"1")]
        assert (
            dict(again.headers)["dialwatch.cause"]
            .decode()
            .startswith(f"{installation.topics.calls}/")
        )
        assert [one.openid for one in sandbox.wechat.messages] == ["openid_acme"]
        assert "客服类型：任务完成" in sandbox.wechat.messages[0].text

        # Whatever letter of it turns up, it was sent.
        (late,) = await bury(
            installation, letter(installation.topics.notifications, first.key, first.value)
        )
        done = await order(installation, late, execute=True, force=True)
        assert actions(done) == {late: "refused"}
