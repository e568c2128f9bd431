"""A message on a phone reads as the template's own text, filled in."""

import httpx
from aiohttp.test_utils import TestServer

from app.sandbox.control import with_control_plane
from app.sandbox.server import APP_ID, APP_SECRET, TEMPLATE_ID, Sandbox
from app.sandbox.templates import PLATFORM_TEMPLATE, filled

DATA = {
    "first": "你好！",
    "keyword1": "云帆<b>",
    "keyword2": "任务完成",
    "keyword3": "您的外呼任务已完成哦！请登录系统查看外呼结果",
    "keyword4": "2019-01-30 15:52:10",
    "remark": "通知结束",
}
READS = """你好！
客户名称：云帆<b>
客服类型：任务完成
提醒内容：您的外呼任务已完成哦！请登录系统查看外呼结果
通知时间：2019-01-30 15:52:10
通知结束"""


def test_the_platform_s_template_is_filled_in_field_by_field() -> None:
    assert filled(PLATFORM_TEMPLATE, DATA) == READS
    # What a customer is called fills nothing in.
    assert filled("{{a.DATA}} {{b.DATA}}", {"a": "{{b.DATA}}", "b": "2", "c": "3"}) == (
        "{{b.DATA}} 2"
    )
    assert filled("x{{a.DATA}}y", {}) == "xy"


async def test_the_phones_show_each_template_s_text_and_wechat_tells_it() -> None:
    server = TestServer(with_control_plane(Sandbox()))
    async with (
        server,
        httpx.AsyncClient(base_url=str(server.make_url("/")), trust_env=False) as web,
    ):
        said = {"grant_type": "client_credential", "appid": APP_ID, "secret": APP_SECRET}
        token = (await web.post("/cgi-bin/stable_token", json=said)).json()["access_token"]
        short = {"fields": ["thing1"], "text": "事项：{{thing1.DATA}}。"}
        for template_id, body in (("T2", short), ("T3", {"fields": ["thing1", "time2"]})):
            await web.put(f"/__sandbox/templates/{template_id}", json=body)
        for template_id, data in (
            (TEMPLATE_ID, DATA),
            ("T2", {"thing1": "余额不足"}),
            ("T3", {"thing1": "余额不足", "time2": "9:00"}),
        ):
            sent = await web.post(
                f"/cgi-bin/message/template/send?access_token={token}",
                json={
                    "touser": "o-someone",
                    "template_id": template_id,
                    "data": {name: {"value": value} for name, value in data.items()},
                },
            )
            assert sent.json()["errcode"] == 0
        messages = (await web.get("/__sandbox/messages")).json()["wechat"]
        assert [one["text"] for one in messages] == [READS, "事项：余额不足。", "余额不足\n9:00"]
        listed = await web.get(f"/cgi-bin/template/get_all_private_template?access_token={token}")
        contents = {one["template_id"]: one["content"] for one in listed.json()["template_list"]}
        assert contents[TEMPLATE_ID] == PLATFORM_TEMPLATE
        assert contents["T2"] == short["text"]
