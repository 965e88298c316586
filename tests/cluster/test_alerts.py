"""The alert rules, by Prometheus' own tool: each fires on what it is about, and none on a run that
is well. That they can be evaluated on a real run is in tests/integration/test_monitoring.py."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "cluster/monitoring"
RULES = MONITORING / "alerts.yml"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="needs `promtool` on the PATH (apt-get install prometheus)",
)

HEALTHY = {
    'ray_tempo_videos_left{run="r"}': "6000-10x120",
    'ray_tempo_videos_total{outcome="kept"}': "0+10x120",
    'ray_tempo_videos_total{outcome="failed"}': "0+0.1x120",
    'ray_tempo_engine_starts_total{run="r"}': "2x120",
    'ray_tempo_engine_gpus{WorkerId="a"}': "1x120",
    'ray_tempo_engine_gpus{WorkerId="b"}': "1x120",
    'ray_tempo_engine_busy_seconds_total{WorkerId="a"}': "0+58x120",
    'ray_tempo_engine_busy_seconds_total{WorkerId="b"}': "0+58x120",
    'ray_tempo_train_step{stage="s"}': "0+1x120",
    'ray_tempo_train_chosen_logratio_per_token{stage="s"}': "-0.1x120",
    'ray_tempo_train_skipped_share{stage="s"}': "0.01x120",
    'ray_tempo_train_seconds{stage="s"}': "10x120",
    'ray_tempo_train_data_seconds{stage="s"}': "0.1x120",
    'ray_tempo_requests_total{status="200"}': "0+600x120",
    'ray_tempo_requests_total{status="500"}': "0x120",
    'ray_tempo_request_seconds_bucket{le="10"}': "0+600x120",
    'ray_tempo_request_seconds_bucket{le="120"}': "0+600x120",
    'ray_tempo_request_seconds_bucket{le="+Inf"}': "0+600x120",
    "autoscaler_failed_create_nodes_total": "0x120",
    'ray_node_mem_used{instance="n"}': "50x120",
    'ray_node_mem_total{instance="n"}': "100x120",
}
"""Series of a run that is well, a value a minute."""

FIRING = {
    "PairsStalled": {'ray_tempo_videos_left{run="r"}': "60x120"},
    "VideosFail": {'ray_tempo_videos_total{outcome="failed"}': "0+1x120"},
    "EnginesRestart": {'ray_tempo_engine_starts_total{run="r"}': "2+1x120"},
    "EnginesIdle": {'ray_tempo_engine_busy_seconds_total{WorkerId="a"}': "0+1x120"},
    "TrainingStalled": {'ray_tempo_train_step{stage="s"}': "7x120"},
    "TrainingNearHealthLimit": {'ray_tempo_train_skipped_share{stage="s"}': "0.15x120"},
    "TrainingWaitsForData": {'ray_tempo_train_data_seconds{stage="s"}': "3x120"},
    "RequestsFail": {'ray_tempo_requests_total{status="500"}': "0+60x120"},
    "RequestsSlow": {'ray_tempo_request_seconds_bucket{le="10"}': "0x120"},
    "NodesDoNotCome": {"autoscaler_failed_create_nodes_total": "0+1x120"},
    "NodeMemoryShort": {'ray_node_mem_used{instance="n"}': "97x120"},
}
"""Alert -> the series that make it fire."""


def alerts() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def check(folder: Path, series: dict[str, str], firing: str | None) -> str:
    """What promtool has against it: that after 100 minutes of the series, of all alerts, that one
    fires."""
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": of} for name, of in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "100m",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1}
                            for name in ([firing] if firing else [])
                        ],
                    }
                ],
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_are_valid_and_each_has_a_case() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(alerts()) == set(FIRING)


def test_no_alert_fires_on_a_run_that_is_well(tmp_path: Path) -> None:
    assert not check(tmp_path, HEALTHY, None)


@pytest.mark.parametrize("name", FIRING)
def test_an_alert_fires_on_what_it_is_about(name: str, tmp_path: Path) -> None:
    series: dict[str, Any] = HEALTHY | FIRING[name]
    assert not check(tmp_path, series, name)


def test_a_typo_in_a_rule_would_be_found(tmp_path: Path) -> None:
    broken = tmp_path / "alerts.yml"
    broken.write_text(RULES.read_text().replace("changes(", "chnges("))
    done = subprocess.run(["promtool", "check", "rules", str(broken)], capture_output=True)
    assert done.returncode != 0
