"""The evaluation report: from an EvalReport to `report.md`, `report.html`, figures and JSON in a folder."""

from hf_cxr.report.write import ReportFolderError, write_report

__all__ = ["ReportFolderError", "write_report"]
