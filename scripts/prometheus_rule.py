"""deploy/kubernetes/base/alerts.yaml, made from deploy/alerts.yml: the same rules, for the Prometheus operator.

python -m scripts.prometheus_rule            write it
python -m scripts.prometheus_rule --check    say whether it is fresh
"""

import sys
import textwrap
from pathlib import Path

from scripts.made import write_or_check

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "alerts.yml"
FILE = ROOT / "deploy" / "kubernetes" / "base" / "alerts.yaml"
_HEAD = """\
# The rules of deploy/alerts.yml, for the Prometheus operator: made by `python -m scripts.prometheus_rule`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: notification
spec:
"""


def render(rules: str) -> str:
    """The resource with these rules, a rule file's text: its comments stay."""
    return _HEAD + textwrap.indent(rules, "  ")


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    complaint = f"{FILE.relative_to(ROOT)} is not fresh: python -m scripts.prometheus_rule"
    write_or_check(FILE, render(RULES.read_text()), arguments, complaint)


if __name__ == "__main__":
    main(sys.argv[1:])
