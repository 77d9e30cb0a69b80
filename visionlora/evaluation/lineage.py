"""Whether the models of a report belong together: what a file says it was made from, against the files beside it."""

from __future__ import annotations

from visionlora.evaluation.report import Report

_KINDS = {"adapter": "adapter", "checkpoint": "merged", "onnx": "onnx"}
"""The kind of the file that stands behind a parent's role."""


def lineage_warnings(report: Report) -> list[str]:
    """Return a sentence for each model that was made from another file than the one of that kind in the report.

    A stage that was made before its parent was made anew is judged with a stranger; the scores alone do not tell.
    """
    sentences = []
    for row in report.rows:
        for role, sha256 in row.parents.items():
            kin = [other for other in report.rows if other.kind == _KINDS.get(role) and other is not row]
            if kin and all(other.sha256 != sha256 for other in kin):
                those = ", ".join(f"`{other.label}` ({other.sha256[:12]})" for other in kin)
                sentences.append(f"`{row.label}` was made from another {role} ({sha256[:12]}) than {those}.")
    return sentences
