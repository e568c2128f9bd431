"""Alert rules and dashboard: valid, tested on recorded series, made of metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.installation import Installation

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
# Of prometheus-client itself, and of what scrapes.
FOREIGN = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def expressions() -> list[str]:
    panels = [target["expr"] for one in DASHBOARD["panels"] for target in one.get("targets", ())]
    return panels + [rule["expr"] for rule in RULES]


def used() -> set[str]:
    return {
        name
        for one in expressions()
        for name in re.findall(r"\b(?:dialwatch|process)_[a-z_]+", one)
    }


def promtool(*arguments: str | Path, **given: Any) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    assert found, "promtool is missing: apt-get install prometheus (.ci/run does)"
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False, **given)


@pytest.mark.promtool
def test_the_rules_are_valid_and_fire_when_they_must_and_only_then() -> None:
    checked = promtool("check", "rules", FOLDER / "alerts.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", FOLDER / "alerts.test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    text = (FOLDER / "alerts.test.yaml").read_text()
    for rule in RULES:
        fired = re.search(rf"alertname: {rule['alert']}\n\s+exp_alerts:\n\s+- exp_labels", text)
        assert fired, f"nothing shows that {rule['alert']} fires"


def test_each_alert_has_a_runbook_section_that_it_names() -> None:
    for rule in RULES:
        assert f"\n## {rule['alert']}\n" in RUNBOOK
        anchor = f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == anchor
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_panels_have_titles_places_and_ids_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels]
    assert len(set(places)) == len(places)
    assert all(one["title"] for one in panels)


@pytest.mark.broker
@pytest.mark.promtool
def test_what_a_worker_exposes_is_clean_and_holds_every_metric_that_is_used(
    installation: Installation,
) -> None:
    worker = installation.worker()
    exposed = worker.get("/metrics")[1]
    checked = promtool("check", "metrics", input=exposed)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert "_created" not in exposed
    names = set(re.findall(r"^([a-z_]+)[{ ]", exposed, re.MULTILINE))
    missing = used() - names - FOREIGN
    # Its labels are topics and partitions, and come with the first look at the logs.
    assert missing <= {"dialwatch_lag_records", "dialwatch_behind_seconds", "dialwatch_holds"}
    families = set(re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE))
    assert missing <= families
    assert names >= FOREIGN
    # What the alerts count is there with 0: a series that is born with a burst lets none fire.
    accounts = installation.topics.accounts
    for one in (
        'dialwatch_deliveries_total{channel="sms",reason="422",status="failed"} 0.0',
        'dialwatch_deliveries_total{channel="wechat",reason="43101",status="failed"} 0.0',
        'dialwatch_deliveries_total{channel="wechat",reason="other",status="failed"} 0.0',
        f'dialwatch_dead_letters_total{{reason="expires_at",topic="{accounts}"}} 0.0',
    ):
        assert one in exposed
    # Each series costs Prometheus something for ever, and the worker at each look.
    assert exposed.count("\n") < 650
    assert "dialwatch_ready 1.0" in exposed
