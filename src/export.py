"""Export a run's model for use elsewhere, and compare the file in a fresh process with the run.

    python -m src.export RUN [--format onnx|pt2|torchscript] [--int8]

The file takes raw input, as the task does, and returns `probability` for classes or `value` in the
target's unit; of a module without Kindling's `outputs`, the plain `forward` is exported.
"""

from __future__ import annotations

from typing import Any

from src.kindling.config.command import Parser, run_command
from src.kindling.deploy.export import export
from src.kindling.deploy.export_files import WRITERS
from src.kindling.runs.files import shown


def main(argv: list[str]) -> dict[str, dict[str, Any]]:
    parser = Parser(
        "export",
        "RUN [--format onnx|pt2|torchscript] [--int8]",
        "Export a run's best checkpoint, and prove that the file answers as the run does.",
    )
    parser.add_argument(
        "run", metavar="RUN", help="a folder in logs/, a .ckpt file, 'latest' or '<config>/latest'"
    )
    parser.add_argument(
        "--format", choices=tuple(WRITERS), default="onnx", help="onnx when left out"
    )
    parser.add_argument(
        "--int8", action="store_true", help="a second ONNX file that computes with 8 bits"
    )
    flags = parser.read(argv)
    from src.kindling.training.trained_run import load_run

    run = load_run(flags.run)

    from src.kindling.config import instantiate

    instantiate.check(run.config, trained=True)
    reports = export(run, flags.format, flags.int8)
    if flags.format == "torchscript":
        print("torchscript is deprecated: PyTorch develops it no further; pt2 takes its place")
    for report in reports.values():
        print_report(report)
    print(f"saved      {shown(run.path / 'export')}")
    if (run.path / "report.html").exists():
        from src.kindling.analysis import report as page

        page.report(run)  # which shows them
    return reports


def print_report(report: dict[str, Any]) -> None:
    """Print a file's size, its difference from the run, and its speed."""
    shape = ", ".join(map(str, report["input"]["shape"]))
    agreement, speed = report["agreement"], report["milliseconds"].items()
    agree = "" if agreement is None else f", {agreement:.0%} of the classes agree"
    print(
        f"{report['file']}: {report['bytes'] / 1000:,.0f} kB, {report['input']['type']} ({shape}) "
        f"to {report['output']['name']}\n"
        f"  proved   {report['samples']} samples: at most {report['difference']:.1e} from the "
        f"run's answers{agree}\n"
        "  speed    " + ", ".join(f"{ms:.2f} ms for {size}" for size, ms in speed)
    )
    if "metric" in report:
        print(
            f"  int8     {report['metric']} {report['after']:.4f}, before {report['before']:.4f}; "
            f"{report['bytes'] / 1000:,.0f} kB, before {report['bytes_before'] / 1000:,.0f} kB"
        )


if __name__ == "__main__":
    run_command(main)
