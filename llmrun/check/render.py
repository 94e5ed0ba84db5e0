"""The screen of `llmrun check`."""

from collections.abc import Sequence
from dataclasses import replace

from llmrun.check.report import CheckedProperty, CheckReport, Measured
from llmrun.text import counted, cut, format_bytes, format_duration
from llmrun.verify.render import ReportLine, labelled, verdict_line

TITLE_WIDTH = 36
_DETAILS_MAX = 8
_FROZEN_MAX = 3
_WORDS = {"yes": "yes", "no": "NO", "warning": "warning", "not_judged": "not judged"}


def lines_of_check(report: CheckReport) -> list[ReportLine]:
    """The whole screen, the verdict last."""
    return [
        *labelled("config", [report.config]),
        *labelled("executed", [_executed(report)]),
        *labelled("changed", report.changes),
        *labelled("data", [report.data or "random tokens"]),
        ReportLine(""),
        *_findings(report.findings),
        ReportLine(""),
        *labelled("measured", _measured(report.measured)),
        *labelled("time", [format_duration(report.wall_seconds)]),
        *labelled("kept", [report.kept] if report.kept else []),
        verdict_line(report.conclusion, "good" if report.first is None else "bad"),
    ]


def _executed(report: CheckReport) -> str:
    return (
        f"{counted(report.steps, 'step')} of {counted(report.micro_batches, 'micro-batch').replace('hs', 'hes')} of "
        f"{counted(report.tokens, 'token')} on {report.device}, for each way"
    )


def _findings(findings: Sequence[CheckedProperty]) -> list[ReportLine]:
    """The verdicts; a reason that is that of the line before is not repeated."""
    lines: list[ReportLine] = []
    before: tuple[str, ...] = ()
    for finding in findings:
        is_repeated = finding.outcome == "not_judged" and finding.details == before
        lines += _lines_of(replace(finding, details=()) if is_repeated else finding)
        before = finding.details
    return lines


def _lines_of(finding: CheckedProperty) -> list[ReportLine]:
    """The verdict of a property, and what was found below it."""
    head = f"{finding.title:<{TITLE_WIDTH}}{_WORDS[finding.outcome]}"
    if finding.outcome == "not_judged":
        return [ReportLine(": ".join([head, *finding.details[:1]]))]
    return [ReportLine(head), *(ReportLine(f"  {text}") for text in cut(finding.details, _DETAILS_MAX))]


def _measured(measured: Measured) -> list[str]:
    flops, stated = measured.flops_per_token, measured.stated_flops_per_token
    lines = []
    if flops is not None:
        of_model = "" if stated is None else f" (by the model's formula {stated:,})"
        lines.append(f"{flops:,} FLOPs per token by torch's counter{of_model}")
    if measured.peak_memory_bytes is not None:
        lines.append(f"{format_bytes(measured.peak_memory_bytes)} peak memory of one rank")
    if measured.frozen:
        names = ", ".join(cut(measured.frozen, _FROZEN_MAX))
        lines.append(f"{counted(len(measured.frozen), 'frozen parameter')}: {names}")
    return lines
