"""x"""

from app.analysis.run import Run
from app.analysis.summary import Summary


def report_of(run: Run, counts: Summary) -> str:
    return ""
