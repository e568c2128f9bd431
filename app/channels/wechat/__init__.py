"""WeChat's official account: sending, its token, its callback, its codes."""
