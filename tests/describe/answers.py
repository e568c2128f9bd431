"""Is what a web server answers in its description? Asked of each answer that tests get."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
WORKER = json.loads((ROOT / "app" / "web" / "openapi.json").read_text(encoding="utf-8"))
CONSOLE = json.loads((ROOT / "docs" / "openapi-console.json").read_text(encoding="utf-8"))


def check_described(
    said: dict[str, Any], method: str, path: str, status: int, content_type: str
) -> None:
    """Fail where a description doesn't have an answer of one of its operations."""
    for pattern, operations in said["paths"].items():
        form = re.sub(r"\\{\w+\\}", ".*", re.escape(pattern))
        if re.fullmatch(form, path.partition("?")[0], re.DOTALL) and method.lower() in operations:
            responses = operations[method.lower()]["responses"]
            assert str(status) in responses, (method, pattern, status)
            content = responses[str(status)].get("content", {content_type: None})
            assert content_type in content, (method, pattern, status, content_type)
            return
