"""WeChat's official account: sending, access token, callback, error codes."""
