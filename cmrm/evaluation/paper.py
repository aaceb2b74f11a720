"""The paper's own table beside what was measured here."""

from .report import Report

# Liu et al., arXiv 2410.09047: unsafe rate of LLaVA-1.5-7B on VLSafe, in percent, judged by Llama-3-8B-Instruct, and
# its score on LLaVA-Bench-COCO before and after. Which CMRM row is which is inferred from the text.
PUBLISHED: tuple[tuple[str, str, float | None], ...] = (
    ("original image", "unsteered", 61.53),
    ("caption + query, no image", "caption + query", 5.52),
    ("query only", "text only", 1.91),
    ("CMRM, dataset-level", "dataset-level", 5.41),
    ("CMRM, sample-level", "sample-level", 3.15),
)
UTILITY = (("LLaVA-Bench-COCO score, unsteered", 79.20), ("LLaVA-Bench-COCO score, CMRM", 82.90))


def paper_table(report: Report) -> str:
    """Return the Markdown table: unsafe rate (complied, percent) as published and as measured, or an empty cell."""
    model, data = report.settings["model"]["model"], report.settings["data"]
    lines = [f"| LLaVA-1.5-7B on VLSafe | published | measured: {model} on {data} |", "|---|---|---|"]
    for title, row, published in PUBLISHED:
        cell = report.figures.get(row, {}).get("harmful complied")
        lines.append(f"| {title}, unsafe rate | {published} | {cell or ''} |")
    lines += [f"| {title} | {score:.2f} | |" for title, score in UTILITY]
    spent = ""
    if cost := report.settings.get("cost"):
        peak = cost["gpu_memory"]
        memory = f"{peak / 2**30:.1f} GiB of GPU memory at its peak" if peak else "no GPU"
        spent = f" This run took {cost['hours']:.2f} hours and {memory}."
    note = f"Published: judged by Llama-3-8B-Instruct. Measured: judged by {report.judge}.{spent}"
    return "\n".join([*lines, "", note])
