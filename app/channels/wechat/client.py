"""The two requests to WeChat's API that the sender makes."""

import httpx
import msgspec

from app.http import Answer, NoAnswer, post

CHANNEL = "wechat"


class WechatClient:
    """One official account at one base URL. Answers are values; see `app/http.py`."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, app_id: str, secret: str) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self.app_id = app_id
        self._secret = secret

    @property
    def is_configured(self) -> bool:
        """Do the settings name an official account?"""
        return bool(self.app_id and self._secret)

    async def get_token(self, *, force_refresh: bool) -> Answer | NoAnswer:
        """Ask for the stable token: it stays the same while it is valid, unless forced."""
        request = {
            "grant_type": "client_credential",
            "appid": self.app_id,
            "secret": self._secret,
            "force_refresh": force_refresh,
        }
        return await post(
            self._http,
            f"{CHANNEL}-token",
            f"{self._base_url}/cgi-bin/stable_token",
            msgspec.json.encode(request),
            secrets=(self._secret,),
        )

    async def send_template(self, token: str, body: bytes) -> Answer | NoAnswer:
        """Send one template message."""
        return await post(
            self._http,
            CHANNEL,
            f"{self._base_url}/cgi-bin/message/template/send",
            body,
            params={"access_token": token},
            secrets=(token, self._secret),
        )
